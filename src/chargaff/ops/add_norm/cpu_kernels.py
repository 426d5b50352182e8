"""The sum and the norm, and their gradient, as Numba kernels; vectors hold 16 adjacent channels.

Work is cut into CHUNK rows whatever the number of threads, and the gradients of the weights are summed per chunk and
then in order, so results do not depend on threads. Rows are float32, or uint16 holding bfloat16.
"""

from functools import cache
from typing import Any

import numpy as np
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
    splat,
    store,
    sum_in_order,
    total,
    view,
)

CHUNK = 64
"""Rows of one task."""


@part
def _forward_chunk(
    start: int,
    branch: Any,
    residual: Any,
    weight: Any,
    bias: Any,
    normed: Any,
    summed: Any,
    moments: Any,
    eps: float,
    added: bool,
    centred: bool,
) -> None:
    rows, width = branch.shape
    row = scratch(width + LANES)
    for r in range(start, min(start + CHUNK, rows)):
        sums = splat(0.0)
        for d in range(0, width, LANES):
            count = width - d
            x = load(branch, (r, d), count)
            if added:
                x = x + load(residual, (r, d), count)
                store(summed, (r, d), count, x)
            store(row, (d,), LANES, x)
            sums = sums + x
        mean = total(sums) / np.float32(width) if centred else np.float32(0)
        squares = splat(0.0)
        for d in range(0, width, LANES):
            count = width - d
            store(row, (d,), count, load(row, (d,), count) - splat(mean))
            x = load(row, (d,), count)  # without the lanes past the end, which hold -mean
            squares = fma(x, x, squares)
        scale = np.float32(1) / np.sqrt(total(squares) / np.float32(width) + np.float32(eps))
        for d in range(0, width, LANES):
            count = width - d
            x = load(row, (d,), count) * splat(scale)
            store(normed, (r, d), count, fma(x, load(weight, (d,), count), load(bias, (d,), count)))
        moments[r, 0] = mean
        moments[r, 1] = scale


def _forward(
    branch: Any,
    residual: Any,
    weight: Any,
    bias: Any,
    normed: Any,
    summed: Any,
    moments: Any,
    eps: float,
    added: bool,
    centred: bool,
) -> None:
    for task in prange((branch.shape[0] + CHUNK - 1) // CHUNK):
        _forward_chunk(task * CHUNK, branch, residual, weight, bias, normed, summed, moments, eps, added, centred)


@part
def _backward_chunk(
    start: int,
    x: Any,
    weight: Any,
    moments: Any,
    dnormed: Any,
    dsum: Any,
    dx: Any,
    dchannel: Any,
    added: bool,
    centred: bool,
) -> None:
    """dx of the chunk's rows; its part of dweight, then dbias, in dchannel [2, D]."""
    rows, width = x.shape
    padded = (width + LANES - 1) // LANES * LANES
    sums = scratch(2 * padded).reshape((2, padded))
    sums[:] = 0
    for r in range(start, min(start + CHUNK, rows)):
        mean, scale = splat(moments[r, 0]), splat(moments[r, 1])
        along, level = splat(0.0), splat(0.0)
        for d in range(0, width, LANES):
            count = width - d
            unit = (load(x, (r, d), count) - mean) * scale
            dy = load(dnormed, (r, d), count)
            store(sums, (0, d), LANES, fma(dy, unit, load(sums, (0, d), LANES)))
            store(sums, (1, d), LANES, load(sums, (1, d), LANES) + dy)
            dunit = dy * load(weight, (d,), count)
            along = fma(dunit, unit, along)
            level = level + dunit
        slope = splat(total(along) / np.float32(width))
        offset = splat(total(level) / np.float32(width) if centred else np.float32(0))
        for d in range(0, width, LANES):
            count = width - d
            unit = (load(x, (r, d), count) - mean) * scale
            dunit = load(dnormed, (r, d), count) * load(weight, (d,), count)
            value = (dunit - offset - unit * slope) * scale
            if added:
                value = value + load(dsum, (r, d), count)
            store(dx, (r, d), count, value)
    for d in range(0, width, LANES):
        store(dchannel, (0, d), width - d, load(sums, (0, d), LANES))
        store(dchannel, (1, d), width - d, load(sums, (1, d), LANES))


def _backward(
    x: Any,
    weight: Any,
    moments: Any,
    dnormed: Any,
    dsum: Any,
    dx: Any,
    dchannel: Any,
    added: bool,
    centred: bool,
) -> None:
    for task in prange((x.shape[0] + CHUNK - 1) // CHUNK):
        _backward_chunk(task * CHUNK, x, weight, moments, dnormed, dsum, dx, dchannel[task], added, centred)


def _array(kind: Any, dims: int) -> Any:
    return types.Array(kind, dims, "A")


@cache
def _forward_kernel(branch: Any, residual: Any) -> Any:
    narrow, wide, channel = _array(branch, 2), _array(residual, 2), _array(types.float32, 1)
    flags = (types.float32, types.boolean, types.boolean)
    rows = (narrow, wide, _array(types.float32, 2))
    return kernel(types.void(narrow, wide, channel, channel, *rows, *flags), _forward)


@cache
def _backward_kernel(x: Any, dnormed: Any, dsum: Any) -> Any:
    single, parts = _array(types.float32, 2), _array(types.float32, 3)
    arrays = (_array(x, 2), _array(types.float32, 1), single, _array(dnormed, 2), _array(dsum, 2), single, parts)
    return kernel(types.void(*arrays, types.boolean, types.boolean), _backward)


def forward(
    branch: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(normed, sum, mean and inverse deviation of each row [rows, 2]); the sum is empty without a residual."""
    added = residual is not None
    residual = branch.new_empty(0, 0) if residual is None else residual
    bias = torch.zeros(weight.shape) if bias is None else bias
    normed, summed = torch.empty(branch.shape, dtype=branch.dtype), torch.empty(residual.shape, dtype=residual.dtype)
    moments = torch.empty(branch.shape[0], 2)
    arrays = (view(tensor) for tensor in (branch, residual, weight, bias, normed, summed, moments))
    launch(_forward_kernel(element(branch.dtype), element(residual.dtype)), *arrays, eps, added, centred)
    return normed, summed, moments


def backward(
    x: Tensor, weight: Tensor, moments: Tensor, dnormed: Tensor, dsum: Tensor | None, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x in float32, of weight, and of bias."""
    added = dsum is not None
    dsum = x.new_empty(0, 0) if dsum is None else dsum
    dx = torch.empty(x.shape)
    dchannel = torch.empty(-(-x.shape[0] // CHUNK), 2, x.shape[1])
    arrays = (view(tensor) for tensor in (x, weight, moments, dnormed, dsum, dx, dchannel))
    launch(_backward_kernel(*(element(t.dtype) for t in (x, dnormed, dsum))), *arrays, added, centred)
    dweight, dbias = sum_in_order(dchannel)
    return dx, dweight.clone(), dbias.clone()
