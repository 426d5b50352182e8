"""The sums of the cell and their gradient as Numba kernels; the mathematics are those of `chunkwise`.

A task is one head of one sequence; it goes through the chunks with everything of a chunk in the processor's caches. All
products of matrices are made of tiles of 4 rows and 32 columns, whose sums stay in registers. Memory of our own is
padded: W is the width K of a head, and S the size of a chunk, rounded up to 32; the padding is zero. Work is cut into
pieces by the shapes alone, so results do not depend on the number of threads.

Arrays are float32. A reversed scan is the same kernel on views that run backwards. What is kept for the gradient, in
the order of the scan: C [B, H, N + 1, W, W], n [B, H, N + 1, W] and m [B, H, N + 1] before each of N chunks and after
the last.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import prange, types
from torch import Tensor

from chargaff.ops.lanes import (
    LANES,
    exp,
    fma,
    inlined,
    kernel,
    launch,
    load,
    part,
    scratch,
    softplus,
    splat,
    store,
    total,
    view,
    where_less,
)

ROWS, COLUMNS = 4, 2 * LANES
"""Of a tile."""


@inlined
def _product(A: Any, row: int, start: int, stop: int, B: Any, j: int) -> Any:
    """Rows row to row + 3, columns j to j + 31 of A[:, start:stop] @ B[start:stop]: row by row, two vectors each."""
    zero = splat(0.0)
    a0, a1, b0, b1, c0, c1, d0, d1 = zero, zero, zero, zero, zero, zero, zero, zero
    for x in range(start, stop):
        left, right = load(B, (x, j), LANES), load(B, (x, j + LANES), LANES)
        factor = splat(A[row, x])
        a0, a1 = fma(factor, left, a0), fma(factor, right, a1)
        factor = splat(A[row + 1, x])
        b0, b1 = fma(factor, left, b0), fma(factor, right, b1)
        factor = splat(A[row + 2, x])
        c0, c1 = fma(factor, left, c0), fma(factor, right, c1)
        factor = splat(A[row + 3, x])
        d0, d1 = fma(factor, left, d0), fma(factor, right, d1)
    return (a0, a1), (b0, b1), (c0, c1), (d0, d1)


@inlined
def _turned_product(A: Any, row: int, start: int, stop: int, B: Any, j: int) -> Any:
    """The same of A[start:stop].T @ B[start:stop]."""
    zero = splat(0.0)
    a0, a1, b0, b1, c0, c1, d0, d1 = zero, zero, zero, zero, zero, zero, zero, zero
    for x in range(start, stop):
        left, right = load(B, (x, j), LANES), load(B, (x, j + LANES), LANES)
        factor = splat(A[x, row])
        a0, a1 = fma(factor, left, a0), fma(factor, right, a1)
        factor = splat(A[x, row + 1])
        b0, b1 = fma(factor, left, b0), fma(factor, right, b1)
        factor = splat(A[x, row + 2])
        c0, c1 = fma(factor, left, c0), fma(factor, right, c1)
        factor = splat(A[x, row + 3])
        d0, d1 = fma(factor, left, d0), fma(factor, right, d1)
    return (a0, a1), (b0, b1), (c0, c1), (d0, d1)


@part
def _turn(A: Any, rows: int, columns: int, turned: Any) -> None:
    """turned = A.T, as far as rows and columns go."""
    for i in range(rows):
        for j in range(columns):
            turned[j, i] = A[i, j]


@part
def _fetch(source: Any, b: int, t: int, h: int, size: int, scale: float, rows: Any) -> None:
    """rows = scale times positions t to t + size - 1; zero beyond."""
    width = source.shape[3]
    factor = splat(scale)
    for s in range(rows.shape[0]):
        for j in range(0, rows.shape[1], LANES):
            count = width - j if s < size else 0
            store(rows, (s, j), LANES, load(source, (b, t + s, h, j), count) * factor)


@part
def _exponents(
    igate: Any, fgate: Any, b: int, t: int, h: int, size: int, m: float, offset: Any, source: Any, top: Any,
    winner: Any, from_state: Any, into_state: Any,
) -> None:  # fmt: skip
    """See `chunkwise`: b, a, M, and the weights of the old state in each position and of each position in the new one.

    winner holds, for each position, the index of the largest source so far, or -1 if the state's exponent m is larger.
    """
    rounded = offset.shape[0]
    for s in range(rounded):
        offset[s] = fgate[b, t + s, h] if s < size else np.float32(0.0)
    for s in range(0, rounded, LANES):
        store(offset, (s,), LANES, splat(0.0) - softplus(splat(0.0) - load(offset, (s,), LANES)))
    passed = np.float32(0.0)
    largest, where = m, -1
    for s in range(rounded):
        if s >= size:
            offset[s], source[s], top[s], winner[s] = passed, np.float32(-np.inf), largest, where
            continue
        passed += offset[s]
        offset[s] = passed
        source[s] = igate[b, t + s, h] - passed
        if source[s] >= largest:
            largest, where = source[s], s
        top[s], winner[s] = largest, where
    for s in range(0, rounded, LANES):
        store(from_state, (s,), LANES, exp(splat(m) - load(top, (s,), LANES)))
        store(into_state, (s,), LANES, exp(load(source, (s,), LANES) - splat(largest)))


@inlined
def _weights(source: Any, top: Any, numbers: Any, t: int, s: int) -> Any:
    """Those of positions s to s + 15 in position t; zero for later ones."""
    weight = exp(load(source, (s,), LANES) - splat(top[t]))
    return where_less(load(numbers, (s,), LANES), splat(t + 0.5), weight, splat(0.0))


@part
def _scale_rows(rows: Any, factors: Any) -> None:
    for s in range(rows.shape[0]):
        factor = splat(factors[s])
        for j in range(0, rows.shape[1], LANES):
            store(rows, (s, j), LANES, load(rows, (s, j), LANES) * factor)


@inlined
def _dot(A: Any, row: int, vector: Any) -> Any:
    sums = splat(0.0)
    for j in range(0, vector.shape[0], LANES):
        sums = fma(load(A, (row, j), LANES), load(vector, (j,), LANES), sums)
    return total(sums)


@part
def _scores(q: Any, turned_k: Any, width: int, size: int, source: Any, top: Any, numbers: Any, scores: Any) -> None:
    """Weighted products of queries and keys, zero for later positions."""
    for t in range(0, size, ROWS):
        for s in range(0, t + ROWS, COLUMNS):
            tile = _product(q, t, 0, width, turned_k, s)
            for row, (left, right) in ((0, tile[0]), (1, tile[1]), (2, tile[2]), (3, tile[3])):
                store(scores, (t + row, s), LANES, left * _weights(source, top, numbers, t + row, s))
                store(
                    scores, (t + row, s + LANES), LANES, right * _weights(source, top, numbers, t + row, s + LANES)
                )  # fmt: skip


@part
def _rows_of_output(
    scores: Any, v: Any, q: Any, C: Any, width: int, size: int, numerator: Any, b: int, start: int, h: int
) -> None:
    """numerator = scores @ v + q @ C, with q already times the weight of the state."""
    for t in range(0, size, ROWS):
        for j in range(0, width, COLUMNS):
            near = _product(scores, t, 0, min(t + ROWS, size), v, j)
            far = _product(q, t, 0, width, C, j)
            for row, (left, right), (more_left, more_right) in (
                (0, near[0], far[0]), (1, near[1], far[1]), (2, near[2], far[2]), (3, near[3], far[3]),
            ):  # fmt: skip
                if t + row < size:
                    store(numerator, (b, start + t + row, h, j), width - j, left + more_left)
                    store(numerator, (b, start + t + row, h, j + LANES), width - j - LANES, right + more_right)


@part
def _next_state(C: Any, n: Any, k: Any, v: Any, width: int, size: int, decay: float) -> None:
    """C = decay C + k.T @ v and n alike, with k already times its weights."""
    old = splat(decay)
    for i in range(0, width, ROWS):
        for j in range(0, width, COLUMNS):
            tile = _turned_product(k, i, 0, size, v, j)
            for row, (left, right) in ((0, tile[0]), (1, tile[1]), (2, tile[2]), (3, tile[3])):
                store(C, (i + row, j), LANES, fma(old, load(C, (i + row, j), LANES), left))
                store(C, (i + row, j + LANES), LANES, fma(old, load(C, (i + row, j + LANES), LANES), right))
    for j in range(0, width, LANES):
        sums = old * load(n, (j,), LANES)
        for s in range(size):
            sums = sums + load(k, (s, j), LANES)
        store(n, (j,), LANES, sums)


@inlined
def _numbers(count: int) -> Any:
    numbers = scratch(count)
    for s in range(count):
        numbers[s] = s
    return numbers


@part
def _forward_task(
    b: int, h: int, chunk: int, q: Any, k: Any, v: Any, igate: Any, fgate: Any, numerator: Any, norm: Any,
    exponent: Any, C: Any, n: Any, m: Any, kept_C: Any, kept_n: Any, kept_m: Any,
) -> None:  # fmt: skip
    """One head of one sequence; C [W, W] and n [W] are its state, which changes, and so does m[b, h]."""
    length, width = q.shape[1], q.shape[3]
    W = C.shape[0]
    S = (chunk + COLUMNS - 1) // COLUMNS * COLUMNS
    queries, keys = scratch(S * W).reshape((S, W)), scratch(S * W).reshape((S, W))
    values, turned = scratch(S * W).reshape((S, W)), scratch(W * S).reshape((W, S))
    scores = scratch(S * S).reshape((S, S))
    offset, source, top = scratch(S), scratch(S), scratch(S)
    from_state, into_state, winner = scratch(S), scratch(S), np.empty(S, np.int64)
    numbers = _numbers(S)
    scale = np.float32(1.0 / np.sqrt(width))
    for start in range(0, length, chunk):
        size = min(chunk, length - start)
        if kept_C.shape[0] > 0:
            number = start // chunk
            kept_C[b, h, number], kept_n[b, h, number], kept_m[b, h, number] = C, n, m[b, h]
        _fetch(q, b, start, h, size, np.float32(1.0), queries)
        _fetch(k, b, start, h, size, scale, keys)
        _fetch(v, b, start, h, size, np.float32(1.0), values)
        _exponents(
            igate, fgate, b, start, h, size, m[b, h], offset, source, top, winner, from_state, into_state
        )  # fmt: skip
        _turn(keys, S, width, turned)
        _scores(queries, turned, width, size, source, top, numbers, scores)
        _scale_rows(queries, from_state)
        _rows_of_output(scores, values, queries, C, width, size, numerator, b, start, h)
        for t in range(size):
            sums = splat(0.0)
            for s in range(0, t + 1, LANES):
                sums = sums + load(scores, (t, s), LANES)
            norm[b, start + t, h] = total(sums) + _dot(queries, t, n)
            exponent[b, start + t, h] = offset[t] + top[t]
        _scale_rows(keys, into_state)
        _next_state(C, n, keys, values, width, size, from_state[size - 1])
        m[b, h] = offset[size - 1] + top[size - 1]
    if kept_C.shape[0] > 0:
        number = (length + chunk - 1) // chunk
        kept_C[b, h, number], kept_n[b, h, number], kept_m[b, h, number] = C, n, m[b, h]


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


@part
def _weighted_scores(
    q: Any, turned_k: Any, slopes: Any, turned_v: Any, norm_slopes: Any, width: int, size: int, source: Any, top: Any,
    numbers: Any, scores: Any, dscores: Any,
) -> None:  # fmt: skip
    """Weighted products of queries and keys, and the weighted gradient of these products."""
    for t in range(0, size, ROWS):
        for s in range(0, t + ROWS, COLUMNS):
            tile = _product(q, t, 0, width, turned_k, s)
            slope = _product(slopes, t, 0, width, turned_v, s)
            for row, (left, right), (dleft, dright) in (
                (0, tile[0], slope[0]), (1, tile[1], slope[1]), (2, tile[2], slope[2]), (3, tile[3], slope[3]),
            ):  # fmt: skip
                more = splat(norm_slopes[t + row])
                weight = _weights(source, top, numbers, t + row, s)
                store(scores, (t + row, s), LANES, left * weight)
                store(dscores, (t + row, s), LANES, (dleft + more) * weight)
                weight = _weights(source, top, numbers, t + row, s + LANES)
                store(scores, (t + row, s + LANES), LANES, right * weight)
                store(dscores, (t + row, s + LANES), LANES, (dright + more) * weight)


@part
def _query_slopes(
    dscores: Any, k: Any, slopes: Any, turned_C: Any, n: Any, norm_slopes: Any, from_state: Any, width: int, size: int,
    dq: Any, b: int, start: int, h: int,
) -> None:  # fmt: skip
    """dq = dscores @ k + from_state (slopes @ C.T + norm_slopes n)."""
    for t in range(0, size, ROWS):
        for j in range(0, width, COLUMNS):
            near = _product(dscores, t, 0, min(t + ROWS, size), k, j)
            far = _product(slopes, t, 0, width, turned_C, j)
            n_left, n_right = load(n, (j,), LANES), load(n, (j + LANES,), LANES)
            for row, (left, right), (far_left, far_right) in (
                (0, near[0], far[0]), (1, near[1], far[1]), (2, near[2], far[2]), (3, near[3], far[3]),
            ):  # fmt: skip
                if t + row < size:
                    weight, more = splat(from_state[t + row]), splat(norm_slopes[t + row])
                    left = fma(weight, fma(more, n_left, far_left), left)
                    right = fma(weight, fma(more, n_right, far_right), right)
                    store(dq, (b, start + t + row, h, j), width - j, left)
                    store(dq, (b, start + t + row, h, j + LANES), width - j - LANES, right)


@part
def _source_slopes(
    matrix: Any, rows: Any, own: Any, dstate: Any, dvector: Any, into_state: Any, width: int, size: int, result: Any
) -> None:
    """result = matrix.T @ rows + into_state (own @ dstate + dvector), for a matrix that is zero above its diagonal."""
    for s in range(0, size, ROWS):
        for j in range(0, width, COLUMNS):
            near = _turned_product(matrix, s, s, size, rows, j)
            far = _product(own, s, 0, width, dstate, j)
            more_left, more_right = load(dvector, (j,), LANES), load(dvector, (j + LANES,), LANES)
            for row, (left, right), (far_left, far_right) in (
                (0, near[0], far[0]), (1, near[1], far[1]), (2, near[2], far[2]), (3, near[3], far[3]),
            ):  # fmt: skip
                weight = splat(into_state[s + row])
                store(result, (s + row, j), LANES, fma(weight, far_left + more_left, left))
                store(result, (s + row, j + LANES), LANES, fma(weight, far_right + more_right, right))


@part
def _deliver(rows: Any, scale: float, size: int, target: Any, b: int, start: int, h: int) -> None:
    """target at positions start, ... = scale times rows."""
    width = target.shape[3]
    factor = splat(scale)
    for s in range(size):
        for j in range(0, width, LANES):
            store(target, (b, start + s, h, j), width - j, load(rows, (s, j), LANES) * factor)


@part
def _earlier_state(
    dC: Any, dn: Any, q: Any, slopes: Any, norm_slopes: Any, width: int, size: int, decay: float
) -> None:
    """dC = decay dC + q.T @ slopes and dn alike, with q already times the weight of the state."""
    old = splat(decay)
    for i in range(0, width, ROWS):
        for j in range(0, width, COLUMNS):
            tile = _turned_product(q, i, 0, size, slopes, j)
            for row, (left, right) in ((0, tile[0]), (1, tile[1]), (2, tile[2]), (3, tile[3])):
                store(dC, (i + row, j), LANES, fma(old, load(dC, (i + row, j), LANES), left))
                store(dC, (i + row, j + LANES), LANES, fma(old, load(dC, (i + row, j + LANES), LANES), right))
    for j in range(0, width, LANES):
        sums = old * load(dn, (j,), LANES)
        for t in range(size):
            sums = fma(splat(norm_slopes[t]), load(q, (t, j), LANES), sums)
        store(dn, (j,), LANES, sums)


@part
def _crossing(C: Any, n: Any, dC: Any, dn: Any) -> Any:
    """The slope of the exponents of everything in a state."""
    sums = splat(0.0)
    for i in range(C.shape[0]):
        for j in range(0, C.shape[1], LANES):
            sums = fma(load(C, (i, j), LANES), load(dC, (i, j), LANES), sums)
    for j in range(0, C.shape[1], LANES):
        sums = fma(load(n, (j,), LANES), load(dn, (j,), LANES), sums)
    return total(sums)


@part
def _gate_slopes(
    columns: Any, top_slopes: Any, exponent_slopes: Any, winner: Any, crossing: float, through: float, fgate: Any,
    digate: Any, dfgate: Any, b: int, start: int, h: int, size: int,
) -> Any:  # fmt: skip
    """Writes the gradients of the gates of a chunk and returns what its maxima pass on to the exponent before it.

    Args:
        columns: of the sources, by way of the weights.
        top_slopes, exponent_slopes: of M and of m.
        crossing: what crosses the end of the chunk by way of the weights.
        through: the same by way of the maxima.
    """
    top_slopes[size - 1] += through
    passed_on = np.float32(0.0)
    for t in range(size):
        if winner[t] < 0:
            passed_on += top_slopes[t]
        else:
            columns[winner[t]] += top_slopes[t]
    sums = crossing + through
    for t in range(size - 1, -1, -1):
        sums += exponent_slopes[t] - columns[t]
        digate[b, start + t, h] = columns[t]
        dfgate[b, start + t, h] = sums / (np.float32(1.0) + np.exp(fgate[b, start + t, h]))
    return passed_on


@part
def _backward_task(
    b: int, h: int, chunk: int, q: Any, k: Any, v: Any, igate: Any, fgate: Any, kept_C: Any, kept_n: Any, kept_m: Any,
    numerator: Any, norm: Any, dnumerator: Any, dnorm: Any, dexponent: Any, dq: Any, dk: Any, dv: Any, digate: Any,
    dfgate: Any, dC: Any, dn: Any, dm: Any,
) -> None:  # fmt: skip
    """One head of one sequence; dC [W, W], dn [W] and dm[b, h] are the gradient of its state, which changes."""
    length, width = q.shape[1], q.shape[3]
    W = dC.shape[0]
    S = (chunk + COLUMNS - 1) // COLUMNS * COLUMNS
    queries, keys, values = (
        scratch(S * W).reshape((S, W)), scratch(S * W).reshape((S, W)), scratch(S * W).reshape((S, W))
    )  # fmt: skip
    slopes, outputs = scratch(S * W).reshape((S, W)), scratch(S * W).reshape((S, W))
    turned_keys, turned_values = scratch(W * S).reshape((W, S)), scratch(W * S).reshape((W, S))
    turned_C, turned_dC = scratch(W * W).reshape((W, W)), scratch(W * W).reshape((W, W))
    scores, dscores = scratch(S * S).reshape((S, S)), scratch(S * S).reshape((S, S))
    offset, source, top = scratch(S), scratch(S), scratch(S)
    from_state, into_state, winner = scratch(S), scratch(S), np.empty(S, np.int64)
    norm_slopes, exponent_slopes, top_slopes, columns = scratch(S), scratch(S), scratch(S), scratch(S)
    nothing = scratch(W)
    nothing[:] = 0
    turned_C[:], turned_dC[:] = 0, 0
    numbers = _numbers(S)
    one, scale = np.float32(1.0), np.float32(1.0 / np.sqrt(width))
    count = (length + chunk - 1) // chunk
    crossing = _crossing(kept_C[b, h, count], kept_n[b, h, count], dC, dn)
    through = dm[b, h] - crossing
    for number in range(count - 1, -1, -1):
        start = number * chunk
        size = min(chunk, length - start)
        C, n, m = kept_C[b, h, number], kept_n[b, h, number], kept_m[b, h, number]
        _fetch(q, b, start, h, size, one, queries)
        _fetch(k, b, start, h, size, scale, keys)
        _fetch(v, b, start, h, size, one, values)
        _fetch(numerator, b, start, h, size, one, outputs)
        _fetch(dnumerator, b, start, h, size, one, slopes)
        _exponents(
            igate, fgate, b, start, h, size, m, offset, source, top, winner, from_state, into_state
        )  # fmt: skip
        for t in range(S):
            norm_slopes[t] = dnorm[b, start + t, h] if t < size else np.float32(0.0)
        for t in range(size):
            row = _dot(outputs, t, slopes[t]) + norm[b, start + t, h] * norm_slopes[t]
            exponent_slopes[t] = dexponent[b, start + t, h]
            top_slopes[t] = exponent_slopes[t] - row
        _turn(keys, S, width, turned_keys)
        _turn(values, S, width, turned_values)
        _turn(C, width, width, turned_C)
        _turn(dC, width, width, turned_dC)
        _weighted_scores(
            queries, turned_keys, slopes, turned_values, norm_slopes, width, size, source, top, numbers, scores, dscores
        )
        _query_slopes(
            dscores, keys, slopes, turned_C, n, norm_slopes, from_state, width, size, dq, b, start, h
        )  # fmt: skip
        _source_slopes(dscores, queries, values, turned_dC, dn, into_state, width, size, outputs)
        _deliver(outputs, scale, size, dk, b, start, h)
        for s in range(size):
            columns[s] = _dot(keys, s, outputs[s])
        _source_slopes(scores, slopes, keys, dC, nothing, into_state, width, size, outputs)
        _deliver(outputs, one, size, dv, b, start, h)
        through = _gate_slopes(
            columns, top_slopes, exponent_slopes, winner, crossing, through, fgate, digate, dfgate, b, start, h, size
        )
        _scale_rows(queries, from_state)
        _earlier_state(dC, dn, queries, slopes, norm_slopes, width, size, from_state[size - 1])
        crossing = _crossing(C, n, dC, dn)
    dm[b, h] = crossing + through


def _backward(
    chunk: int, q: Any, k: Any, v: Any, igate: Any, fgate: Any, kept_C: Any, kept_n: Any, kept_m: Any, numerator: Any,
    norm: Any, dnumerator: Any, dnorm: Any, dexponent: Any, dq: Any, dk: Any, dv: Any, digate: Any, dfgate: Any,
    dC: Any, dn: Any, dm: Any,
) -> None:  # fmt: skip
    heads = q.shape[2]
    for task in prange(q.shape[0] * heads):
        b, h = task // heads, task % heads
        _backward_task(
            b, h, chunk, q, k, v, igate, fgate, kept_C, kept_n, kept_m, numerator, norm, dnumerator, dnorm, dexponent,
            dq, dk, dv, digate, dfgate, dC[b, h], dn[b, h], dm,
        )  # fmt: skip


def _array(dim: int, layout: str) -> Any:
    return types.Array(types.float32, dim, layout)


@cache
def _forward_kernel() -> Any:
    rows, gates = _array(4, "A"), _array(3, "A")
    ours = (_array(4, "C"), _array(3, "C"), _array(2, "C"), _array(5, "C"), _array(4, "C"), _array(3, "C"))
    return kernel(types.void(types.int64, rows, rows, rows, gates, gates, rows, gates, gates, *ours), _forward)


@cache
def _backward_kernel() -> Any:
    rows, gates = _array(4, "A"), _array(3, "A")
    kept = (_array(5, "C"), _array(4, "C"), _array(3, "C"))
    state = (_array(4, "C"), _array(3, "C"), _array(2, "C"))
    given = (rows, rows, rows, gates, gates, *kept, rows, gates, rows, gates, gates)
    return kernel(types.void(types.int64, *given, rows, rows, rows, gates, gates, *state), _backward)


def padded_width(width: int) -> int:
    """W."""
    return -(-width // COLUMNS) * COLUMNS


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
    outputs = torch.empty(batch, length, heads, width), *(torch.empty(batch, length, heads) for _ in range(2))
    rows = [view(x, backwards=reverse) for x in (*inputs, *outputs)]
    launch(_forward_kernel(), min(chunk_tokens, length), *rows, *(view(x) for x in (*state, *kept)))
    return outputs


def backward(
    inputs: tuple[Tensor, ...],
    kept: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    slopes: tuple[Tensor, ...],
    state_slopes: tuple[Tensor, ...],
    reverse: bool,
    chunk_tokens: int,
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, igate, fgate.

    Args:
        outputs: numerator and norm.
        slopes: gradients of numerator (with adjacent channels), norm and exponent.
        state_slopes: gradients of the last C, n, m, padded as `forward` has them; becomes that of the first.
    """
    results = tuple(torch.empty(x.shape) for x in inputs)
    rows = [view(x, backwards=reverse) for x in inputs]
    more = [view(x, backwards=reverse) for x in (*outputs, *slopes, *results)]
    launch(
        _backward_kernel(), min(chunk_tokens, inputs[0].shape[1]), *rows, *(view(x) for x in kept), *more,
        *(view(x) for x in state_slopes),
    )  # fmt: skip
    return results
