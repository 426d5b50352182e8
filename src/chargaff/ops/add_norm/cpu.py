"""The sum and the norm on the CPU: Numba kernels behind torch operators with a hand-written gradient."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from chargaff.ops.operators import operator

missing = None if find_spec("numba") else "the package numba is not installed"


def unsupported(branch: Tensor, *others: object) -> str | None:
    """It computes in float32, on the CPU."""
    if branch.device.type != "cpu":
        return f"branch is on {branch.device}"
    if branch.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


def run(
    branch: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, kind: str
) -> tuple[Tensor, Tensor]:
    """(normed, sum); rows are read in place if they are float32 or bfloat16 and evenly spaced, else copied."""
    rows = _rows(branch)
    parameters = (weight.float(), None if bias is None else bias.float())
    if residual is None:
        normed, _ = norm(rows, *parameters, eps, kind == "layer")
        total = branch
    else:
        normed, summed, _ = sum_and_norm(rows, _rows(residual), *parameters, eps, kind == "layer")
        total = summed.view(residual.shape).to(residual.dtype)
    return normed.view(branch.shape).to(branch.dtype), total


def _rows(x: Tensor) -> Tensor:
    """[rows, D] in a type the kernels read."""
    x = (x if x.dtype == torch.bfloat16 else x.float()).reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


def _sum_and_norm(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(normed, sum, mean and inverse deviation of each row [rows, 2])."""
    from chargaff.ops.add_norm import cpu_kernels

    return cpu_kernels.forward(branch, residual, weight, bias, eps, centred)


def _sum_and_norm_shapes(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return branch.new_empty(branch.shape), residual.new_empty(residual.shape), weight.new_empty(branch.shape[0], 2)


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """(normed, mean and inverse deviation of each row [rows, 2])."""
    from chargaff.ops.add_norm import cpu_kernels

    normed, _, moments = cpu_kernels.forward(x, None, weight, bias, eps, centred)
    return normed, moments


def _norm_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(x.shape[0], 2)


def _backward(
    x: Tensor, weight: Tensor, moments: Tensor, dnormed: Tensor, dsum: Tensor | None, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the sum, which is x, in dnormed's type, of weight, and of bias."""
    from chargaff.ops.add_norm import cpu_kernels

    return cpu_kernels.backward(x, weight, moments, dnormed, dsum, centred)


def _backward_shapes(
    x: Tensor, weight: Tensor, moments: Tensor, dnormed: Tensor, dsum: Tensor | None, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return weight.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _remember_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    branch, residual, weight, bias, _, ctx.centred = inputs
    ctx.types, ctx.has_bias = (branch.dtype, residual.dtype), bias is not None
    ctx.save_for_backward(output[1], weight, output[2])
    ctx.set_materialize_grads(False)


def _differentiate_sum(
    ctx: Any, dnormed: Tensor | None, dsum: Tensor | None, _moments: None
) -> tuple[Tensor | None, ...]:
    x, weight, moments = ctx.saved_tensors
    dnormed = x.new_zeros(x.shape) if dnormed is None else _rows(dnormed)
    dx, dweight, dbias = backward(x, weight, moments, dnormed, None if dsum is None else _rows(dsum), ctx.centred)
    dbranch, dresidual = (dx.to(dtype) for dtype in ctx.types)
    return dbranch, dresidual, dweight, dbias if ctx.has_bias else None, None, None


def _remember_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _, ctx.centred = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, output[1])
    ctx.set_materialize_grads(False)


def _differentiate_norm(ctx: Any, dnormed: Tensor | None, _moments: None) -> tuple[Tensor | None, ...]:
    x, weight, moments = ctx.saved_tensors
    if dnormed is None:
        return None, None, None, None, None
    dx, dweight, dbias = backward(x, weight, moments, _rows(dnormed), None, ctx.centred)
    return dx.to(x.dtype), dweight, dbias if ctx.has_bias else None, None, None


sum_and_norm = operator("add_norm_cpu", "cpu", _sum_and_norm, _sum_and_norm_shapes, _remember_sum, _differentiate_sum)
norm = operator("norm_cpu", "cpu", _norm, _norm_shapes, _remember_norm, _differentiate_norm)
backward = operator("add_norm_cpu_backward", "cpu", _backward, _backward_shapes)
