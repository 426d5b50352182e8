"""Windows that give every base of some places an answer, in pieces that can be computed one by one.

All of it is arithmetic on lengths: the same places and options always give the same windows, in whatever order or
process the pieces are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import ConfigError
from chargaff.seq.interval import Interval

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a model reads and which part of it has answers."""

    input_bp: int
    """Longest input."""
    output_offset_bp: int = 0
    """First base of the input with an answer."""
    output_bp: int | None = None
    """Bases with an answer; None: all that was read."""
    multiple_bp: int = 1
    """Inputs shorter than `input_bp` must be a multiple of this; None of them may be where `is_fixed`."""
    is_fixed: bool = False
    """Every input has `input_bp` bases."""
    step_bp: int = 1
    """Bases of one answer; the first one of a place begins with it."""

    @property
    def answered_bp(self) -> int:
        return self.input_bp if self.output_bp is None else self.output_bp

    def steps(self, length_bp: int) -> int:
        """Answers that these bases have; the last one may reach beyond them."""
        return -(-length_bp // self.step_bp)


@dataclass(frozen=True, slots=True)
class Place:
    """Bases that shall have an answer, and the surroundings that may be read for it."""

    contig: str
    start: int
    end: int
    low: int
    """First base that may be read."""
    high: int
    """End of what may be read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a place."""

    place: Place
    start: int
    end: int
    windows: Ints
    """[W] first base that has an answer in each window."""
    answered_bp: int
    """Bases with an answer in each of these windows; they may reach beyond what may be read."""


def plan_pieces(places: Sequence[Place], frame: Frame, *, overlap_bp: int, piece_bp: int) -> list[Piece]:
    """Pieces of at most `piece_bp` that cover each place once.

    Windows lie side by side, `overlap_bp` shared by neighbours, and stay inside of what may be read as long as that is
    long enough: the last is moved to end with it. Those of a model of one input length may lie around all of it: their
    bases beyond the place are as many on either side. How a place is cut into pieces does not change its windows.
    """
    answered = frame.answered_bp
    if not 0 <= overlap_bp < answered:
        raise ConfigError(
            f"overlap-bp: expected 0 to {answered - 1} (less than the window's answers), got {overlap_bp}"
        )
    if piece_bp < 1:
        raise ConfigError(f"piece-bp: expected at least 1, got {piece_bp}")
    pieces = []
    for place in places:
        starts, width = _windows(place, frame, overlap_bp)
        cuts = range(int(starts[0]), place.end, piece_bp)  # where windows begin, so that few are read twice
        bounds = [place.start, *(cut for cut in cuts if cut > place.start), place.end]
        for begin, end in pairwise(bounds):
            ours = starts[(starts < end) & (starts + width > begin)]
            pieces.append(Piece(place, begin, end, ours, width))
    return pieces


def _windows(place: Place, frame: Frame, overlap_bp: int) -> tuple[Ints, int]:
    """(first answered bases, answered bases of each) of the windows over a place, with surroundings on both sides."""
    width, length_bp = frame.answered_bp, place.high - place.low
    if frame.is_fixed:
        stride, needed = width - overlap_bp, place.end - place.start + overlap_bp // 2
        count = -(-needed // stride)
        beyond = count * stride + overlap_bp - (place.end - place.start)
        begin = place.start - beyond // 2 // frame.step_bp * frame.step_bp
        return begin + stride * np.arange(count, dtype=np.int64), width
    if length_bp <= width:
        return np.array([place.low], np.int64), -(-length_bp // frame.multiple_bp) * frame.multiple_bp
    begin, end = max(place.start - overlap_bp, place.low), min(place.end + overlap_bp, place.high)
    missing = width - (end - begin)
    if missing > 0:  # a short place stands in the middle of its window
        return np.array([min(max(begin - missing // 2, place.low), place.high - width)], np.int64), width
    starts = np.arange(begin, end - width, width - overlap_bp, dtype=np.int64)
    return np.append(starts, min(max(end - width, place.low), place.high - width)), width


def blend_weights(width: int, overlap_bp: int) -> NDArray[np.float32]:
    """[width] weight of each answer in the average over windows: 1, falling in a line over the shared ends."""
    rise = (np.arange(1, overlap_bp + 1) / (overlap_bp + 1)).astype(np.float32)
    weight = np.ones(width, np.float32)
    count = min(overlap_bp, width)
    weight[:count] = np.minimum(weight[:count], rise[:count])
    weight[width - count :] = np.minimum(weight[width - count :], rise[:count][::-1])
    return weight


def group_pieces(pieces: Sequence[Piece], frame: Frame, *, read_bp: int) -> tuple[tuple[Piece, ...], ...]:
    """Neighbouring pieces together as long as they read at most `read_bp`, so that many short ones are few groups."""
    groups: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        size = len(piece.windows) * (frame.input_bp if frame.is_fixed else piece.answered_bp)
        if size > room:
            groups.append([])
            room = read_bp
        groups[-1].append(piece)
        room -= size
    return tuple(map(tuple, groups))


def find_places(
    intervals: Sequence[Interval],
    contig_bp: Mapping[str, int],
    unknown: Mapping[str, Sequence[tuple[int, int]]],
    *,
    crosses_unknown: bool,
) -> list[Place]:
    """The intervals without their stretches of unknown bases.

    Args:
        intervals: disjoint.
        unknown: contig -> (start, end) of each stretch, ascending and disjoint.
        crosses_unknown: whether such stretches may be read as surroundings.
    """
    found = []
    for interval in intervals:
        size, holes = contig_bp[interval.contig], unknown.get(interval.contig, ())
        edges = [0, *(edge for hole in holes for edge in hole), size]
        for low, high in zip(edges[::2], edges[1::2], strict=True):  # what is known
            start, end = max(low, interval.start), min(high, interval.end)
            if start < end:
                low, high = (0, size) if crosses_unknown else (low, high)
                found.append(Place(interval.contig, start, end, low, high))
    return found


def merge_intervals(intervals: Sequence[Interval], order: Sequence[str]) -> list[Interval]:
    """Intervals without strand, overlapping and touching ones made one, in the order of the contigs."""
    rank = {name: number for number, name in enumerate(order)}
    found: list[Interval] = []
    for item in sorted(intervals, key=lambda item: (rank[item.contig], item.start, item.end)):
        if found and found[-1].contig == item.contig and item.start <= found[-1].end:
            found[-1] = Interval(item.contig, found[-1].start, max(found[-1].end, item.end))
        else:
            found.append(Interval(item.contig, item.start, item.end))
    return found
