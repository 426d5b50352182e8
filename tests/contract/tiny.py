"""The tiny variants that every family declares, as models and inputs for the contract tests."""

from typing import Any

import torch
from torch import Tensor

from chargaff.families import get_family, list_families
from chargaff.hub.load import create
from chargaff.model import Model

VARIANTS = [(family, variant) for family in list_families() for variant in get_family(family).tiny]
IDS = [f"{family}-{variant}" for family, variant in VARIANTS]
NUM_OUTPUTS = 3


def tiny_model(family: str, variant: str, *, head: str = "own") -> Model:
    """A model with fresh weights from a fixed seed, in evaluation mode.

    Args:
        head: "own" is the language-model head where the family has one, else a sequence head.
    """
    if head == "own":
        head = "lm" if get_family(family).lm_head is not None else "sequence"
    options = {"num_outputs": NUM_OUTPUTS} if head == "sequence" else {}
    return create(family, get_family(family).tiny[variant], head=head, seed=7, **options).eval()


def legal_tokens(model: Model, wanted: int) -> int:
    """The token count nearest to `wanted` that the model's input rule allows."""
    rule = model.backbone.rule
    if rule.fixed_bp is not None:
        return int(rule.max_tokens or rule.fixed_bp)
    rounded = -(-wanted // rule.multiple_of) * rule.multiple_of
    return rounded if rule.max_tokens is None else min(rounded, rule.max_tokens)


def random_tokens(model: Model, batch: int = 2, tokens: int = 37, *, seed: int = 0) -> Tensor:
    """[batch, legal_tokens] ids that stand for bases."""
    bases = torch.tensor([token for token, bp in enumerate(model.tokenizer.token_bp.tolist()) if bp])
    generator = torch.Generator().manual_seed(seed)
    return bases[torch.randint(len(bases), (batch, legal_tokens(model, tokens)), generator=generator)]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of `expected`."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp_min(1e-30))


def is_layered(model: Model) -> bool:
    """Whether the backbone can be used in steps (`LayeredBackbone`)."""
    return hasattr(model.backbone, "blocks")


def is_stateful(model: Model) -> bool:
    """Whether the backbone can continue a sequence (`StatefulBackbone`)."""
    return hasattr(model.backbone, "forward_chunk")


def parts(encoded: Any) -> dict[str, Tensor]:
    """The tensors of an `Encoded` by name, for comparisons."""
    found = {"hidden": encoded.hidden, **encoded.taps}
    return found if encoded.hidden_rc is None else {**found, "hidden_rc": encoded.hidden_rc}
