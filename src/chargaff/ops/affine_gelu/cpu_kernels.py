"""Both forms are v sigmoid(2 z) with z a cubic in v: v / (1 + 2^(v (rate + cubic v^2))), 16 channels at a time."""

from functools import cache
from typing import Any

import torch
from numba import prange, types
from torch import Tensor

from chargaff.ops.lanes import LANES, LOG2_E, element, exp2, fma, kernel, launch, load, part, splat, store, view

CHUNK = 32
"""Rows of one task."""
_TANH_RATE = -2 * 0.7978845608028654 * LOG2_E
COEFFICIENTS = {"tanh": (_TANH_RATE, 0.044715 * _TANH_RATE), "sigmoid": (-1.702 * LOG2_E, 0.0)}
"""Form -> rate, cubic."""


@part
def _chunk(x: Any, scale: Any, shift: Any, y: Any, start: int, stop: int, rate: float, cubic: float) -> None:
    width = x.shape[1]
    for r in range(start, stop):
        for d in range(0, width, LANES):
            count = width - d
            value = fma(load(x, (r, d), count), load(scale, (d,), count), load(shift, (d,), count))
            # an infinite square times zero would be no number
            slope = splat(rate) if cubic == 0.0 else fma(value * value, splat(cubic), splat(rate))
            exponent = value * slope
            store(y, (r, d), count, value / (splat(1.0) + exp2(exponent)))


def _forward(x: Any, scale: Any, shift: Any, y: Any, rate: float, cubic: float) -> None:
    for task in prange((x.shape[0] + CHUNK - 1) // CHUNK):
        start = task * CHUNK
        _chunk(x, scale, shift, y, start, min(start + CHUNK, x.shape[0]), rate, cubic)


@cache
def _kernel(kind: Any) -> Any:
    rows, channels = types.Array(kind, 2, "C"), types.Array(types.float32, 1, "C")
    return kernel(types.void(rows, channels, channels, rows, types.float64, types.float64), _forward)


def forward(x: Tensor, scale: Tensor, shift: Tensor, form: str) -> Tensor:
    """[l, C] in x's type."""
    x = x.detach().contiguous()
    y = torch.empty_like(x)
    channels = [view(tensor.contiguous()) for tensor in (scale, shift)]
    launch(_kernel(element(x.dtype)), view(x), *channels, view(y), *COEFFICIENTS[form])
    return y
