"""A pair of kernels, forward and backward, as one differentiable torch operator; the same for every fast backend."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from chargaff.ops.operators import operator


class Kernels(Protocol):
    """A module with the two directions; weight [D, K], bias [D], past [B, K-1, D] in sequence order."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, silu: bool, reverse: bool) -> Tensor:
        """y [B, L, D]."""

    def backward(
        self, x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, silu: bool, reverse: bool, dy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x, weight, bias, past."""


def build(name: str, device: str, kernels: Callable[[], Kernels]) -> Callable[..., Tensor]:
    """A backend's `run`; `kernels` imports the module of kernels, which may be slow, when they are needed first."""

    def convolve(
        x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool
    ) -> Tensor:
        if x.numel() == 0:
            return torch.empty_like(x)
        return kernels().forward(x, weight, *_filled(x, weight, bias, initial), silu, reverse)

    def convolve_shapes(
        x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool
    ) -> Tensor:
        return x.new_empty(x.shape)

    def convolve_backward(
        x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool, dy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if x.numel() == 0:
            dx, dweight, dbias, dpast = _backward_shapes(x, weight, bias, initial, silu, reverse, dy)
            return dx, dweight.zero_(), dbias.zero_(), dpast
        return kernels().backward(x, weight, *_filled(x, weight, bias, initial), silu, reverse, dy)

    def differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, initial = ctx.saved_tensors
        dy = _adjacent(dy.to(x.dtype))
        dx, dweight, dbias, dpast = backward_operator(x, weight, bias, initial, ctx.silu, ctx.reverse, dy)
        return dx, dweight, None if bias is None else dbias, None if initial is None else dpast, None, None

    convolve_operator = operator(name, device, convolve, convolve_shapes, _remember, differentiate)
    backward_operator = operator(f"{name}_backward", device, convolve_backward, _backward_shapes)

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
        y: Tensor = convolve_operator(rows, weight.float(), bias, initial, activation == "silu", reverse)
        return y.to(x.dtype)

    return run


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _filled(x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    past = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]) if initial is None else initial
    return bias, past


def _backward_shapes(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, silu: bool, reverse: bool, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    past = (x.shape[0], weight.shape[1] - 1, x.shape[2])
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0]), x.new_empty(past)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, initial, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(x, weight, bias, initial)
