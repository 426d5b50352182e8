"""Stretches of equal labels: from values to segments, and how well two sets of segments agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Segments(NamedTuple):
    """Disjoint stretches in ascending order, 0-based, end exclusive."""

    start: Ints
    """[n]"""
    end: Ints
    """[n]"""


def segments_of(is_inside: NDArray[np.bool_]) -> Segments:
    """The stretches of True in [L]."""
    framed = np.zeros(len(is_inside) + 2, np.bool_)
    framed[1:-1] = is_inside
    change = np.flatnonzero(framed[1:] != framed[:-1])
    return Segments(change[::2], change[1::2])


class Overlap(NamedTuple):
    """Sums behind the segment overlap measure; they add up over sequences."""

    score: float
    norm: float

    @property
    def sov(self) -> float:
        """SOV'99 in percent; NaN without observed segments."""
        return 100 * self.score / self.norm if self.norm else float("nan")


def segment_overlap(observed: Segments, predicted: Segments) -> Overlap:
    """SOV'99 of one state (Zemla et al. 1999; segment sheet 5).

    For each pair of segments that share a base, (shared + delta) / (extent of the union) times the observed length,
    delta = min(union - shared, shared, half of either length); the norm counts the observed length once for every
    pair, and once for an observed segment without a partner.
    """
    length = observed.end - observed.start
    first = np.searchsorted(predicted.end, observed.start, side="right")
    count = np.maximum(np.searchsorted(predicted.start, observed.end, side="left") - first, 0)
    seen = np.repeat(np.arange(len(length)), count)
    other = np.arange(len(seen)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    shared = np.minimum(observed.end[seen], predicted.end[other]) - np.maximum(
        observed.start[seen], predicted.start[other]
    )
    union = np.maximum(observed.end[seen], predicted.end[other]) - np.minimum(
        observed.start[seen], predicted.start[other]
    )
    halves = np.minimum(length[seen] // 2, (predicted.end[other] - predicted.start[other]) // 2)
    delta = np.minimum(np.minimum(union - shared, shared), halves)
    score = float(((shared + delta) / union * length[seen]).sum())
    return Overlap(score, float(length[seen].sum() + length[count == 0].sum()))
