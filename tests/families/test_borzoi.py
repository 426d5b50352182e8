"""Published facts about Borzoi and Flashzoi that no contract test and no golden covers."""

import pytest
import torch
import torch.nn.functional as F

import chargaff.nn.conv_rows
import chargaff.nn.relative_attention
from chargaff.errors import ConfigError, InputError
from chargaff.families.borzoi.attention import rotate_halves
from chargaff.families.borzoi.config import BorzoiConfig
from chargaff.families.borzoi.positions import position_features
from chargaff.hub.load import create, load
from chargaff.hub.save import export
from chargaff.nn.encoded import Encoded
from chargaff.seq.grid import Grid

TINY = {
    "dim": 24,
    "depth": 1,
    "heads": 2,
    "attn_dim_key": 7,
    "attn_dim_value": 12,
    "bins_to_return": 6,
    "enable_mouse_head": True,
    "conv_widths": [8, 12, 12],
    "final_width": 20,
    "num_human": 5,
    "num_mouse": 3,
    "num_rel_pos_features": 6,
}
FLASH = {**TINY, "flashed": True, "rotary_emb_dim": 8}
JAX = {
    "int_embed_dim": 512,
    "res_tower_embed_dim_init": 608,
    "embed_dim": 1536,
    "num_transformer_layers": 8,
    "num_attention_heads": 8,
    "num_human_output_heads": 7611,
    "num_mouse_output_heads": 2608,
    "target_length": 6144,
    "attention_dim_key": 64,
    "num_rel_pos_features": 32,
    "num_downsamples": 7,
    "dim_divisible_by": 32,
    "posiional_encoding_type": "borzoi",
    "num_unet_conv": 2,
    "final_conv_block_embed_dim": 1920,
}


def bases(batch: int, length: int) -> torch.Tensor:
    return torch.randint(2, 6, (batch, length), generator=torch.Generator().manual_seed(1))


def lively(config, **options):
    """Nothing is zero or one by accident."""
    torch.manual_seed(2)
    model = create("borzoi", config, seed=1, **options).eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_a_full_window_gives_6144_bins_from_base_163840_on():
    assert BorzoiConfig().state_grid(524_288) == Grid(163_840, 32, 6144)
    assert BorzoiConfig(return_center_bins_only=False).state_grid(524_288) == Grid(512, 32, 16_352)


def test_the_jax_defaults_are_the_published_widths_without_separable_bias_or_mouse():
    config = BorzoiConfig.from_json(JAX)
    assert config == BorzoiConfig(separable_bias=False)
    assert config.conv_widths == (512, 608, 736, 896, 1056, 1280)


@pytest.mark.parametrize("length", [0, 8, 100])
def test_lengths_that_are_no_multiple_of_the_attention_step_are_refused(length):
    model = create("borzoi", TINY, head="none").eval()
    with pytest.raises(InputError, match=f"multiples of 16 bases, got {length}"):
        model.encode(bases(1, length))


@pytest.mark.parametrize("config", [TINY, FLASH], ids=["borzoi", "flashzoi"])
@pytest.mark.parametrize("bins", [2, 3, 5, 6, 13, 16])
def test_computing_only_what_the_returned_bins_need_changes_nothing(config, bins):
    all_bins = lively({**config, "bins_to_return": -1}, head="none")
    some = lively({**config, "bins_to_return": bins}, head="none")
    some.load_state_dict(all_bins.state_dict())
    tokens = bases(2, 64)
    grid = some.spec.config.state_grid(64)
    first = grid.offset_bp // grid.step_bp
    for with_gradient in (True, False):
        with torch.set_grad_enabled(with_gradient):
            expected = all_bins.encode(tokens).hidden[:, first : first + grid.size]
            got = some.encode(tokens).hidden
        assert got.shape[1] == grid.size
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_one_bin_of_an_even_number_cannot_be_central():
    with pytest.raises(InputError, match="16 bins, too few to return the central 1:"):
        create("borzoi", {**TINY, "bins_to_return": 1}, head="none").eval().encode(bases(1, 64))


@pytest.mark.parametrize("config", [TINY, FLASH], ids=["borzoi", "flashzoi"])
@pytest.mark.parametrize("length", [32, 96, 144])
def test_pieces_of_any_size_give_the_same_states(monkeypatch, config, length):
    model = lively({**config, "bins_to_return": -1}, head="tracks")
    tokens = bases(2, length)
    expected = model(tokens).logits
    monkeypatch.setattr(chargaff.nn.conv_rows, "PIECE", 10)
    monkeypatch.setattr(chargaff.nn.relative_attention, "_QUERIES_ON_CPU", 3)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-6)


def test_training_normalises_over_all_bins_not_only_the_returned_ones():
    models = [lively({**TINY, "bins_to_return": bins}, head="none").train() for bins in (-1, 2)]
    for model in models:
        with torch.no_grad():
            model.encode(bases(2, 64))
    whole, cropped = (model.backbone.horizontal_conv0.norm.running_mean for model in models)
    torch.testing.assert_close(whole, cropped)


def test_masks_grow_to_the_length_and_have_a_sign():
    features = position_features(4096, 32)
    assert features.shape == (8191, 32)
    assert torch.equal(features[4095, :16], torch.ones(16))
    assert not features[4095, 16:].any(), "no sign at distance zero"
    assert features[:, 15].sum() == 8191, "the widest mask covers everything"


def test_rotation_turns_the_first_channels_by_halves():
    angles = torch.tensor([[0.0, 0.0], [0.5, 1.0]])
    x = torch.randn(1, 1, 2, 6)
    turned = rotate_halves(x, angles)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert torch.equal(turned[..., 4:], x[..., 4:])
    first, second = x[0, 0, 1, 0], x[0, 0, 1, 2]
    cos, sin = torch.tensor(0.5).cos(), torch.tensor(0.5).sin()
    torch.testing.assert_close(turned[0, 0, 1, 0], first * cos - second * sin)
    torch.testing.assert_close(turned[0, 0, 1, 2], second * cos + first * sin)


def test_two_query_heads_share_a_key_head():
    model = lively({**FLASH, "heads": 4, "rotary_emb_dim": 2}, head="none")
    attention = model.backbone.transformer[0][0].fn[1].mha
    assert attention.Wqkv.weight.shape == (8 * 6, 24)
    x, still = torch.randn(1, 5, 24), torch.zeros(5, 1)
    q, k, v = attention.Wqkv(x).view(1, 5, 8, 6).transpose(1, 2).split([4, 2, 2], 1)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    expected = attention.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, still), expected)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"heads": 3, "flashed": True}, "config.heads"),
        ({"rotary_emb_dim": 26, "flashed": True}, "config.rotary_emb_dim"),
        ({"conv_widths": [8, 12]}, "config.conv_widths"),
        ({"bins_to_return": 0}, "config.bins_to_return"),
        ({"nucl_per_token": 6}, "config.nucl_per_token"),
    ],
)
def test_impossible_configs_are_refused_by_name(changes, place):
    with pytest.raises(ConfigError, match=place):
        BorzoiConfig.from_json({**TINY, **changes})


def test_the_head_computes_in_float32_under_mixed_precision():
    model = lively(TINY, head="tracks")
    hidden = model.encode(bases(1, 64)).hidden
    expected = model.head(Encoded(hidden))
    with torch.autocast("cpu", torch.bfloat16):
        got = model.head(Encoded(hidden))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)


def test_tracks_of_an_organism_are_there_when_enabled():
    assert lively(TINY, head="tracks").head.slices == {"human": slice(0, 5), "mouse": slice(5, 8)}
    assert lively({**TINY, "enable_mouse_head": False}, head="tracks").head.slices == {"human": slice(0, 5)}


@pytest.mark.parametrize("head", ["tracks", "segmentation"])
@pytest.mark.parametrize("config", [{**TINY, "bins_to_return": 8}, {**FLASH, "bins_to_return": 8}])
def test_an_exported_folder_loads_again(config, head, tmp_path):
    options = {"num_outputs": 2} if head == "segmentation" else {}
    model = lively(config, head=head, **options)
    export(model, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu")
    assert again.spec.head == head
    with torch.no_grad():
        assert torch.equal(again(bases(1, 64)).logits, model(bases(1, 64)).logits)
