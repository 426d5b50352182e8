"""A pair of kernels, forward and backward, as one differentiable torch operator; the same for every fast backend."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from chargaff.ops.operators import operator

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Inputs:
    """What both directions read: u, delta, z of one type, the rest float32; absent ones are zero, an absent z empty."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    bias: Tensor
    softplus: bool
    reverse: bool


class Kernels(Protocol):
    """A module with the two directions, never called with an empty u.

    States are kept at the start of every block of steps, in the order scanned.
    """

    def forward(self, inputs: Inputs, initial: Tensor, y: Tensor, last: Tensor, kept: Tensor) -> None:
        """Fill y [B, L, D], last [B, D, N] and, unless it is empty, kept [B, blocks, N, D]."""

    def backward(self, inputs: Inputs, kept: Tensor, dy: Tensor, dlast: Tensor) -> Gradients:
        """Gradients of u, delta, A, B, C, D, z (empty if it is absent), bias and the initial state."""


def build(name: str, device: str, block: int, kernels: Callable[[], Kernels]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A backend's `run`.

    Args:
        block: steps between two kept states.
        kernels: imports the module of kernels, which may be slow; called when they are needed first.
    """

    def scan(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        initial: Tensor | None,
        softplus: bool,
        reverse: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, last, kept = scan_shapes(u, delta, A, B, C, D, z, bias, initial, softplus, reverse, keep)
        initial = torch.zeros_like(last) if initial is None else initial
        if u.numel() > 0:
            kernels().forward(_filled(u, delta, A, B, C, D, z, bias, softplus, reverse), initial, y, last, kept)
        return y, last, kept

    def scan_shapes(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        initial: Tensor | None,
        softplus: bool,
        reverse: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = u.shape
        states = A.shape[1]
        kept = (batch, (length + block - 1) // block, states, width) if keep else (0, 0, 0, 0)
        return u.new_empty(u.shape), A.new_empty(batch, width, states), A.new_empty(kept)

    def scan_backward(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
        reverse: bool,
        kept: Tensor,
        dy: Tensor,
        dlast: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        if u.numel() == 0:
            du, ddelta, *others = _backward_shapes(u, delta, A, B, C, D, z, bias, softplus, reverse, kept, dy, dlast)
            dA, dB, dC, dD, dz, dbias, dinitial = (torch.zeros_like(x) for x in others)
            return du, ddelta, dA, dB, dC, dD, dz, dbias, dinitial
        return kernels().backward(_filled(u, delta, A, B, C, D, z, bias, softplus, reverse), kept, dy, dlast)

    def differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _kept: None) -> tuple[Tensor | None, ...]:
        *tensors, kept = ctx.saved_tensors
        u, A = tensors[0], tensors[2]
        dy = u.new_zeros(u.shape) if dy is None else _rows(dy, u.dtype)
        dlast = A.new_zeros(u.shape[0], *A.shape) if dlast is None else dlast
        gradients = backward_operator(*tensors, ctx.softplus, ctx.reverse, kept, dy, dlast)
        return (*(g if given else None for g, given in zip(gradients, ctx.given, strict=True)), None, None, None)

    scan_operator = operator(name, device, scan, scan_shapes, _remember, differentiate)
    backward_operator = operator(f"{name}_backward", device, scan_backward, _backward_shapes)

    def run(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        softplus: bool,
        reverse: bool,
        initial_state: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor]:
        """y [B, L, D] and the last state [B, D, N].

        u, delta, z are read in place if all are float32 or all bfloat16 and their channels are adjacent, else copied.
        """
        types = {x.dtype for x in (u, delta, z) if x is not None}
        dtype = torch.bfloat16 if types == {torch.bfloat16} else torch.float32
        rows, given_z = (_rows(u, dtype), _rows(delta, dtype)), None if z is None else _rows(z, dtype)
        optional = [None if x is None else x.float() for x in (D, delta_bias, initial_state)]
        inputs = [*rows, A.float(), B.float(), C.float(), optional[0], given_z, *optional[1:]]
        keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
        y, last, _ = scan_operator(*inputs, softplus, reverse, keep)
        return y.to(u.dtype), last

    return run


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.to(dtype)
    return x if x.stride(2) == 1 else x.contiguous()


def _filled(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    reverse: bool,
) -> Inputs:
    D = A.new_zeros(A.shape[0]) if D is None else D
    bias = A.new_zeros(A.shape[0]) if bias is None else bias
    z = u.new_empty(0, 0, 0) if z is None else z
    return Inputs(u, delta, A, B, C, D, z, bias, softplus, reverse)


def _backward_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    reverse: bool,
    kept: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, channel = (u.new_empty(u.shape), u.new_empty(u.shape)), (A.new_empty(A.shape[0]), A.new_empty(A.shape[0]))
    dz = u.new_empty(0, 0, 0) if z is None else u.new_empty(u.shape)
    selection = (A.new_empty(B.shape), A.new_empty(C.shape))
    return *rows, A.new_empty(A.shape), *selection, channel[0], dz, channel[1], A.new_empty(dlast.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _initial, softplus, reverse, _keep = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.softplus, ctx.reverse, ctx.given = softplus, reverse, [x is not None for x in inputs[:9]]
    ctx.set_materialize_grads(False)
