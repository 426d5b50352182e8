"""Published facts about Enformer that no contract test and no golden covers."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import chargaff.nn.conv_rows
import chargaff.nn.relative_attention
from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.families.enformer.config import EnformerConfig
from chargaff.families.enformer.model import AttentionPool
from chargaff.families.enformer.positions import position_features
from chargaff.hub.catalog import get_checkpoint
from chargaff.hub.describe import describe
from chargaff.hub.files import LocalFiles
from chargaff.hub.load import create, from_tensors, load
from chargaff.hub.save import export, stored_tensors
from chargaff.nn.encoded import Encoded
from chargaff.nn.transformer_tower import centre, exponential_widths
from chargaff.seq.grid import Grid
from chargaff.tokenizers.char import CharTokenizer

TINY = {
    "dim": 24,
    "depth": 2,
    "heads": 2,
    "attn_dim_key": 7,
    "output_heads": {"human": 5, "mouse": 3},
    "target_length": 4,
    "num_downsamples": 3,
    "dim_divisible_by": 8,
}


def bases(batch: int, length: int) -> torch.Tensor:
    return torch.randint(2, 6, (batch, length), generator=torch.Generator().manual_seed(1))


def test_widths_of_the_tower():
    assert exponential_widths(768, 1536, 6, 128) == [768, 896, 1024, 1152, 1280, 1536]


def test_a_full_window_gives_896_bins_from_base_40960_on():
    assert EnformerConfig().track_grid(196_608) == Grid(40_960, 128, 896)
    assert EnformerConfig().state_grid(196_608) == Grid(0, 128, 1536)


@pytest.mark.parametrize(("size", "target", "kept"), [(8, 4, (2, 6)), (12, 5, (4, 8)), (5, 5, (0, 5)), (7, -1, (0, 7))])
def test_an_odd_crop_takes_one_bin_more(size, target, kept):
    assert centre(size, target) == kept


def test_too_short_a_sequence_is_refused_with_the_remedy():
    model = create("enformer", {**TINY, "target_length": 9}, head="tracks").eval()
    with pytest.raises(InputError, match=r"8 bins, too few to return the central 9: give a longer sequence"):
        model(bases(1, 64))


def test_letters_become_channels():
    model = create("enformer", TINY, head="none")
    tokens = model.tokenizer.encode(np.frombuffer(b"AcgTNn.R", np.uint8))
    rows = model.backbone.bases[torch.from_numpy(tokens).int()]
    expected = torch.zeros(8, 4)
    expected[torch.arange(4), torch.arange(4)] = 1
    expected[6] = 0.25  # outside of the chromosome; N and other letters are zeros
    assert torch.equal(rows, expected)


def test_channels_are_taken_in_place_of_tokens():
    model = create("enformer", TINY, head="tracks", seed=1).eval()
    tokens = bases(2, 64)
    channels = model.backbone.bases[tokens]
    assert torch.equal(model(channels).logits, model(tokens).logits)


def test_the_vocabulary_has_complements():
    tokenizer = CharTokenizer.one_hot()
    forward = tokenizer.encode(np.frombuffer(b"ACGTN.", np.uint8))
    assert tokenizer.decode(tokenizer.complement[forward]) == "TGCAN."


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_pooling_is_a_softmax_over_pairs_in_which_a_lone_last_position_stays(length):
    pool = AttentionPool(6)
    torch.nn.init.normal_(pool.to_attn_logits.weight)
    x = torch.randn(2, 6, length)
    pairs = F.pad(x, (0, length % 2)).unflatten(-1, (-1, 2))
    logits = F.conv2d(pairs, pool.to_attn_logits.weight)
    if length % 2:
        logits[:, :, -1, 1] = -torch.inf
    torch.testing.assert_close(pool(x), (pairs * logits.softmax(-1)).sum(-1))


def test_gamma_features_are_normalised_in_two_ways():
    default, official = (position_features(1536, 192, by_feature=flag) for flag in (False, True))
    gamma = slice(64, 96)
    assert torch.equal(default[1535, gamma], torch.ones(32))
    assert official[1535, gamma].max() < 1e-6
    torch.testing.assert_close(official[:, gamma].amax(0), torch.ones(32))
    torch.testing.assert_close(default[:, gamma].amax(1), torch.ones(3071))
    torch.testing.assert_close(default[:, :64], official[:, :64])


@pytest.mark.parametrize("length", [1, 2, 5])
def test_features_of_short_sequences_are_finite_and_odd_in_their_second_half(length):
    features = position_features(length, 12, by_feature=True)
    assert features.isfinite().all()
    assert torch.equal(features[:, 6:], -features.flip(0)[:, 6:])


def test_the_official_weights_get_their_gamma_features_whatever_their_config_says(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "enformer", "dim": 1536}))
    files = LocalFiles("enformer", tmp_path / "pytorch_model.bin", tmp_path / "config.json", get_checkpoint("enformer"))
    assert describe(files, {}).spec.config.use_tf_gamma
    assert not describe(files, {"use_tf_gamma": False}).spec.config.use_tf_gamma


def test_aliases_of_the_trunk_are_ignored_and_other_names_refused():
    model = create("enformer", TINY, head="tracks", seed=1).eval()
    from chargaff.families.enformer.layouts import write_torch

    state = write_torch(stored_tensors(model), model.spec.config)
    aliased = {**state, **{f"_trunk.{number}.weight": torch.zeros(1) for number in range(3)}}
    again = from_tensors("enformer", TINY, aliased).eval()
    assert torch.equal(again(bases(1, 64)).logits, model(bases(1, 64)).logits)
    with pytest.raises(CheckpointError, match="not of this layout: crossformer"):
        from_tensors("enformer", TINY, {**state, "crossformer.weight": torch.zeros(1)})


@pytest.mark.parametrize("prefix", ["unet_head.", "unet_head.unet_model.", ""])
def test_the_segmentation_head_is_found_under_any_prefix(prefix):
    model = create("enformer", TINY, head="segmentation", num_outputs=3, seed=1).eval()
    state = {}
    for name, tensor in stored_tensors(model).items():
        inner = name.removeprefix("head.unet.")
        if name.startswith("head."):
            state[prefix + (inner if inner != name else name.removeprefix("head."))] = tensor
        else:
            state[name.removeprefix("backbone.")] = tensor
    again = from_tensors("enformer", TINY, state).eval()
    assert again.spec.head == "segmentation"
    assert torch.equal(again(bases(1, 64)).logits, model(bases(1, 64)).logits)


@pytest.mark.parametrize("head", ["tracks", "segmentation"])
def test_an_exported_folder_loads_again(head, tmp_path):
    options = {"num_outputs": 2} if head == "segmentation" else {}
    model = create("enformer", TINY, head=head, seed=1, **options).eval()
    export(model, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu")
    assert again.spec.head == head
    with torch.no_grad():
        assert torch.equal(again(bases(1, 64)).logits, model(bases(1, 64)).logits)


def test_a_config_in_the_names_of_the_jax_code_is_the_same_config():
    jax = {
        "embed_dim": 24,
        "num_transformer_layers": 2,
        "num_attention_heads": 2,
        "attention_dim_key": 7,
        "num_human_output_heads": 5,
        "num_mouse_output_heads": 3,
        "target_length": 4,
        "num_downsamples": 3,
        "dim_divisible_by": 8,
        "nucl_per_token": 8,
        "positional_encoding_type": "enformer",
    }
    assert EnformerConfig.from_json(jax) == EnformerConfig.from_json(TINY)
    with pytest.raises(ConfigError, match="nucl_per_token: expected 8"):
        EnformerConfig.from_json({**jax, "nucl_per_token": 6})


@pytest.mark.parametrize("length", [64, 67, 80])
def test_pieces_of_any_size_give_the_same_states(monkeypatch, length):
    model = create("enformer", {**TINY, "target_length": -1}, head="tracks", seed=1).eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    tokens = bases(2, length)
    expected = model(tokens).logits
    monkeypatch.setattr(chargaff.nn.conv_rows, "PIECE", 10)
    monkeypatch.setattr(chargaff.nn.relative_attention, "_QUERIES_ON_CPU", 3)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(chargaff.nn.relative_attention, "_QUERIES", 4)
    torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-6)


def test_training_updates_the_statistics_of_the_norms():
    model = create("enformer", TINY, head="tracks", seed=1).train()
    norm = model.backbone.stem[1].fn[0]
    with torch.no_grad():
        model(bases(2, 64))
    assert norm.num_batches_tracked == 1
    assert norm.running_mean.any()


def test_tracks_of_both_strands_are_not_averaged_silently():
    model = create("enformer", TINY, head="tracks").eval()
    hidden = torch.zeros(1, 8, 24)
    with pytest.raises(ConfigError, match="strands of their own"):
        model.head(Encoded(hidden, hidden))


def test_sets_of_tracks_lie_in_order_of_name():
    model = create("enformer", {**TINY, "output_heads": {"mouse": 3, "human": 5}}, head="tracks", seed=1).eval()
    encoded = model.encode(bases(1, 64))
    assert model.head.slices == {"human": slice(0, 5), "mouse": slice(5, 8)}
    mouse = model.head.predict(model.head.embed(encoded), "mouse")
    assert torch.equal(model.head(encoded)[..., model.head.slices["mouse"]], mouse)
