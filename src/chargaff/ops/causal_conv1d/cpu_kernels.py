"""The convolution and its gradient as Numba kernels; vectors hold 16 adjacent channels.

Work is cut into CHUNK rows of one sequence whatever the number of threads, and sums over rows are made per chunk and
then in order, so results do not depend on threads. A reversed convolution is the same kernel on views that run
backwards. x, y, past and their gradients are float32, or uint16 holding bfloat16; weights lie as [K, D].
"""

from functools import cache, partial
from typing import Any

import torch
from numba import prange, types
from torch import Tensor

from chargaff.ops.lanes import (
    LANES,
    element,
    fma,
    kernel,
    launch,
    load,
    part,
    scratch,
    sigmoid,
    splat,
    store,
    sum_in_order,
    view,
)

CHUNK = 128
"""Rows of one task."""


@part
def _read_past(window: Any, b: int, start: int, x: Any, past: Any) -> None:
    """Fill rows 0 to K-2 of the window [K, D] with the positions before `start`; those below 0 lie in `past`."""
    width, before = x.shape[2], past.shape[1]
    for row in range(before):
        position = start - before + row
        for d in range(0, width, LANES):
            count = width - d
            if position >= 0:
                store(window, (row, d), LANES, load(x, (b, position, d), count))
            else:
                store(window, (row, d), LANES, load(past, (b, position + before, d), count))


@part
def _forward_chunk(b: int, start: int, x: Any, weight: Any, bias: Any, past: Any, y: Any, silu: bool) -> None:
    width, taps = x.shape[2], weight.shape[0]
    padded = (width + LANES - 1) // LANES * LANES
    window = scratch(taps * padded).reshape((taps, padded))  # the last K rows of x, a ring
    _read_past(window, b, start, x, past)
    oldest = 0
    for t in range(start, min(start + CHUNK, x.shape[1])):
        newest = oldest - 1 if oldest > 0 else taps - 1
        for d in range(0, width, LANES):
            count = width - d
            store(window, (newest, d), LANES, load(x, (b, t, d), count))
            value = load(bias, (d,), count)
            for j in range(taps):
                row = oldest + j if oldest + j < taps else oldest + j - taps
                value = fma(load(weight, (j, d), count), load(window, (row, d), LANES), value)
            store(y, (b, t, d), count, value * sigmoid(value) if silu else value)
        oldest = oldest + 1 if oldest + 1 < taps else 0


def _forward(x: Any, weight: Any, bias: Any, past: Any, y: Any, silu: bool) -> None:
    chunks = (x.shape[1] + CHUNK - 1) // CHUNK
    for task in prange(x.shape[0] * chunks):
        _forward_chunk(task // chunks, task % chunks * CHUNK, x, weight, bias, past, y, silu)


@part
def _backward_chunk(
    b: int,
    start: int,
    x: Any,
    weight: Any,
    bias: Any,
    past: Any,
    dy: Any,
    dx: Any,
    dpast: Any,
    dchannel: Any,
    silu: bool,
) -> None:
    """dx of the chunk's rows, dpast in the first chunk; its part of dweight, then dbias, in dchannel [K + 1, D]."""
    length, width, taps = x.shape[1], x.shape[2], weight.shape[0]
    stop = min(start + CHUNK, length)
    padded = (width + LANES - 1) // LANES * LANES
    sums = scratch((taps + 1) * padded).reshape((taps + 1, padded))
    window = scratch(taps * padded).reshape((taps, padded))  # the last K rows of x, a ring
    dwindow = scratch(taps * padded).reshape((taps, padded))  # gradients of their preactivations
    sums[:] = 0
    dwindow[:] = 0
    _read_past(window, b, start, x, past)
    oldest = 0
    for t in range(start, stop + taps - 1):
        newest = oldest - 1 if oldest > 0 else taps - 1
        target = t - (taps - 1)  # no later row contributes to dx there
        for d in range(0, width, LANES):
            count = width - d
            dvalue = splat(0.0)
            if t < length:
                store(window, (newest, d), LANES, load(x, (b, t, d), count))
                dvalue = load(dy, (b, t, d), count)
                if silu:
                    value = load(bias, (d,), count)
                    for j in range(taps):
                        row = oldest + j if oldest + j < taps else oldest + j - taps
                        value = fma(load(weight, (j, d), count), load(window, (row, d), LANES), value)
                    s = sigmoid(value)
                    dvalue = dvalue * s * fma(value, splat(1.0) - s, splat(1.0))
            store(dwindow, (newest, d), LANES, dvalue)
            if t < stop:
                for j in range(taps):
                    row = oldest + j if oldest + j < taps else oldest + j - taps
                    product = fma(dvalue, load(window, (row, d), LANES), load(sums, (j, d), LANES))
                    store(sums, (j, d), LANES, product)
                store(sums, (taps, d), LANES, load(sums, (taps, d), LANES) + dvalue)
            if target >= start or start == 0:
                dsource = splat(0.0)
                for j in range(taps):
                    row = newest - j if newest >= j else newest - j + taps
                    dsource = fma(load(weight, (j, d), count), load(dwindow, (row, d), LANES), dsource)
                if target >= 0:
                    store(dx, (b, target, d), count, dsource)
                else:
                    store(dpast, (b, target + taps - 1, d), count, dsource)
        oldest = oldest + 1 if oldest + 1 < taps else 0
    for j in range(taps + 1):
        for d in range(0, width, LANES):
            store(dchannel, (j, d), width - d, load(sums, (j, d), LANES))


def _backward(
    x: Any, weight: Any, bias: Any, past: Any, dy: Any, dx: Any, dpast: Any, dchannel: Any, silu: bool
) -> None:
    chunks = (x.shape[1] + CHUNK - 1) // CHUNK
    for task in prange(x.shape[0] * chunks):
        start = task % chunks * CHUNK
        _backward_chunk(task // chunks, start, x, weight, bias, past, dy, dx, dpast, dchannel[task], silu)


@cache
def _forward_kernel(kind: Any) -> Any:
    rows, (bias, weight) = types.Array(kind, 3, "A"), (types.Array(types.float32, dim, "A") for dim in (1, 2))
    return kernel(types.void(rows, weight, bias, rows, rows, types.boolean), _forward)


@cache
def _backward_kernel(kind: Any) -> Any:
    rows, (bias, weight, sums) = types.Array(kind, 3, "A"), (types.Array(types.float32, dim, "A") for dim in (1, 2, 3))
    return kernel(types.void(rows, weight, bias, rows, rows, rows, rows, sums, types.boolean), _backward)


def forward(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, silu: bool, reverse: bool) -> Tensor:
    """y [B, L, D]; weight is [D, K], past [B, K-1, D] in sequence order."""
    y = torch.empty(x.shape, dtype=x.dtype)
    along = partial(view, backwards=reverse)
    weight = weight.t().contiguous()
    launch(_forward_kernel(element(x.dtype)), along(x), view(weight), view(bias), along(past), along(y), silu)
    return y


def backward(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, silu: bool, reverse: bool, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, past."""
    taps = weight.shape[1]
    dx, dpast = torch.empty(x.shape, dtype=x.dtype), torch.empty(past.shape, dtype=x.dtype)
    dchannel = torch.empty(x.shape[0] * -(-x.shape[1] // CHUNK), taps + 1, x.shape[2])
    along = partial(view, backwards=reverse)
    arrays = (along(x), view(weight.t().contiguous()), view(bias), along(past), along(dy), along(dx), along(dpast))
    launch(_backward_kernel(element(x.dtype)), *arrays, view(dchannel), silu)
    summed = sum_in_order(dchannel)
    return dx, summed[:taps].t().contiguous(), summed[taps].clone(), dpast
