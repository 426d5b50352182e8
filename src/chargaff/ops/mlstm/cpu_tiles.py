"""The sums of the cell and their gradient as Numba kernels; the mathematics are those of `chunkwise`.

A task is one head of one sequence; it goes through the chunks with everything of a chunk in the processor's caches. All
products of matrices are made of tiles of 4 rows and 32 columns, whose sums stay in registers. Memory of our own is
padded: W is the width K of a head, and S the size of a chunk, rounded up to 32; the padding is zero. Work is cut into
pieces by the shapes alone, so results do not depend on the number of threads.

Arrays are float32. A reversed scan is the same kernel on views that run backwards. What is kept for the gradient, in
the order of the scan: C [B, H, N + 1, W, W], n [B, H, N + 1, W] and m [B, H, N + 1] before each of N chunks and after
the last.
"""

from typing import Any, Literal

import numpy as np
from numba import types

from chargaff.ops.lanes import (
    LANES,
    exp,
    fma,
    inlined,
    load,
    part,
    scratch,
    softplus,
    splat,
    store,
    total,
    where_less,
)

ROWS, COLUMNS = 4, 2 * LANES
"""Of a tile."""


@inlined
def product(A: Any, row: int, start: int, stop: int, B: Any, j: int) -> Any:
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
def turned_product(A: Any, row: int, start: int, stop: int, B: Any, j: int) -> Any:
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
def turn(A: Any, rows: int, columns: int, turned: Any) -> None:
    """turned = A.T, as far as rows and columns go."""
    for i in range(rows):
        for j in range(columns):
            turned[j, i] = A[i, j]


@part
def fetch(source: Any, b: int, t: int, h: int, size: int, scale: Any, rows: Any) -> None:
    """rows = scale times positions t to t + size - 1; zero beyond."""
    width = source.shape[3]
    factor = splat(scale)
    for s in range(rows.shape[0]):
        for j in range(0, rows.shape[1], LANES):
            count = width - j if s < size else 0
            store(rows, (s, j), LANES, load(source, (b, t + s, h, j), count) * factor)


@part
def exponents(
    igate: Any, fgate: Any, b: int, t: int, h: int, size: int, m: float, exponent: Any, source: Any, top: Any,
    winner: Any, from_state: Any, into_state: Any,
) -> None:  # fmt: skip
    """See `chunkwise`: m, a, M, and the weights of the old state in each position and of each position in the new one.

    a and M [2, S] are sums of two rows, a number and what rounding took from it. winner holds, for each position, the
    index of the largest source so far, or -1 if the state's exponent m is larger.
    """
    rounded = exponent.shape[0]
    for s in range(rounded):
        exponent[s] = fgate[b, t + s, h] if s < size else np.float32(0.0)
    for s in range(0, rounded, LANES):
        store(exponent, (s,), LANES, splat(0.0) - softplus(splat(0.0) - load(exponent, (s,), LANES)))
    passed, largest, where = np.float64(0.0), np.float64(m), -1
    for s in range(rounded):
        own = -np.inf
        if s < size:
            passed += np.float64(exponent[s])
            own = np.float64(igate[b, t + s, h]) - passed
            if own >= largest:
                largest, where = own, s
        exponent[s], winner[s] = np.float32(passed + largest), where
        highest = np.float64(exponent[s]) - passed
        _split(own, source, s)
        _split(highest, top, s)
        from_state[s] = np.float32(m - highest)
    for s in range(0, rounded, LANES):
        own = load(source, (0, s), LANES) - splat(top[0, size - 1])
        own = own + (load(source, (1, s), LANES) - splat(top[1, size - 1]))
        store(into_state, (s,), LANES, exp(own))
        store(from_state, (s,), LANES, exp(load(from_state, (s,), LANES)))


@inlined
def _split(value: float, rows: Any, s: int) -> None:
    """Column s of rows [2, S] = value, and what rounding takes from it."""
    rows[0, s] = np.float32(value)
    rows[1, s] = np.float32(value - np.float64(rows[0, s])) if value > -np.inf else np.float32(0.0)


@inlined
def weights(source: Any, top: Any, numbers: Any, t: int, s: int) -> Any:
    """Those of positions s to s + 15 in position t; zero for later ones."""
    low = load(source, (1, s), LANES) - splat(top[1, t])
    weight = exp((load(source, (0, s), LANES) - splat(top[0, t])) + low)
    return where_less(load(numbers, (s,), LANES), splat(t + 0.5), weight, splat(0.0))


@part
def scale_rows(rows: Any, factors: Any) -> None:
    for s in range(rows.shape[0]):
        factor = splat(factors[s])
        for j in range(0, rows.shape[1], LANES):
            store(rows, (s, j), LANES, load(rows, (s, j), LANES) * factor)


@inlined
def dot(A: Any, row: int, vector: Any) -> Any:
    sums = splat(0.0)
    for j in range(0, vector.shape[0], LANES):
        sums = fma(load(A, (row, j), LANES), load(vector, (j,), LANES), sums)
    return total(sums)


@inlined
def numbers_to(count: int) -> Any:
    numbers = scratch(count)
    for s in range(count):
        numbers[s] = s
    return numbers


@inlined
def matrix(rows: int, columns: int) -> Any:
    """Uninitialised."""
    return scratch(rows * columns).reshape((rows, columns))


@part
def copy_state(C: Any, n: Any, other_C: Any, other_n: Any) -> None:
    """other_C = C and other_n = n."""
    for i in range(C.shape[0]):
        for j in range(0, C.shape[1], LANES):
            store(other_C, (i, j), LANES, load(C, (i, j), LANES))
        other_n[i] = n[i]


@part
def clear(rows: Any) -> None:
    """Zeros everywhere."""
    for i in range(rows.shape[0]):
        for j in range(0, rows.shape[1], LANES):
            store(rows, (i, j), LANES, splat(0.0))


def array_type(dim: int, layout: Literal["A", "C"]) -> Any:
    """Numba's type of a float32 array: layout "C" is dense, "A" has any strides."""
    kind: Any = types.float32
    return types.Array(kind, dim, layout)


def padded_width(width: int) -> int:
    """W."""
    return -(-width // COLUMNS) * COLUMNS
