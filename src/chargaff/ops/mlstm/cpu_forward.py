"""The sums of the cell as a Numba kernel; see `cpu_tiles`."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import prange, types
from torch import Tensor

from chargaff.ops.lanes import (
    LANES,
    fma,
    kernel,
    launch,
    load,
    part,
    scratch,
    splat,
    store,
    total,
    view,
)
from chargaff.ops.mlstm.cpu_tiles import (
    COLUMNS,
    ROWS,
    array_type,
    copy_state,
    dot,
    exponents,
    fetch,
    matrix,
    numbers_to,
    product,
    scale_rows,
    turn,
    turned_product,
    weights,
)


@part
def _scores(q: Any, turned_k: Any, width: int, size: int, source: Any, top: Any, numbers: Any, scores: Any) -> None:
    """Weighted products of queries and keys, zero for later positions."""
    for t in range(0, size, ROWS):
        for s in range(0, t + ROWS, COLUMNS):
            tile = product(q, t, 0, width, turned_k, s)
            for row, (left, right) in ((0, tile[0]), (1, tile[1]), (2, tile[2]), (3, tile[3])):
                store(scores, (t + row, s), LANES, left * weights(source, top, numbers, t + row, s))
                store(
                    scores, (t + row, s + LANES), LANES, right * weights(source, top, numbers, t + row, s + LANES)
                )  # fmt: skip


@part
def _rows_of_output(
    scores: Any, v: Any, q: Any, C: Any, width: int, size: int, numerator: Any, b: int, start: int, h: int
) -> None:
    """numerator = scores @ v + q @ C, with q already times the weight of the state."""
    for t in range(0, size, ROWS):
        for j in range(0, width, COLUMNS):
            near = product(scores, t, 0, min(t + ROWS, size), v, j)
            far = product(q, t, 0, width, C, j)
            for row, (left, right), (more_left, more_right) in (
                (0, near[0], far[0]), (1, near[1], far[1]), (2, near[2], far[2]), (3, near[3], far[3]),
            ):  # fmt: skip
                if t + row < size:
                    store(numerator, (b, start + t + row, h, j), width - j, left + more_left)
                    store(numerator, (b, start + t + row, h, j + LANES), width - j - LANES, right + more_right)


@part
def _next_state(C: Any, n: Any, k: Any, v: Any, width: int, size: int, decay: Any) -> None:
    """C = decay C + k.T @ v and n alike, with k already times its weights."""
    old = splat(decay)
    for i in range(0, width, ROWS):
        for j in range(0, width, COLUMNS):
            tile = turned_product(k, i, 0, size, v, j)
            for row, (left, right) in ((0, tile[0]), (1, tile[1]), (2, tile[2]), (3, tile[3])):
                store(C, (i + row, j), LANES, fma(old, load(C, (i + row, j), LANES), left))
                store(C, (i + row, j + LANES), LANES, fma(old, load(C, (i + row, j + LANES), LANES), right))
    for j in range(0, width, LANES):
        sums = old * load(n, (j,), LANES)
        for s in range(size):
            sums = sums + load(k, (s, j), LANES)
        store(n, (j,), LANES, sums)


@part
def _forward_task(
    b: int, h: int, chunk: int, q: Any, k: Any, v: Any, igate: Any, fgate: Any, numerator: Any, norm: Any,
    exponent: Any, C: Any, n: Any, m: Any, kept_C: Any, kept_n: Any, kept_m: Any,
) -> None:  # fmt: skip
    """One head of one sequence; C [W, W] and n [W] are its state, which changes, and so does m[b, h]."""
    length, width = q.shape[1], q.shape[3]
    W = C.shape[0]
    S = (chunk + COLUMNS - 1) // COLUMNS * COLUMNS
    queries, keys = matrix(S, W), matrix(S, W)
    values, turned = matrix(S, W), matrix(W, S)
    scores = matrix(S, S)
    m_rows, source, top = scratch(S), matrix(2, S), matrix(2, S)
    from_state, into_state, winner = scratch(S), scratch(S), np.empty(S, np.int64)
    numbers = numbers_to(S)
    scale = np.float32(1.0 / np.sqrt(width))
    for start in range(0, length, chunk):
        size = min(chunk, length - start)
        if kept_C.shape[0] > 0:
            number = start // chunk
            copy_state(C, n, kept_C[b, h, number], kept_n[b, h, number])
            kept_m[b, h, number] = m[b, h]
        fetch(q, b, start, h, size, np.float32(1.0), queries)
        fetch(k, b, start, h, size, scale, keys)
        fetch(v, b, start, h, size, np.float32(1.0), values)
        exponents(
            igate, fgate, b, start, h, size, m[b, h], m_rows, source, top, winner, from_state, into_state
        )  # fmt: skip
        turn(keys, S, width, turned)
        _scores(queries, turned, width, size, source, top, numbers, scores)
        scale_rows(queries, from_state)
        _rows_of_output(scores, values, queries, C, width, size, numerator, b, start, h)
        for t in range(size):
            sums = splat(0.0)
            for s in range(0, t + 1, LANES):
                sums = sums + load(scores, (t, s), LANES)
            norm[b, start + t, h] = total(sums) + dot(queries, t, n)
            exponent[b, start + t, h] = m_rows[t]
        scale_rows(keys, into_state)
        _next_state(C, n, keys, values, width, size, from_state[size - 1])
        m[b, h] = m_rows[size - 1]
    if kept_C.shape[0] > 0:
        number = (length + chunk - 1) // chunk
        copy_state(C, n, kept_C[b, h, number], kept_n[b, h, number])
        kept_m[b, h, number] = m[b, h]


def _forward(
    chunk: int, q: Any, k: Any, v: Any, igate: Any, fgate: Any, numerator: Any, norm: Any, exponent: Any, C: Any,
    n: Any, m: Any, kept_C: Any, kept_n: Any, kept_m: Any,
) -> None:  # fmt: skip
    heads = q.shape[2]
    for task in prange(q.shape[0] * heads):
        b, h = task // heads, task % heads
        _forward_task(
            b, h, chunk, q, k, v, igate, fgate, numerator, norm, exponent, C[b, h], n[b, h], m, kept_C, kept_n, kept_m
        )


@cache
def _forward_kernel() -> Any:
    rows, gates = array_type(4, "A"), array_type(3, "A")
    ours = (
        array_type(4, "C"),
        array_type(3, "C"),
        array_type(2, "C"),
        array_type(5, "C"),
        array_type(4, "C"),
        array_type(3, "C"),
    )
    return kernel(types.void(types.int64, rows, rows, rows, gates, gates, rows, gates, gates, *ours), _forward)


def forward(
    inputs: tuple[Tensor, ...], state: tuple[Tensor, ...], kept: tuple[Tensor, ...], reverse: bool, chunk_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Numerator [B, L, H, K], norm and exponent [B, L, H].

    Args:
        inputs: q, k, v [B, L, H, K] with adjacent channels, igate, fgate [B, L, H].
        state: C [B, H, W, W], n [B, H, W], m [B, H]; becomes the last state.
        kept: to be filled, see above; three empty tensors where no gradient follows.
    """
    batch, length, heads, width = inputs[0].shape
    gates = (batch, length, heads)
    outputs = torch.empty(*gates, width), torch.empty(gates), torch.empty(gates)
    rows = [view(x, backwards=reverse) for x in (*inputs, *outputs)]
    launch(_forward_kernel(), min(chunk_tokens, length), *rows, *(view(x) for x in (*state, *kept)))
    return outputs
