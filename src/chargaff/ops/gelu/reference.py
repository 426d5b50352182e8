"""The definition, as torch has it."""

import torch.nn.functional as F
from torch import Tensor

missing = None


def unsupported(x: Tensor) -> str | None:
    """Takes every call."""
    return None


def run(x: Tensor) -> Tensor:
    """[...]; has a gradient."""
    return F.gelu(x, approximate="tanh")
