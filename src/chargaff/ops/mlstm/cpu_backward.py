"""The gradient of the sums of the cell as a Numba kernel; see `cpu_tiles`."""

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
    clear,
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
def _weighted_scores(
    q: Any, turned_k: Any, slopes: Any, turned_v: Any, norm_slopes: Any, width: int, size: int, source: Any, top: Any,
    numbers: Any, scores: Any, dscores: Any,
) -> None:  # fmt: skip
    """Weighted products of queries and keys, and the weighted gradient of these products."""
    for t in range(0, size, ROWS):
        for s in range(0, t + ROWS, COLUMNS):
            tile = product(q, t, 0, width, turned_k, s)
            slope = product(slopes, t, 0, width, turned_v, s)
            for row, (left, right), (dleft, dright) in (
                (0, tile[0], slope[0]), (1, tile[1], slope[1]), (2, tile[2], slope[2]), (3, tile[3], slope[3]),
            ):  # fmt: skip
                more = splat(norm_slopes[t + row])
                weight = weights(source, top, numbers, t + row, s)
                store(scores, (t + row, s), LANES, left * weight)
                store(dscores, (t + row, s), LANES, (dleft + more) * weight)
                weight = weights(source, top, numbers, t + row, s + LANES)
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
            near = product(dscores, t, 0, min(t + ROWS, size), k, j)
            far = product(slopes, t, 0, width, turned_C, j)
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
            near = turned_product(matrix, s, s, size, rows, j)
            far = product(own, s, 0, width, dstate, j)
            more_left, more_right = load(dvector, (j,), LANES), load(dvector, (j + LANES,), LANES)
            for row, (left, right), (far_left, far_right) in (
                (0, near[0], far[0]), (1, near[1], far[1]), (2, near[2], far[2]), (3, near[3], far[3]),
            ):  # fmt: skip
                weight = splat(into_state[s + row])
                store(result, (s + row, j), LANES, fma(weight, far_left + more_left, left))
                store(result, (s + row, j + LANES), LANES, fma(weight, far_right + more_right, right))


@part
def _deliver(rows: Any, scale: Any, size: int, target: Any, b: int, start: int, h: int) -> None:
    """target at positions start, ... = scale times rows."""
    width = target.shape[3]
    factor = splat(scale)
    for s in range(size):
        for j in range(0, width, LANES):
            store(target, (b, start + s, h, j), width - j, load(rows, (s, j), LANES) * factor)


@part
def _earlier_state(dC: Any, dn: Any, q: Any, slopes: Any, norm_slopes: Any, width: int, size: int, decay: Any) -> None:
    """dC = decay dC + q.T @ slopes and dn alike, with q already times the weight of the state."""
    old = splat(decay)
    for i in range(0, width, ROWS):
        for j in range(0, width, COLUMNS):
            tile = turned_product(q, i, 0, size, slopes, j)
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
        matrix(S, W), matrix(S, W), matrix(S, W)
    )  # fmt: skip
    slopes, outputs = matrix(S, W), matrix(S, W)
    turned_keys, turned_values = matrix(W, S), matrix(W, S)
    turned_C, turned_dC = matrix(W, W), matrix(W, W)
    scores, dscores = matrix(S, S), matrix(S, S)
    m_rows, source, top = scratch(S), matrix(2, S), matrix(2, S)
    from_state, into_state, winner = scratch(S), scratch(S), np.empty(S, np.int64)
    norm_slopes, exponent_slopes, top_slopes, columns = scratch(S), scratch(S), scratch(S), scratch(S)
    nothing = matrix(1, W)
    clear(nothing), clear(turned_C), clear(turned_dC)
    numbers = numbers_to(S)
    one, scale = np.float32(1.0), np.float32(1.0 / np.sqrt(width))
    count = (length + chunk - 1) // chunk
    crossing = _crossing(kept_C[b, h, count], kept_n[b, h, count], dC, dn)
    through = dm[b, h] - crossing
    for number in range(count - 1, -1, -1):
        start = number * chunk
        size = min(chunk, length - start)
        C, n, m = kept_C[b, h, number], kept_n[b, h, number], kept_m[b, h, number]
        fetch(q, b, start, h, size, one, queries)
        fetch(k, b, start, h, size, scale, keys)
        fetch(v, b, start, h, size, one, values)
        fetch(numerator, b, start, h, size, one, outputs)
        fetch(dnumerator, b, start, h, size, one, slopes)
        exponents(
            igate, fgate, b, start, h, size, m, m_rows, source, top, winner, from_state, into_state
        )  # fmt: skip
        for t in range(S):
            norm_slopes[t] = dnorm[b, start + t, h] if t < size else np.float32(0.0)
        for t in range(size):
            row = dot(outputs, t, slopes[t]) + norm[b, start + t, h] * norm_slopes[t]
            exponent_slopes[t] = dexponent[b, start + t, h]
            top_slopes[t] = exponent_slopes[t] - row
        turn(keys, S, width, turned_keys)
        turn(values, S, width, turned_values)
        turn(C, width, width, turned_C)
        turn(dC, width, width, turned_dC)
        _weighted_scores(
            queries, turned_keys, slopes, turned_values, norm_slopes, width, size, source, top, numbers, scores, dscores
        )
        _query_slopes(
            dscores, keys, slopes, turned_C, n, norm_slopes, from_state, width, size, dq, b, start, h
        )  # fmt: skip
        _source_slopes(dscores, queries, values, turned_dC, dn, into_state, width, size, outputs)
        _deliver(outputs, scale, size, dk, b, start, h)
        for s in range(size):
            columns[s] = dot(keys, s, outputs[s])
        _source_slopes(scores, slopes, keys, dC, nothing[0], into_state, width, size, outputs)
        _deliver(outputs, one, size, dv, b, start, h)
        through = _gate_slopes(
            columns, top_slopes, exponent_slopes, winner, crossing, through, fgate, digate, dfgate, b, start, h, size
        )
        scale_rows(queries, from_state)
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


@cache
def _backward_kernel() -> Any:
    rows, gates = array_type(4, "A"), array_type(3, "A")
    kept = (array_type(5, "C"), array_type(4, "C"), array_type(3, "C"))
    state = (array_type(4, "C"), array_type(3, "C"), array_type(2, "C"))
    given = (rows, rows, rows, gates, gates, *kept, rows, gates, rows, gates, gates)
    return kernel(types.void(types.int64, *given, rows, rows, rows, gates, gates, *state), _backward)


def backward(
    inputs: tuple[Tensor, ...],
    kept: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    slopes: tuple[Tensor, ...],
    state_slopes: tuple[Tensor, ...],
    reverse: bool,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, igate, fgate.

    Args:
        outputs: numerator and norm.
        slopes: gradients of numerator (with adjacent channels), norm and exponent.
        state_slopes: gradients of the last C, n, m, padded as `forward` has them; becomes that of the first.
    """
    q, k, v, igate, fgate = (torch.empty(x.shape) for x in inputs)
    results = q, k, v, igate, fgate
    rows = [view(x, backwards=reverse) for x in inputs]
    more = [view(x, backwards=reverse) for x in (*outputs, *slopes, *results)]
    launch(
        _backward_kernel(), min(chunk_tokens, inputs[0].shape[1]), *rows, *(view(x) for x in kept), *more,
        *(view(x) for x in state_slopes),
    )  # fmt: skip
    return results
