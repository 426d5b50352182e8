"""A count model of masked bases: the k bases on either side, with back-off to fewer; the bar a network has to pass."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from chargaff.seq.alphabet import BASE_CODE, translate

Codes = NDArray[np.uint8]
"""0 to 3 for A, C, G, T; 4 for anything else."""

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


def codes(bases: NDArray[np.uint8]) -> Codes:
    """[L] ASCII to codes."""
    return translate(bases, BASE_CODE)


@dataclass(frozen=True, slots=True)
class Targets:
    """Bases to be predicted from what surrounds them."""

    sequence: Codes
    """What is seen: hidden and unknown bases are 4."""
    position: NDArray[np.int64]
    """[n] places in `sequence`."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each base was seen in training in the contexts of some targets."""

    composition: NDArray[np.float64]
    """[4] share of each base in training, both strands together."""
    seen: list[NDArray[np.int32]]
    """[n, 4] for k = 1, 2, ... bases on each side. A context that runs over the end or holds a 4 was never seen."""

    def probabilities(self, k: int, strength: float) -> NDArray[np.float64]:
        """[n, 4] p_k = (seen + strength * p_(k-1)) / (total seen + strength), from p_0, the composition."""
        found = np.broadcast_to(self.composition, self.seen[0].shape)
        for seen in self.seen[:k]:
            found = (seen + strength * found) / (seen.sum(1, keepdims=True) + strength)
        return found


def count(train: list[Codes], asked: list[Targets], max_k: int) -> list[Counts]:
    """Counts on both strands of `train` for each of what is asked, for k up to `max_k`."""
    bases = np.sum([np.bincount(part, minlength=5)[:4] for part in train], axis=0).astype(float)
    composition = (bases + bases[::-1]) / bases.sum() / 2
    found = [Counts(composition, []) for _ in asked]
    for k in range(1, max_k + 1):
        keys = [_contexts(targets.sequence, targets.position, k) for targets in asked]
        table = _table(np.concatenate(keys))
        counts = np.zeros((len(table), 4), np.int32)
        for part in train:
            _count(part, k, table, counts)
        for own, contexts in zip(found, keys, strict=True):
            slots = _find(table, contexts)
            own.seen.append(np.where(slots[:, None] >= 0, counts[slots], 0))
    return found


@numba.njit
def _key(sequence, at, k):
    key = np.uint64(0)
    for step in range(-k, k + 1):
        if step == 0:
            continue
        code = sequence[at + step]
        if code > 3:
            return np.uint64(0xFFFFFFFFFFFFFFFF)
        key = (key << np.uint64(2)) | np.uint64(code)
    return key


@numba.njit
def _contexts(sequence, position, k):
    keys = np.full(len(position), np.uint64(0xFFFFFFFFFFFFFFFF))
    for i in range(len(position)):
        if position[i] >= k and position[i] + k < len(sequence):
            keys[i] = _key(sequence, position[i], k)
    return keys


@numba.njit
def _slot(table, key):
    mask = np.uint64(len(table) - 1)
    at = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & mask
    while table[at] != key and table[at] != np.uint64(0xFFFFFFFFFFFFFFFF):
        at = (at + np.uint64(1)) & mask
    return at


def _table(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Open-addressing hash table of the keys, at most half full."""
    unique = np.unique(keys[keys != EMPTY])
    table = np.full(1 << int(2 * len(unique) + 2).bit_length(), EMPTY)
    _insert(table, unique)
    return table


@numba.njit
def _insert(table, keys):
    for key in keys:
        table[_slot(table, key)] = key


@numba.njit
def _find(table, keys):
    slots = np.full(len(keys), -1)
    for i, key in enumerate(keys):
        if key != np.uint64(0xFFFFFFFFFFFFFFFF):
            slots[i] = np.int64(_slot(table, key))
    return slots


@numba.njit(nogil=True)
def _count(sequence, k, table, counts):
    """Adds what surrounds every base of `sequence`, on both strands, where the table asks for it."""
    side = np.uint64((1 << 2 * k) - 1)
    top = np.uint64(2 * (k - 1))
    left = np.uint64(0)  # the k bases before the middle, and their complement read backwards
    left_rc = np.uint64(0)
    right = np.uint64(0)
    right_rc = np.uint64(0)
    known = 0
    for end in range(len(sequence)):
        code = sequence[end]
        if code > 3:
            known = 0
            continue
        right = ((right << np.uint64(2)) | np.uint64(code)) & side
        right_rc = (right_rc >> np.uint64(2)) | (np.uint64(3 - code) << top)
        known += 1
        if known > k + 1:
            before = sequence[end - k - 1]
            left = ((left << np.uint64(2)) | np.uint64(before)) & side
            left_rc = (left_rc >> np.uint64(2)) | (np.uint64(3 - before) << top)
        if known > 2 * k:
            middle = sequence[end - k]
            shift = np.uint64(2 * k)
            at = _slot(table, (left << shift) | right)
            if table[at] != np.uint64(0xFFFFFFFFFFFFFFFF):
                counts[at, middle] += 1
            at = _slot(table, (right_rc << shift) | left_rc)
            if table[at] != np.uint64(0xFFFFFFFFFFFFFFFF):
                counts[at, 3 - middle] += 1
