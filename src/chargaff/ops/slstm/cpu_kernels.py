"""The cell and its gradient as Numba kernels; vectors hold 16 adjacent channels of a head.

A task is a head of up to four sequences, which share the loads of the recurrent weights. Work is cut into pieces by the
shapes alone, so results do not depend on the number of threads. W is the width K of a head padded to whole vectors;
wherever memory is ours, rows are that wide, and the padding does no harm.

Arrays of gates and outputs are float32, or uint16 holding bfloat16; all else is float32. A reversed scan
is the same kernel on views that run backwards. `kept` is in the order of the scan and empty where no gradient follows.
"""

from functools import cache
from typing import Any

import torch
from numba import prange, types
from torch import Tensor

from chargaff.ops.lanes import (
    LANES,
    element,
    exp,
    fma,
    inlined,
    kernel,
    launch,
    load,
    part,
    scratch,
    sigmoid,
    softplus,
    splat,
    store,
    view,
    where_less,
)

ROWS = 4
"""Sequences of a full task: times four gates, the 16 sums that fit the vector registers."""
KEPT = 7
"""Values kept of each step: weight of the input, weight of the memory, sigmoid(-f), tanh(z), sigmoid(o), c, n."""


@inlined
def _cell(
    i: Any, f: Any, z: Any, o: Any, row: int, b: int, t: int, h: int, j: int, count: int, state: Any, y: Any, kept: Any
) -> None:
    """One step of channels j to j + 15 of one sequence, given its gates; state holds y, c, n, m and the next y."""
    one = splat(1.0)
    m = load(state, (3, row, j), LANES)
    held = m - softplus(splat(0.0) - f)
    m = where_less(i, held, held, i)
    added, left = exp(i - m), exp(held - m)
    tanh = sigmoid(z + z)
    tanh = tanh + tanh - one
    c = fma(left, load(state, (1, row, j), LANES), added * tanh)
    n = fma(left, load(state, (2, row, j), LANES), added)
    gate = sigmoid(o)
    out = gate * c / n
    store(state, (1, row, j), LANES, c)
    store(state, (2, row, j), LANES, n)
    store(state, (3, row, j), LANES, m)
    store(state, (4, row, j), LANES, out)
    store(y, (b, t, h, j), count, out)
    if kept.shape[0] > 0:
        store(kept, (h, b, t, 0, j), LANES, added)
        store(kept, (h, b, t, 1, j), LANES, left)
        store(kept, (h, b, t, 2, j), LANES, sigmoid(splat(0.0) - f))
        store(kept, (h, b, t, 3, j), LANES, tanh)
        store(kept, (h, b, t, 4, j), LANES, gate)
        store(kept, (h, b, t, 5, j), LANES, c)
        store(kept, (h, b, t, 6, j), LANES, n)


@inlined
def _four_steps(
    b: int, t: int, h: int, igate: Any, fgate: Any, zgate: Any, ogate: Any, weights: Any, bias: Any, state: Any,
    y: Any, kept: Any,
) -> None:  # fmt: skip
    """One step of sequences b to b + 3."""
    width = igate.shape[3]
    for j in range(0, width, LANES):
        count = width - j
        i0 = load(bias, (h, 0, j), LANES)
        f0 = load(bias, (h, 1, j), LANES)
        z0 = load(bias, (h, 2, j), LANES)
        o0 = load(bias, (h, 3, j), LANES)
        i1, f1, z1, o1 = i0, f0, z0, o0
        i2, f2, z2, o2 = i0, f0, z0, o0
        i3, f3, z3, o3 = i0, f0, z0, o0
        for k in range(width):
            wi, wf = load(weights, (h, k, 0, j), LANES), load(weights, (h, k, 1, j), LANES)
            wz, wo = load(weights, (h, k, 2, j), LANES), load(weights, (h, k, 3, j), LANES)
            past = splat(state[0, 0, k])
            i0, f0, z0, o0 = fma(past, wi, i0), fma(past, wf, f0), fma(past, wz, z0), fma(past, wo, o0)
            past = splat(state[0, 1, k])
            i1, f1, z1, o1 = fma(past, wi, i1), fma(past, wf, f1), fma(past, wz, z1), fma(past, wo, o1)
            past = splat(state[0, 2, k])
            i2, f2, z2, o2 = fma(past, wi, i2), fma(past, wf, f2), fma(past, wz, z2), fma(past, wo, o2)
            past = splat(state[0, 3, k])
            i3, f3, z3, o3 = fma(past, wi, i3), fma(past, wf, f3), fma(past, wz, z3), fma(past, wo, o3)
        for row, i, f, z, o in ((0, i0, f0, z0, o0), (1, i1, f1, z1, o1), (2, i2, f2, z2, o2), (3, i3, f3, z3, o3)):
            i = i + load(igate, (b + row, t, h, j), count)
            f = f + load(fgate, (b + row, t, h, j), count)
            z = z + load(zgate, (b + row, t, h, j), count)
            o = o + load(ogate, (b + row, t, h, j), count)
            _cell(i, f, z, o, row, b + row, t, h, j, count, state, y, kept)


@inlined
def _one_step(
    b: int, t: int, h: int, row: int, igate: Any, fgate: Any, zgate: Any, ogate: Any, weights: Any, bias: Any,
    state: Any, y: Any, kept: Any,
) -> None:  # fmt: skip
    """One step of sequence b."""
    width = igate.shape[3]
    for j in range(0, width, LANES):
        count = width - j
        i = load(bias, (h, 0, j), LANES) + load(igate, (b, t, h, j), count)
        f = load(bias, (h, 1, j), LANES) + load(fgate, (b, t, h, j), count)
        z = load(bias, (h, 2, j), LANES) + load(zgate, (b, t, h, j), count)
        o = load(bias, (h, 3, j), LANES) + load(ogate, (b, t, h, j), count)
        zero = splat(0.0)
        i1, f1, z1, o1 = zero, zero, zero, zero  # a second set, for eight sums that do not wait for one another
        for k in range(0, width - 1, 2):
            past = splat(state[0, row, k])
            i, f = fma(past, load(weights, (h, k, 0, j), LANES), i), fma(past, load(weights, (h, k, 1, j), LANES), f)
            z, o = fma(past, load(weights, (h, k, 2, j), LANES), z), fma(past, load(weights, (h, k, 3, j), LANES), o)
            past = splat(state[0, row, k + 1])
            i1 = fma(past, load(weights, (h, k + 1, 0, j), LANES), i1)
            f1 = fma(past, load(weights, (h, k + 1, 1, j), LANES), f1)
            z1 = fma(past, load(weights, (h, k + 1, 2, j), LANES), z1)
            o1 = fma(past, load(weights, (h, k + 1, 3, j), LANES), o1)
        if width % 2:
            past = splat(state[0, row, width - 1])
            i1 = fma(past, load(weights, (h, width - 1, 0, j), LANES), i1)
            f1 = fma(past, load(weights, (h, width - 1, 1, j), LANES), f1)
            z1 = fma(past, load(weights, (h, width - 1, 2, j), LANES), z1)
            o1 = fma(past, load(weights, (h, width - 1, 3, j), LANES), o1)
        _cell(i + i1, f + f1, z + z1, o + o1, row, b, t, h, j, count, state, y, kept)


@part
def _forward_task(
    h: int, first: int, igate: Any, fgate: Any, zgate: Any, ogate: Any, weights: Any, bias: Any, start: Any, y: Any,
    last: Any, kept: Any,
) -> None:  # fmt: skip
    """A head of sequences first to first + 3, as far as there are so many."""
    batch, length, padded = igate.shape[0], igate.shape[1], bias.shape[2]
    rows = min(ROWS, batch - first)
    state = scratch(5 * ROWS * padded).reshape((5, ROWS, padded))
    for row in range(rows):
        for j in range(0, padded, LANES):
            for part_ in range(4):
                store(state, (part_, row, j), LANES, load(start, (part_, first + row, h, j), LANES))
    for t in range(length):
        if rows == ROWS:
            _four_steps(first, t, h, igate, fgate, zgate, ogate, weights, bias, state, y, kept)
        else:
            for row in range(rows):
                _one_step(first + row, t, h, row, igate, fgate, zgate, ogate, weights, bias, state, y, kept)
        for row in range(rows):
            for j in range(0, padded, LANES):
                store(state, (0, row, j), LANES, load(state, (4, row, j), LANES))
    for row in range(rows):
        for j in range(0, padded, LANES):
            for part_ in range(4):
                store(last, (part_, first + row, h, j), LANES, load(state, (part_, row, j), LANES))


def _forward(
    igate: Any, fgate: Any, zgate: Any, ogate: Any, weights: Any, bias: Any, start: Any, y: Any, last: Any, kept: Any
) -> None:
    batch, heads = igate.shape[0], igate.shape[2]
    blocks = (batch + ROWS - 1) // ROWS
    for task in prange(heads * blocks):
        h, first = task // blocks, task % blocks * ROWS
        _forward_task(h, first, igate, fgate, zgate, ogate, weights, bias, start, y, last, kept)


@inlined
def _cell_backward(
    row: int, b: int, t: int, h: int, j: int, count: int, start: Any, kept: Any, dy: Any, slopes: Any, dgates: Any,
    local: Any,
) -> None:  # fmt: skip
    """Gradients of the gates; slopes holds those of y (from later steps), c, n, and of m where it is the maximum."""
    one = splat(1.0)
    added, left = load(kept, (h, b, t, 0, j), LANES), load(kept, (h, b, t, 1, j), LANES)
    forgotten, tanh = load(kept, (h, b, t, 2, j), LANES), load(kept, (h, b, t, 3, j), LANES)
    gate = load(kept, (h, b, t, 4, j), LANES)
    c, n = load(kept, (h, b, t, 5, j), LANES), load(kept, (h, b, t, 6, j), LANES)
    if t > 0:
        c_past, n_past = load(kept, (h, b, t - 1, 5, j), LANES), load(kept, (h, b, t - 1, 6, j), LANES)
    else:
        c_past, n_past = load(start, (1, b, h, j), LANES), load(start, (2, b, h, j), LANES)
    dout = load(dy, (b, t, h, j), count) + load(slopes, (0, row, j), LANES)
    ratio, share = c / n, gate / n
    dc = fma(dout, share, load(slopes, (1, row, j), LANES))
    dn = load(slopes, (2, row, j), LANES) - dout * share * ratio
    dm = load(slopes, (3, row, j), LANES)
    dm_past = where_less(added, one, dm, splat(0.0))  # the exponent of the memory was the larger one
    di = fma(fma(dc, tanh, dn), added, dm - dm_past)
    df = fma(fma(dc, c_past, dn * n_past), left, dm_past) * forgotten
    dz = dc * added * (one - tanh * tanh)
    do = dout * ratio * gate * (one - gate)
    store(slopes, (1, row, j), LANES, dc * left)
    store(slopes, (2, row, j), LANES, dn * left)
    store(slopes, (3, row, j), LANES, dm_past)
    store(local, (row, 0, j), LANES, di)
    store(local, (row, 1, j), LANES, df)
    store(local, (row, 2, j), LANES, dz)
    store(local, (row, 3, j), LANES, do)
    store(dgates, (h, b, t, 0, j), LANES, di)
    store(dgates, (h, b, t, 1, j), LANES, df)
    store(dgates, (h, b, t, 2, j), LANES, dz)
    store(dgates, (h, b, t, 3, j), LANES, do)


@inlined
def _four_back(h: int, width: int, turned: Any, local: Any, slopes: Any) -> None:
    """Gradient of the last output of four sequences from that of the gates it went into."""
    padded = turned.shape[3]
    for k in range(0, padded - LANES, 2 * LANES):
        zero = splat(0.0)
        a0, a1, b0, b1, c0, c1, d0, d1 = zero, zero, zero, zero, zero, zero, zero, zero
        for g in range(4):
            for j in range(width):
                w0, w1 = load(turned, (h, g, j, k), LANES), load(turned, (h, g, j, k + LANES), LANES)
                slope = splat(local[0, g, j])
                a0, a1 = fma(slope, w0, a0), fma(slope, w1, a1)
                slope = splat(local[1, g, j])
                b0, b1 = fma(slope, w0, b0), fma(slope, w1, b1)
                slope = splat(local[2, g, j])
                c0, c1 = fma(slope, w0, c0), fma(slope, w1, c1)
                slope = splat(local[3, g, j])
                d0, d1 = fma(slope, w0, d0), fma(slope, w1, d1)
        for row, x0, x1 in ((0, a0, a1), (1, b0, b1), (2, c0, c1), (3, d0, d1)):
            store(slopes, (0, row, k), LANES, x0)
            store(slopes, (0, row, k + LANES), LANES, x1)
    if padded % (2 * LANES):
        k = padded - LANES
        for row in range(ROWS):
            _one_back(h, row, k, width, turned, local, slopes)


@inlined
def _one_back(h: int, row: int, k: int, width: int, turned: Any, local: Any, slopes: Any) -> None:
    """The same for one sequence and 16 channels."""
    zero = splat(0.0)
    i, f, z, o = zero, zero, zero, zero
    for j in range(width):
        i = fma(splat(local[row, 0, j]), load(turned, (h, 0, j, k), LANES), i)
        f = fma(splat(local[row, 1, j]), load(turned, (h, 1, j, k), LANES), f)
        z = fma(splat(local[row, 2, j]), load(turned, (h, 2, j, k), LANES), z)
        o = fma(splat(local[row, 3, j]), load(turned, (h, 3, j, k), LANES), o)
    store(slopes, (0, row, k), LANES, (i + f) + (z + o))


@part
def _backward_task(
    h: int, first: int, turned: Any, start: Any, kept: Any, dy: Any, dlast: Any, dgates: Any, dstart: Any
) -> None:
    """A head of sequences first to first + 3, as far as there are so many."""
    batch, length, width, padded = dy.shape[0], dy.shape[1], dy.shape[3], turned.shape[3]
    rows = min(ROWS, batch - first)
    slopes = scratch(4 * ROWS * padded).reshape((4, ROWS, padded))
    local = scratch(ROWS * 4 * padded).reshape((ROWS, 4, padded))
    for row in range(rows):
        for j in range(0, padded, LANES):
            for part_ in range(4):
                store(slopes, (part_, row, j), LANES, load(dlast, (part_, first + row, h, j), LANES))
    for t in range(length - 1, -1, -1):
        for row in range(rows):
            for j in range(0, width, LANES):
                _cell_backward(
                    row, first + row, t, h, j, width - j, start, kept, dy, slopes, dgates, local
                )  # fmt: skip
        if rows == ROWS:
            _four_back(h, width, turned, local, slopes)
        else:
            for row in range(rows):
                for k in range(0, padded, LANES):
                    _one_back(h, row, k, width, turned, local, slopes)
    for row in range(rows):
        for j in range(0, padded, LANES):
            for part_ in range(4):
                store(dstart, (part_, first + row, h, j), LANES, load(slopes, (part_, row, j), LANES))


def _backward(turned: Any, start: Any, kept: Any, dy: Any, dlast: Any, dgates: Any, dstart: Any) -> None:
    batch, heads = dy.shape[0], dy.shape[2]
    blocks = (batch + ROWS - 1) // ROWS
    for task in prange(heads * blocks):
        h, first = task // blocks, task % blocks * ROWS
        _backward_task(h, first, turned, start, kept, dy, dlast, dgates, dstart)


def _dense(dim: int) -> Any:
    return types.Array(types.float32, dim, "C")


@cache
def _forward_kernel(x: Any) -> Any:
    rows = types.Array(x, 4, "A")
    ours = (_dense(4), _dense(3), _dense(4))
    return kernel(types.void(rows, rows, rows, rows, *ours, rows, _dense(4), _dense(5)), _forward)


@cache
def _backward_kernel(x: Any) -> Any:
    rows, dgates = types.Array(x, 4, "A"), types.Array(types.float32, 5, "A")
    return kernel(types.void(_dense(4), _dense(4), _dense(5), rows, _dense(4), dgates, _dense(4)), _backward)


def padded_width(width: int) -> int:
    """W."""
    return -(-width // LANES) * LANES


def forward(
    gates: tuple[Tensor, ...], weights: Tensor, bias: Tensor, start: Tensor, reverse: bool, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, L, H, K], the last y, c, n, m as [4, B, H, W], and what the gradient needs [H, B, L, KEPT, W] or nothing.

    Args:
        gates: four of [B, L, H, K], all float32 or all bfloat16, with adjacent channels.
        weights: [H, K, 4, W]; bias: [H, 4, W]; start: y, c, n, m as [4, B, H, W]; padded and float32.
    """
    batch, length, heads, _ = gates[0].shape
    y = torch.empty(gates[0].shape, dtype=gates[0].dtype)
    last = torch.empty(start.shape)
    kept = torch.empty((heads, batch, length, KEPT, start.shape[3]) if keep else (0, 0, 0, 0, 0))
    rows = [view(x, backwards=reverse) for x in gates]
    launch(
        _forward_kernel(element(y.dtype)), *rows, view(weights), view(bias), view(start), view(y, backwards=reverse),
        view(last), view(kept),
    )  # fmt: skip
    return y, last, kept


def backward(
    turned: Tensor, start: Tensor, kept: Tensor, dy: Tensor, dlast: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the gates [H, B, L, 4, W], in the order of the sequence, and of the start [4, B, H, W].

    Args:
        turned: [H, 4, K, W (of y)], the weights the other way round.
        dlast: of the last state as `forward` gives it; that of m without the part of c and n that goes with it.
    """
    batch, length, heads, _ = dy.shape
    dgates = torch.empty(heads, batch, length, 4, start.shape[3])
    dstart = torch.empty(start.shape)
    rows = view(dgates)
    launch(
        _backward_kernel(element(dy.dtype)), view(turned), view(start), view(kept), view(dy, backwards=reverse),
        view(dlast), rows[:, :, ::-1] if reverse else rows, view(dstart),
    )  # fmt: skip
    return dgates, dstart
