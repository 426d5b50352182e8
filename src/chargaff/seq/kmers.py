"""k-mer counts of sequences and distances between count vectors: the baselines models are compared with."""

import itertools
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from chargaff.errors import ConfigError
from chargaff.seq.alphabet import BASE_CODE, Sequence, translate

MAX_K = 12
"""Longest k-mer counted in a dense vector (4**12 = 16.8 million columns)."""

Metric = Literal["euclidean", "cosine", "jensen-shannon"]


def kmer_names(k: int, *, canonical: bool = True) -> tuple[str, ...]:
    """Column names of `kmer_counts`, in order: alphabetical; canonical ones are the smaller of a k-mer and its RC."""
    names = ["".join(letters) for letters in itertools.product("ACGT", repeat=k)]
    if not canonical:
        return tuple(names)
    _, first = np.unique(_canonical_column(k), return_index=True)
    return tuple(names[code] for code in first)


def kmer_counts(seq: Sequence, k: int, *, canonical: bool = True) -> npt.NDArray[np.int64]:
    """[F] occurrences of every k-mer, both strands folded together unless `canonical` is False.

    Case is ignored. A window that holds anything but A, C, G, T counts nowhere; a sequence shorter than k gives zeros.

    Args:
        seq: [L].
        k: 1 to 12. F = 4**k, or (4**k + p) / 2 when canonical, with p = 4**(k/2) palindromes for even k and 0 for odd.
    """
    counts = np.bincount(_kmer_codes(seq, k), minlength=4**k).astype(np.int64)
    if not canonical:
        return counts
    return np.bincount(_canonical_column(k), weights=counts).astype(np.int64)


def kmer_table(sequences: Iterable[Sequence], k: int, *, canonical: bool = True) -> npt.NDArray[np.float64]:
    """[n, F] k-mer frequencies, one row per sequence summing to 1; a row without any k-mer is all zero."""
    column = _canonical_column(k) if canonical else np.arange(4**k)
    width = int(column.max()) + 1
    rows = [np.bincount(column[_kmer_codes(seq, k)], minlength=width) for seq in sequences]
    if not rows:
        return np.zeros((0, width))
    table = np.stack(rows).astype(np.float64)
    table /= np.maximum(table.sum(axis=1, keepdims=True), 1)
    return table


def distances(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], metric: Metric = "euclidean"
) -> npt.NDArray[np.float64]:
    """[n, m] distances between the rows of a [n, F] and b [m, F].

    cosine is 1 - cos; jensen-shannon is the square root of the divergence in bits of the rows taken as distributions.
    A zero row has cosine distance 1 to every row.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if metric == "euclidean":
        squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * (a @ b.T)
        euclidean: npt.NDArray[np.float64] = np.sqrt(np.maximum(squares, 0))
        return euclidean
    if metric == "cosine":
        return 1 - _unit(a) @ _unit(b).T
    if metric == "jensen-shannon":
        return np.stack([_jensen_shannon(row, b) for row in a]) if len(a) else np.zeros((0, len(b)))
    raise ConfigError(f"metric: expected euclidean, cosine or jensen-shannon, got {metric!r}")


def _kmer_codes(seq: Sequence, k: int) -> npt.NDArray[np.int64]:
    """[M] code of each window without unknown letters; base 4, first letter most significant."""
    _check_k(k)
    if seq.size < k:
        return np.zeros(0, np.int64)
    digits = translate(seq, BASE_CODE)
    windows = seq.size - k + 1
    code = np.zeros(windows, np.int64)
    for i in range(k):
        code *= 4
        code += digits[i : i + windows]
    unknown = np.concatenate([[0], np.cumsum(digits == 4)])
    known: npt.NDArray[np.int64] = code[unknown[k:] == unknown[:-k]]
    return known


def _canonical_column(k: int) -> npt.NDArray[np.int64]:
    """[4**k] column of each k-mer code in the canonical table."""
    _check_k(k)
    code = np.arange(4**k)
    rc, rest = np.zeros_like(code), code.copy()
    for _ in range(k):
        rc = rc * 4 + (3 - rest % 4)
        rest //= 4
    smaller = np.minimum(code, rc)
    return np.unique(smaller, return_inverse=True)[1].astype(np.int64)


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise ConfigError(f"k: expected 1 to {MAX_K}, got {k}")


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    norm: npt.NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = rows / np.where(norm > 0, norm, 1)
    return unit


def _jensen_shannon(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[m] distances of one row p [F] to the rows of q [m, F]."""
    p = p / max(p.sum(), 1e-300)
    q = q / np.maximum(q.sum(1, keepdims=True), 1e-300)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / middle), 0).sum(1)
        right = np.where(q > 0, q * np.log2(q / middle), 0).sum(1)
    distance: npt.NDArray[np.float64] = np.sqrt(np.maximum((left + right) / 2, 0))
    return distance
