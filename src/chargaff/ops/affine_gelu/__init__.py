"""A scale and a shift for each channel, then GELU, for inference: what stands before every convolution of a tower."""

from typing import Literal

import torch
from torch import Tensor

from chargaff.ops.dispatch import choose, load_backends

BACKENDS = load_backends(__name__)

Form = Literal["tanh", "sigmoid"]


def affine_gelu(x: Tensor, scale: Tensor, shift: Tensor, form: Form, *, backend: str = "auto") -> Tensor:
    """gelu(x scale + shift), computed in float32.

    Args:
        x: [l, C].
        scale, shift: [C] float32.
        form: "tanh": v / 2 (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3))); "sigmoid": v sigmoid(1.702 v).
        backend: "auto", or the name of one; BackendError if it cannot take the call.

    Returns:
        [l, C] in x's type.
    """
    args = (x, scale, shift, form)
    y: Tensor = choose("affine_gelu", BACKENDS, backend, args).run(*args)
    return y


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    return torch.zeros(1, 1, device=device), torch.ones(1, device=device), torch.zeros(1, device=device), "tanh"
