"""Published facts about the attention baseline that no contract test and no golden covers."""

import json

import pytest
import torch

import chargaff
from chargaff.errors import ConfigError, InputError
from chargaff.families.llama.config import LlamaConfig
from chargaff.hub.load import create, from_tensors
from chargaff.hub.save import export, stored_tensors

TINY = {"d_model": 16, "n_layer": 2, "n_heads": 4, "max_length": 64}


@pytest.mark.parametrize(
    ("layers", "hidden", "count"),
    [(4, 1024, 4_199_680), (2, 1024, 2_101_504), (4, None, 3_167_488), (2, None, 1_585_408)],
)
def test_parameter_counts_of_the_sheet(layers, hidden, count):
    model = create("llama", {"d_model": 256, "n_layer": layers, "n_heads": 8, "hidden_dim": hidden})
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_positions_are_those_of_the_whole_sequence_in_every_chunk():
    model = create("llama", {**TINY, "n_kv_heads": 2}, seed=1).eval()
    tokens = torch.randint(7, 11, (2, 50))
    with torch.no_grad():
        state, pieces = model.backbone.init_state(2), []
        for piece in tokens.split([13, 1, 1, 35], 1):
            encoded, state = model.backbone.forward_chunk(piece, state)
            pieces.append(encoded.hidden)
        torch.testing.assert_close(torch.cat(pieces, 1), model(tokens).encoded.hidden, rtol=1e-5, atol=1e-5)
    assert state[0].keys.shape == (2, 2, 50, 4)


def test_more_tokens_than_positions_are_refused_in_one_pass_and_in_chunks():
    model = create("llama", TINY).eval()
    with pytest.raises(InputError, match="65 tokens exceed this model's positions"):
        model(torch.full((1, 65), 7))
    _, state = model.backbone.forward_chunk(torch.full((1, 60), 7), model.backbone.init_state(1))
    with pytest.raises(InputError, match="65 tokens"):
        model.backbone.forward_chunk(torch.full((1, 5), 7), state)


def test_a_longer_table_changes_nothing_but_the_limit():
    tokens = torch.randint(7, 11, (1, 64))
    short, long = create("llama", TINY, seed=2).eval(), create("llama", {**TINY, "max_length": 500}, seed=2).eval()
    with torch.no_grad():
        assert torch.equal(short(tokens).logits, long(tokens).logits)
        long(torch.randint(7, 11, (1, 200)))


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("dropped", [(), ("backbone.output.weight",)])
def test_both_names_of_the_tied_tensor_are_accepted(prefix, dropped):
    model = create("llama", TINY, seed=1).eval()
    state = {f"{prefix}{name}": tensor for name, tensor in stored_tensors(model).items()}
    state[f"{prefix}backbone.output.weight"] = model.head.weight.detach().clone()
    for name in dropped:
        del state[prefix + name]
    again = from_tensors("llama", model.spec.config, state, head="lm").eval()
    tokens = torch.randint(7, 11, (1, 30))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_an_exported_folder_is_read_back(tmp_path):
    model = create("llama", TINY, seed=1).eval()
    export(model, tmp_path / "run", "hub")
    assert json.loads((tmp_path / "run" / "model_config.json").read_text())["n_heads"] == 4
    again = chargaff.load(tmp_path / "run", device="cpu")
    tokens = torch.randint(7, 11, (1, 30))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("values", [{"n_heads": 3}, {"n_heads": 16}, {"n_kv_heads": 3}])
def test_heads_that_do_not_divide_are_refused(values):
    with pytest.raises(ConfigError, match=r"config\.n_"):
        LlamaConfig.from_json({**TINY, **values})
