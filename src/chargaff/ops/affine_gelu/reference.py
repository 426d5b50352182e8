"""The definition, as torch has it."""

import torch
import torch.nn.functional as F
from torch import Tensor

missing = None


def unsupported(x: Tensor, scale: Tensor, shift: Tensor, form: str) -> str | None:
    """Takes every call."""
    return None


def run(x: Tensor, scale: Tensor, shift: Tensor, form: str) -> Tensor:
    """[l, C]; has a gradient."""
    value = torch.addcmul(shift, x.to(shift.dtype), scale)
    gelu = F.gelu(value, approximate="tanh") if form == "tanh" else value * torch.sigmoid(1.702 * value)
    return gelu.to(x.dtype)
