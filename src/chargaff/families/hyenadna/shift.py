"""Which modulation shift do these weights want? (hyenadna sheet, introduction)"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.hyenadna.filter import HyenaFilter
from chargaff.families.protocol import Encoded

SHIFTS = (0.0, 0.05)
"""What the training code has built in, and what all published inference code has."""


@torch.no_grad()
def losses_by_shift(
    backbone: nn.Module, head: nn.Module, tokens: Tensor, shifts: Sequence[float] = SHIFTS
) -> dict[float, float]:
    """Shift -> mean next-token loss in nats on [B, T] tokens of real DNA.

    No published file records the shift that its weights were trained with. The smaller loss tells; load with
    `config={"modulation_shift": ...}` to choose. The model is left as it was.
    """
    found = {}
    for shift in shifts:
        with _shifted(backbone, shift):
            encoded: Encoded = backbone(tokens)
            logits = head(encoded)[:, :-1].flatten(0, 1)
            found[shift] = F.cross_entropy(logits, tokens[:, 1:].flatten().long()).item()
    return found


@contextmanager
def _shifted(backbone: nn.Module, shift: float) -> Iterator[None]:
    filters = [module for module in backbone.modules() if isinstance(module, HyenaFilter)]
    before = [module.shift for module in filters]
    for module in filters:
        module.shift = shift
    try:
        yield
    finally:
        for module, old in zip(filters, before, strict=True):
            module.shift = old
