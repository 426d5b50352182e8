"""The scan on the CPU: Numba kernels behind torch operators with a hand-written gradient."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chargaff.ops.operators import operator

if TYPE_CHECKING:
    from chargaff.ops.selective_scan.cpu_kernels import Inputs

missing = None if find_spec("numba") else "the package numba is not installed"

BLOCK = 32
"""Steps between two states kept for the gradient, which recomputes the ones between: at N = 16 a block's states and
decays are 2 x 32 KiB, so they stay in the fastest caches, and all kept states together are half the size of u."""


def unsupported(u: Tensor, *others: object) -> str | None:
    """It computes in float32, on the CPU."""
    if u.device.type != "cpu":
        return f"u is on {u.device}"
    if u.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


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

    u, delta and z are read in place when all are float32 or all bfloat16 and their channels are adjacent, else copied.
    """
    types = {x.dtype for x in (u, delta, z) if x is not None}
    dtype = torch.bfloat16 if types == {torch.bfloat16} else torch.float32
    inputs = [
        _rows(u, dtype), _rows(delta, dtype), _float(A), _float(B), _float(C),
        _float(D), _rows(z, dtype), _float(delta_bias), _float(initial_state),
    ]  # fmt: skip
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    y, last, _ = scan(*inputs, softplus, reverse, keep)
    return y.to(u.dtype), last


def _rows(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if x is None:
        return None
    x = x.to(dtype)
    return x if x.stride(2) == 1 else x.contiguous()


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


def _scan(
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
    """(y, last state, with `keep` the states at the start of each block in scan order, else nothing)."""
    from chargaff.ops.selective_scan import cpu_kernels

    y, last, kept = _allocate(u, delta, A, B, C, D, z, bias, initial, softplus, reverse, keep)
    initial = torch.zeros(last.shape) if initial is None else initial
    cpu_kernels.forward(_gather(u, delta, A, B, C, D, z, bias, softplus, reverse), initial, y, last, kept)
    return y, last, kept


def _allocate(
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
    kept = (batch, (length + BLOCK - 1) // BLOCK, states, width) if keep else (0, 0, 0, 0)
    return u.new_empty(u.shape), A.new_empty(batch, width, states), A.new_empty(kept)


def _gather(
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
) -> "Inputs":
    from chargaff.ops.selective_scan.cpu_kernels import Inputs

    D = A.new_zeros(A.shape[0]) if D is None else D
    bias = A.new_zeros(A.shape[0]) if bias is None else bias
    z = u.new_empty(0, 0, 0) if z is None else z
    return Inputs(u, delta, A, B, C, D, z, bias, softplus, reverse)


def _scan_backward(
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
    """Gradients of u, delta, A, B, C, D, z (empty if it is absent), bias, initial."""
    from chargaff.ops.selective_scan import cpu_kernels

    return cpu_kernels.backward(_gather(u, delta, A, B, C, D, z, bias, softplus, reverse), kept, dy, dlast)


def _allocate_gradients(
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
    width = A.shape[0]
    dz = u.new_empty(0, 0, 0) if z is None else u.new_empty(u.shape)
    channel = (A.new_empty(width), dz, A.new_empty(width))
    return (
        u.new_empty(u.shape), u.new_empty(u.shape), A.new_empty(A.shape), A.new_empty(B.shape), A.new_empty(C.shape),
        *channel, A.new_empty(dlast.shape),
    )  # fmt: skip


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _initial, softplus, reverse, _keep = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.softplus, ctx.reverse, ctx.given = softplus, reverse, [x is not None for x in inputs[:9]]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _kept: None) -> tuple[Tensor | None, ...]:
    *tensors, kept = ctx.saved_tensors
    u, A = tensors[0], tensors[2]
    dy = u.new_zeros(u.shape) if dy is None else _rows(dy, u.dtype)
    dlast = A.new_zeros(u.shape[0], *A.shape) if dlast is None else dlast
    gradients = scan_backward(*tensors, ctx.softplus, ctx.reverse, kept, dy, dlast)
    return (*(g if given else None for g, given in zip(gradients, ctx.given, strict=True)), None, None, None)


scan = operator("selective_scan_cpu", "cpu", _scan, _allocate, _remember, _differentiate)
scan_backward = operator("selective_scan_cpu_backward", "cpu", _scan_backward, _allocate_gradients)
