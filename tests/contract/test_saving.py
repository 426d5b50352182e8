"""A saved model is the same model, and weights that do not fit are refused, for every family."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from chargaff.errors import CheckpointError
from chargaff.hub.load import load
from chargaff.hub.save import save
from tests.contract.tiny import IDS, VARIANTS, random_tokens, tiny_model

pytestmark = pytest.mark.parametrize(("family", "variant"), VARIANTS, ids=IDS)


def test_save_then_load_is_equal_to_the_bit(family, variant, tmp_path):
    model = tiny_model(family, variant)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu").eval()
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {p.dtype for p in again.parameters()} == {p.dtype for p in model.parameters()}
    tokens = random_tokens(model)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_the_description_survives(family, variant, tmp_path):
    model = tiny_model(family, variant)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    for field in ("family", "config", "head", "head_options", "pooling", "strands"):
        assert getattr(again.spec, field) == getattr(model.spec, field), field
    json.loads((tmp_path / "model" / "model.json").read_text())


def test_no_tensor_stays_on_the_meta_device(family, variant, tmp_path):
    save(tiny_model(family, variant), tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    assert not [name for name, t in [*again.named_parameters(), *again.named_buffers()] if t.is_meta]


def test_a_loaded_model_can_be_trained(family, variant, tmp_path):
    save(tiny_model(family, variant), tmp_path / "model")
    again = load(tmp_path / "model", device="cpu").train()
    again(random_tokens(again)).logits.float().square().mean().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_tied_tensors_are_still_one_after_loading(family, variant, tmp_path):
    model = tiny_model(family, variant)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_a_renamed_tensor_is_refused_with_both_names(family, variant, tmp_path):
    save(tiny_model(family, variant), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    state[f"{name}_x"] = state.pop(name)
    save_file(state, path)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "model", device="cpu")
    assert name in str(caught.value)
    assert f"{name}_x" in str(caught.value)


def test_a_tensor_of_another_shape_is_refused_with_its_name(family, variant, tmp_path):
    save(tiny_model(family, variant), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    state = load_file(path)
    name = next(name for name in sorted(state) if state[name].dim() and state[name].is_floating_point())
    state[name] = torch.cat([state[name], state[name]])
    save_file(state, path)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(tmp_path / "model", device="cpu")
