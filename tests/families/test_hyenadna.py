"""Published facts about HyenaDNA that no contract test and no golden covers."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import chargaff
from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.families.hyenadna.config import HyenaConfig
from chargaff.families.hyenadna.pooling import Decoder
from chargaff.families.hyenadna.shift import losses_by_shift
from chargaff.hub.catalog import list_checkpoints
from chargaff.hub.load import create, from_tensors
from chargaff.hub.save import export, stored_tensors
from tests.conftest import shared_data

LAYER = {"l_max": 66, "emb_dim": 5, "filter_order": 8, "w": 10, "lr_pos_emb": 0.0}
TINY = {"d_model": 16, "n_layer": 2, "d_inner": 32, "pad_vocab_size_multiple": 8, "embed_dropout": 0.0}
ORIGINAL = {  # sheet 1.1
    "d_model": 128, "n_layer": 2, "d_inner": 512, "vocab_size": 12, "resid_dropout": 0.0, "embed_dropout": 0.1,
    "fused_mlp": False, "fused_dropout_add_ln": True, "residual_in_fp32": True, "pad_vocab_size_multiple": 8,
    "return_hidden_state": True,
    "layer": {"_name_": "hyena", "emb_dim": 5, "filter_order": 64, "local_order": 3, "l_max": 1026, "modulate": True,
              "w": 10, "lr": 6e-4, "wd": 0.0, "lr_pos_emb": 0.0},
}  # fmt: skip


def tiny(*, layer=None, **values):
    config = {**TINY, "layer": {**LAYER, **(layer or {})}, **values}
    return create("hyenadna", config, seed=3).eval()


def bases(count, *, batch=2, seed=0):
    return torch.randint(7, 11, (batch, count), generator=torch.Generator().manual_seed(seed))


def test_a_real_checkpoint_gives_its_recorded_states():
    folder = shared_data("data/hyenadna_tiny_finetuned")
    model = chargaff.load(folder, device="cpu")
    with safe_open(folder / "golden.safetensors", "pt") as handle:
        note = json.loads(handle.metadata()["note"])
        stored = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    assert model.spec.config.shift == 0.05
    assert sum(p.numel() for p in model.parameters()) == 436_096
    with torch.no_grad():
        for suffix in ("1", "2_leftpad"):
            hidden = model.encode(stored[f"input_ids_{suffix}"]).hidden
            assert (hidden - stored[f"last_hidden_state_{suffix}"]).abs().max() < 1e-4
    ids = stored["input_ids_1"]
    head = model.backbone.embeddings.word_embeddings.weight
    with torch.no_grad():
        logits = F.linear(model.encode(ids).hidden[:, :-1], head[7:11])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten() - 7)
    assert abs(loss.item() - note["nll_tied_acgt_seq1"]) < 0.002


def test_both_published_forms_of_every_model_are_listed():
    rows = [row for row in list_checkpoints() if row.family == "hyenadna"]
    assert len(rows) == 14
    for row in rows:
        config = HyenaConfig.from_json(row.config)
        assert config.shift == 0.05
        assert config.layer.l_max == row.context_bp + 2
        assert config.tie_word_embeddings == (row.layout == "lightning")


def test_config_of_an_original_repository_means_what_the_catalogue_says():
    row = next(row for row in list_checkpoints() if row.name == "hyenadna-tiny-1k")
    assert HyenaConfig.from_json(ORIGINAL) == HyenaConfig.from_json(row.config)


@pytest.mark.parametrize(
    ("values", "shift"),
    [
        (ORIGINAL, 0.05),
        ({key: value for key, value in ORIGINAL.items() if key != "return_hidden_state"}, 0.0),  # a run of one's own
        ({"model_type": "hyenadna", "max_seq_len": 66, "d_model": 16, "n_layer": 2}, 0.05),
        ({**ORIGINAL, "modulation_shift": 0.1}, 0.1),
    ],
)
def test_modulation_shift_follows_where_the_weights_come_from(values, shift):
    assert HyenaConfig.from_json(values).shift == shift


def test_losses_by_shift_are_those_of_models_with_that_shift():
    model = tiny(modulation_shift=0.05)
    tokens = bases(60)
    found = losses_by_shift(model.backbone, model.head, tokens)
    assert model.backbone.layers[0].mixer.filter_fn.shift == 0.05
    for shift, loss in found.items():
        other = tiny(modulation_shift=shift)
        with torch.no_grad():
            logits = other(tokens).logits[:, :-1]
        assert loss == pytest.approx(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item(), abs=1e-6)
    assert found[0.0] != found[0.05]


@pytest.mark.parametrize(
    "values",
    [
        {"layer": {"order": 3}},
        {"layer": {"order": 4}, "variant": "standalone"},
        {"layer": {"normalized": True}},
        {"layer": {"modulate": False, "bias": False}},
        {"layer": {"linear_mixer": True}},
        {"layer": {"short_filter_order": 4, "activation": "silu", "modulation_lr": 1e-4}},
        {"layer": {"num_inner_mlps": 1, "lr_pos_emb": 1e-5}, "variant": "hf", "tie_word_embeddings": False},
        {"attn_layer_idx": [0], "attn_cfg": {"num_heads": 4, "dwconv": True}, "max_position_embeddings": 66},
    ],
)
def test_lean_path_and_carried_state_equal_the_plain_path(values):
    model = tiny(**values)
    tokens = bases(63)
    expected = model.encode(tokens).hidden.detach()
    with torch.no_grad():
        lean = model.encode(tokens).hidden
        state, pieces = model.backbone.init_state(2), []
        for piece in tokens.split([5, 1, 20, 1, 1, 35], 1):
            encoded, state = model.backbone.forward_chunk(piece, state)
            pieces.append(encoded.hidden)
    for found in (lean, torch.cat(pieces, 1)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_spectra_are_kept_until_the_weights_change():
    model = tiny()
    tokens = bases(50)
    filter_fn = model.backbone.layers[0].mixer.filter_fn
    with torch.no_grad():
        model(tokens)
        first = filter_fn.cached_spectra(50)
        model(tokens)
        assert filter_fn.cached_spectra(50) is first
        filter_fn.implicit_filter[0].weight.mul_(1.1)
        assert filter_fn.cached_spectra(50) is not first


def test_the_filter_stays_in_float32():
    model = tiny(layer={"lr_pos_emb": 1e-5}).bfloat16()
    filter_fn = model.backbone.layers[0].mixer.filter_fn
    assert {tensor.dtype for tensor in filter_fn.state_dict().values()} == {torch.float32}
    assert model.backbone.layers[0].mixer.in_proj.weight.dtype == torch.bfloat16


def test_layers_share_one_copy_of_equal_position_features():
    model = from_tensors("hyenadna", tiny().spec.config, stored_tensors(tiny()), head="lm")
    first, second = (layer.mixer.filter_fn.pos_emb for layer in model.backbone.layers)
    assert first.z.data_ptr() == second.z.data_ptr()
    assert len(stored_tensors(model)) == len(stored_tensors(tiny()))


def test_other_features_of_each_layer_can_be_loaded_afterwards():
    model = tiny()
    model.backbone.init_buffers("cpu")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["backbone.layers.1.mixer.filter_fn.pos_emb.z"] += 1
    model.load_state_dict(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_missing_constants_are_rebuilt_from_their_formulas():
    model = tiny()
    state = stored_tensors(model)
    kept = {name: tensor for name, tensor in state.items() if not name.endswith((".z", ".t", ".deltas"))}
    again = from_tensors("hyenadna", model.spec.config, kept, head="lm")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_another_length_of_the_filter_is_refused():
    model = tiny()
    config = HyenaConfig.from_json({**TINY, "layer": {**LAYER, "l_max": 80}})
    with pytest.raises(CheckpointError, match=r"66 positions, but layer\.l_max is 80"):
        from_tensors("hyenadna", config, stored_tensors(model), head="lm")


def test_an_input_beyond_the_filter_is_refused():
    with pytest.raises(InputError, match="67 tokens are more than this checkpoint's filter covers"):
        tiny().encode(bases(67))


@pytest.mark.parametrize("key", ["num_heads", "inner_factor", "num_blocks", "post_order_ffn", "outer_mixing"])
def test_options_that_are_not_built_are_refused(key):
    with pytest.raises(ConfigError, match=f"layer.{key}"):
        HyenaConfig.from_json({**TINY, "layer": {**LAYER, key: 2}})


def test_an_exported_folder_is_read_back_as_the_hub_form(tmp_path):
    model = tiny(modulation_shift=0.05)
    export(model, tmp_path / "hf", "hub")
    again = chargaff.load(tmp_path / "hf", device="cpu")
    tokens = bases(40)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-6)
    assert again.spec.config.variant == "hf"


def test_a_model_with_another_shift_is_not_exported_to_code_that_has_its_own(tmp_path):
    with pytest.raises(ConfigError, match=r"modulation_shift = 0\.05 built in, this model has 0\.0"):
        export(tiny(), tmp_path / "hf", "hub")


def test_keys_of_checkpointed_training_and_counters_are_understood(tmp_path):
    model = tiny()
    names = {}
    for name, tensor in stored_tensors(model).items():
        name = name.replace(".mixer.", ".mixer.layer.") if ".0." in name else name.replace(".mlp.", ".mlp.layer.")
        names["model." + name] = tensor.clone()
    names["train_torchmetrics.num_tokens.count"] = torch.tensor(3)
    again = from_tensors("hyenadna", model.spec.config, names, head="lm")
    tokens = bases(30)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_loading_a_published_folder_by_path(tmp_path):
    model = tiny(modulation_shift=0.05)
    folder = tmp_path / "hyenadna-tiny"
    folder.mkdir()
    config = {**ORIGINAL, **TINY, "layer": {**ORIGINAL["layer"], "l_max": 66, "filter_order": 8}}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"state_dict": {f"model.{k}": v for k, v in stored_tensors(model).items()}}, folder / "weights.ckpt")
    again = chargaff.load(folder, device="cpu")
    assert again.spec.head == "lm"
    tokens = bases(30)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_masked_mean_of_the_package_equals_the_published_one_for_right_padding():
    x, mask = torch.randn(3, 9, 4), torch.arange(9) < torch.tensor([[9], [4], [1]])
    published = Decoder("pool", 0)(lambda values: values, x, mask=mask)
    ours = (x * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(published, ours)
