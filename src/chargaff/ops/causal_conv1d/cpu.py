"""The convolution on the CPU: Numba kernels behind torch operators with a hand-written gradient."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from chargaff.ops.operators import operator

missing = None if find_spec("numba") else "the package numba is not installed"


def unsupported(x: Tensor, *others: object) -> str | None:
    """It computes in float32, on the CPU."""
    if x.device.type != "cpu":
        return f"x is on {x.device}"
    if x.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> Tensor:
    """y [B, L, D]; x is read in place if it is float32 or bfloat16 and its channels are adjacent, else copied."""
    rows = _adjacent(x if x.dtype == torch.bfloat16 else x.float())
    initial = None if initial_state is None else _adjacent(initial_state.to(rows.dtype))
    bias = None if bias is None else bias.float()
    y: Tensor = convolve(rows, weight.float(), bias, initial, activation == "silu", reverse)
    return y.to(x.dtype)


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """y [B, L, D]."""
    from chargaff.ops.causal_conv1d import cpu_kernels

    bias, initial = _filled(x, weight, bias, initial)
    return cpu_kernels.forward(x, weight, bias, initial, silu, reverse)


def _allocate(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    return x.new_empty(x.shape)


def _filled(x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    initial = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]) if initial is None else initial
    return bias, initial


def _convolve_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, initial."""
    from chargaff.ops.causal_conv1d import cpu_kernels

    bias, initial = _filled(x, weight, bias, initial)
    return cpu_kernels.backward(x, weight, bias, initial, silu, reverse, dy)


def _allocate_gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    past = (x.shape[0], weight.shape[1] - 1, x.shape[2])
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0]), x.new_empty(past)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, initial, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(x, weight, bias, initial)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial = ctx.saved_tensors
    dy = _adjacent(dy.to(x.dtype))
    dx, dweight, dbias, dinitial = convolve_backward(x, weight, bias, initial, ctx.silu, ctx.reverse, dy)
    return dx, dweight, None if bias is None else dbias, None if initial is None else dinitial, None, None


convolve = operator("causal_conv1d_cpu", "cpu", _convolve, _allocate, _remember, _differentiate)
convolve_backward = operator("causal_conv1d_cpu_backward", "cpu", _convolve_backward, _allocate_gradients)
