"""What every head that labels or measures places along the sequence promises, for each tiny variant of its families."""

from typing import Any

import pytest
import torch
from torch import Tensor

from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub.load import create, from_tensors, load
from chargaff.hub.save import save, stored_tensors
from chargaff.model import Model
from tests.contract.tiny import NUM_OUTPUTS, VARIANTS, random_tokens, relative_error

SPATIAL = ("segmentation", "tracks")
CASES = [(f, v, kind) for f, v in VARIANTS for kind in SPATIAL if kind in get_family(f).extra_heads]
REORDERED = 1e-5


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def model(request: pytest.FixtureRequest) -> Model:
    return fresh(*request.param)


def fresh(family: str, variant: str, kind: str) -> Model:
    options = {} if kind in get_family(family).head_outputs else {"num_outputs": NUM_OUTPUTS}
    return create(family, get_family(family).tiny[variant], head=kind, seed=7, **options).eval()


def legal_input(model: Model, batch: int = 2) -> tuple[Tensor, int]:
    """Tokens that model and head take, and the bases they stand for."""
    head: Any = model.head
    unit = model.backbone.rule.multiple_of * getattr(head, "multiple_of", 1)
    tokens = 2 * unit + getattr(head, "num_special", 0)
    ids = random_tokens(model, batch, tokens)
    assert ids.shape == (batch, tokens)
    return ids, 2 * unit * (getattr(head, "token_bp", 1) if model.tokenizer.complement is None else 1)


@torch.no_grad()
def test_outputs_lie_where_the_grid_says(model):
    tokens, length_bp = legal_input(model)
    head: Any = model.head
    grid = head.grid(length_bp)
    logits = model(tokens).logits
    assert logits.shape[:2] == (2, grid.size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert grid.offset_bp >= 0
    assert grid.offset_bp + grid.step_bp * grid.size <= length_bp


def test_every_parameter_of_the_head_receives_a_gradient(model):
    tokens, _ = legal_input(model)
    model(tokens).logits.square().mean().backward()
    assert not [name for name, p in model.head.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_row_does_not_depend_on_its_batch_mates(model):
    tokens, _ = legal_input(model, batch=3)
    with torch.no_grad():
        together = model(tokens).logits
        assert relative_error(together[2:], model(tokens[2:]).logits) < REORDERED
    assert relative_error(together, model(tokens).logits) < REORDERED, "with and without gradients"


def test_save_then_load_is_equal_to_the_bit(model, tmp_path):
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    tokens, _ = legal_input(model)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert again.spec.head_options == model.spec.head_options


def test_published_names_lead_back_to_the_same_model(model):
    layout = get_family(model.spec.family).layouts["hub"]
    try:
        published = layout.write(stored_tensors(model), model.spec.config)
    except ConfigError as error:
        pytest.skip(f"the published code knows no such model: {error}")
    assert not [name for name in published if name.startswith(("backbone.", "head."))]
    again = from_tensors(model.spec.family, model.spec.config, published).eval()
    assert again.spec.head == model.spec.head
    assert again.spec.head_options["num_outputs"] == model.spec.head_options["num_outputs"]
    tokens, _ = legal_input(model)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(("family", "variant", "kind"), [case for case in CASES if case[2] == "tracks"])
def test_the_config_fixes_the_number_of_tracks(family, variant, kind):
    with pytest.raises(ConfigError, match=r"num_outputs=999"):
        create(family, get_family(family).tiny[variant], head=kind, num_outputs=999)
