"""The tanh form of GELU, for inference."""

import torch
from torch import Tensor

from chargaff.ops.dispatch import choose, load_backends

BACKENDS = load_backends(__name__)


def gelu(x: Tensor, *, backend: str = "auto") -> Tensor:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), computed in float32: [...] -> [...] in x's type.

    Args:
        backend: "auto", or the name of one; BackendError if it cannot take the call.
    """
    args = (x,)
    y: Tensor = choose("gelu", BACKENDS, backend, args).run(*args)
    return y


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    return (torch.zeros(1, device=device),)
