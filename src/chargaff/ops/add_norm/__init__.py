"""The residual sum and the norm that follows it, in one pass over memory."""

from typing import Literal

import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops.dispatch import choose, load_backends

BACKENDS = load_backends(__name__)

Kind = Literal["rms", "layer"]


def add_norm(
    branch: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    kind: Kind = "rms",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """(norm(branch + residual), branch + residual), both computed in float32.

    The norm is x / sqrt(mean(x^2) + eps) * weight for "rms", and (x - mean) / sqrt(var + eps) * weight + bias with the
    biased variance for "layer". Everything but eps has a gradient.

    Args:
        branch: [..., D], any strides.
        residual: [..., D] of the same shape; None where a stream begins, and the sum is then `branch` itself.
        weight, bias: [D].

    Returns:
        [..., D] in branch's type, and [..., D] in residual's type.
    """
    _check(branch, residual, weight, bias, kind)
    args = (branch, residual, weight, bias, eps, kind)
    normed, total = choose("add_norm", BACKENDS, backend, args).run(*args)
    return normed, total


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    x = torch.zeros(1, 1, device=device)
    return (x, x, x[0], None, 1e-5, "rms")


def _check(branch: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, kind: str) -> None:
    if kind not in ("rms", "layer"):
        raise InputError(f"add_norm: kind must be 'rms' or 'layer', got {kind!r}")
    if kind == "rms" and bias is not None:
        raise InputError("add_norm: the norm 'rms' has no bias")
    width = branch.shape[-1:]
    for name, tensor, shape in (("residual", residual, branch.shape), ("weight", weight, width), ("bias", bias, width)):
        if tensor is not None and tensor.shape != shape:
            raise InputError(f"add_norm: {name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
