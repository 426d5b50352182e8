"""The cell on the CPU: Numba kernels behind torch operators with a hand-written gradient."""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.ops.operators import operator

missing = None if find_spec("numba") else "the package numba is not installed"


def unsupported(igate: Tensor, *others: object) -> str | None:
    """It computes in float32, on the CPU."""
    if igate.device.type != "cpu":
        return f"igate is on {igate.device}"
    if igate.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


def run(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    reverse: bool,
    y: Tensor,
    c: Tensor,
    n: Tensor,
    m: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All y [B, L, H, K], and y, c, n, m [B, H, K] after the last step.

    Gates are read in place when all are float32 or all bfloat16 and their channels are adjacent, else copied.
    """
    gates = (igate, fgate, zgate, ogate)
    dtype = torch.bfloat16 if {x.dtype for x in gates} == {torch.bfloat16} else torch.float32
    rows = [_adjacent(x.to(dtype)) for x in gates]
    m = torch.where(n == 0, float("-inf"), m)  # an empty state has no exponent of its own
    start = torch.stack([x.float() for x in (y, c, n, m)])
    inputs = (*rows, recurrent.float(), bias.float(), start)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    out, last, _ = cell(*inputs, reverse, keep)
    return out.to(igate.dtype), *last.unbind(0)


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _cell(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    start: Tensor,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, last state [4, B, H, K], with `keep` what the gradient needs, else nothing)."""
    from chargaff.ops.slstm import cpu_kernels

    width = igate.shape[3]
    gates = (igate, fgate, zgate, ogate)
    y, last, kept = cpu_kernels.forward(gates, _wide(recurrent), _wide(bias), _wide(start), reverse, keep=keep)
    return y, last[..., :width].contiguous(), kept


def _wide(x: Tensor) -> Tensor:
    """Padded in the last axis to whole vectors, dense."""
    from chargaff.ops.slstm.cpu_kernels import padded_width

    width = x.shape[-1]
    return F.pad(x.detach(), (0, padded_width(width) - width)).contiguous()


def _allocate(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    start: Tensor,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from chargaff.ops.slstm.cpu_kernels import KEPT, padded_width

    batch, length, heads, width = igate.shape
    kept = (heads, batch, length, KEPT, padded_width(width)) if keep else (0, 0, 0, 0, 0)
    return igate.new_empty(igate.shape), start.new_empty(start.shape), start.new_empty(kept)


def _cell_backward(
    recurrent: Tensor, start: Tensor, reverse: bool, y: Tensor, last: Tensor, kept: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the gates [H, B, L, 4, K], the recurrent weights, the bias and the start."""
    from chargaff.ops.slstm import cpu_kernels

    heads, width, _, _ = recurrent.shape
    batch, length = y.shape[:2]
    # c and n go with exp(-m): what is left of the gradient of m concerns the maximum alone
    dlast = torch.cat([dlast[:3], (dlast[3] - dlast[1] * last[1] - dlast[2] * last[2]).unsqueeze(0)])
    turned = _wide(recurrent.permute(0, 2, 3, 1))
    dgates, dstart = cpu_kernels.backward(turned, _wide(start), kept, dy, _wide(dlast), reverse)
    dgates, dstart = dgates[..., :width], dstart[..., :width].contiguous()
    dstart[3] += dstart[1] * start[1] + dstart[2] * start[2]
    first = start[0].unsqueeze(1).to(y.dtype)
    before = torch.cat([y[:, 1:], first] if reverse else [first, y[:, :-1]], 1).float()  # the output each step saw
    before = before.permute(2, 3, 0, 1).reshape(heads, width, batch * length)
    flat = dgates.reshape(heads, batch * length, 4 * width)
    with torch.autocast("cpu", enabled=False):
        drecurrent = torch.bmm(before, flat).view(recurrent.shape)
    return dgates.contiguous(), drecurrent, flat.sum(1).view(heads, 4, width), dstart


def _allocate_gradients(
    recurrent: Tensor, start: Tensor, reverse: bool, y: Tensor, last: Tensor, kept: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, heads, width = y.shape
    dgates, dbias = start.new_empty(heads, batch, length, 4, width), start.new_empty(heads, 4, width)
    return dgates, recurrent.new_empty(recurrent.shape), dbias, start.new_empty(start.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, recurrent, _bias, start, ctx.reverse, _keep = inputs
    ctx.save_for_backward(recurrent, start, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _kept: None) -> tuple[Tensor | None, ...]:
    recurrent, start, y, last, kept = ctx.saved_tensors
    dy = torch.zeros_like(y) if dy is None else _adjacent(dy.to(y.dtype))
    dlast = torch.zeros_like(last) if dlast is None else dlast
    dgates, drecurrent, dbias, dstart = cell_backward(recurrent, start, ctx.reverse, y, last, kept, dy, dlast)
    by_gate = (x.permute(1, 2, 0, 3).to(y.dtype) for x in dgates.unbind(3))  # [B, L, H, K]
    return (*by_gate, drecurrent, dbias, dstart, None, None)


cell = operator("slstm_cpu", "cpu", _cell, _allocate, _remember, _differentiate)
cell_backward = operator("slstm_cpu_backward", "cpu", _cell_backward, _allocate_gradients)
