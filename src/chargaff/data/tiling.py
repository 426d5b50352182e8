"""Windows that give every base of some places an answer, in pieces that can be computed one by one.

All of it is arithmetic on lengths: the same places and options always give the same windows, in whatever order or
process the pieces are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

    @property
    def answered_bp(self) -> int:
        return self.input_bp if self.output_bp is None else self.output_bp


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a place; the unit of work and of resuming."""

    contig: str
    start: int
    end: int
    windows: Ints
    """[W] first base that has an answer in each window; may lie before the contig."""
    answered_bp: int
    """Bases with an answer in each of these windows."""


def plan_pieces(
    places: Sequence[Interval], contig_bp: dict[str, int], frame: Frame, *, overlap_bp: int, piece_bp: int
) -> list[Piece]:
    """Pieces of at most `piece_bp` that cover each place once.

    Windows of a contig lie side by side, `overlap_bp` shared by neighbours, and stay inside of it as long as it is long
    enough: the last is moved to end with it. The windows of a place do not depend on how it is cut into pieces.

    Args:
        places: disjoint, inside of their contigs.
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
        starts, width = _windows(place, contig_bp[place.contig], frame, overlap_bp)
        for begin in range(place.start, place.end, piece_bp):
            end = min(begin + piece_bp, place.end)
            ours = starts[(starts < end) & (starts + width > begin)]
            pieces.append(Piece(place.contig, begin, end, ours, width))
    return pieces


def _windows(place: Interval, length_bp: int, frame: Frame, overlap_bp: int) -> tuple[Ints, int]:
    """(first answered bases, answered bases of each) of the windows over a place, with surroundings on both sides."""
    width = frame.answered_bp
    if frame.is_fixed:
        step = width - overlap_bp
        first = place.start - overlap_bp // 2
        return np.arange(first, place.end, step, dtype=np.int64), width
    if length_bp <= width:
        return np.zeros(1, np.int64), -(-length_bp // frame.multiple_bp) * frame.multiple_bp
    begin, end = max(place.start - overlap_bp, 0), min(place.end + overlap_bp, length_bp)
    missing = width - (end - begin)
    if missing > 0:  # a short place stands in the middle of its window
        begin = min(max(begin - missing // 2, 0), length_bp - width)
        return np.array([begin], np.int64), width
    starts = np.arange(begin, end - width, width - overlap_bp, dtype=np.int64)
    return np.append(starts, min(max(end - width, 0), length_bp - width)), width


def blend_weights(width: int, overlap_bp: int) -> NDArray[np.float32]:
    """[width] weight of each answer in the average over windows: 1, falling in a line over the shared ends."""
    rise = (np.arange(1, overlap_bp + 1) / (overlap_bp + 1)).astype(np.float32)
    weight = np.ones(width, np.float32)
    count = min(overlap_bp, width)
    weight[:count] = np.minimum(weight[:count], rise[:count])
    weight[width - count :] = np.minimum(weight[width - count :], rise[:count][::-1])
    return weight


def known_places(places: Sequence[Interval], unknown: dict[str, Sequence[tuple[int, int]]]) -> Iterator[Interval]:
    """The places without the stretches of unknown bases.

    Args:
        unknown: contig -> (start, end) of each stretch, ascending and disjoint.
    """
    for place in places:
        begin = place.start
        for start, end in unknown.get(place.contig, ()):
            if end <= begin or start >= place.end:
                continue
            if start > begin:
                yield Interval(place.contig, begin, start)
            begin = max(begin, end)
        if begin < place.end:
            yield Interval(place.contig, begin, place.end)


def merged_places(places: Sequence[Interval], order: Sequence[str]) -> list[Interval]:
    """Places without strand, overlapping and touching ones made one, in the order of the contigs."""
    rank = {name: number for number, name in enumerate(order)}
    found: list[Interval] = []
    for place in sorted(places, key=lambda item: (rank[item.contig], item.start, item.end)):
        if found and found[-1].contig == place.contig and place.start <= found[-1].end:
            found[-1] = Interval(place.contig, found[-1].start, max(found[-1].end, place.end))
        else:
            found.append(Interval(place.contig, place.start, place.end))
    return found
