"""Running a model without leaving traces in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from chargaff.model import Model


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model in evaluation mode; every module is put back on exit."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Automatic mixed precision in `dtype`, or nothing for None and float32."""
    if dtype in (None, torch.float32):
        return nullcontext()
    return torch.autocast(device.type, dtype)
