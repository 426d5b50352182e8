"""Places that no training may see: fast overlap tests, and the files that list them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chargaff.seq.interval import Interval


class HeldOut:
    """Intervals on the contigs of one genome, asked for overlap by the million; strands do not matter."""

    def __init__(self, intervals: Sequence[Interval], contigs: Sequence[str]) -> None:
        """Intervals on contigs that are not in `contigs` are ignored; a contig's id is its place there."""
        ids = {name: number for number, name in enumerate(contigs)}
        table = sorted(
            (ids[place.contig], place.start, place.end)
            for place in intervals
            if place.contig in ids and place.start < place.end
        )
        merged: list[list[int]] = []
        for contig, start, end in table:
            if merged and merged[-1][0] == contig and start <= merged[-1][2]:
                merged[-1][2] = max(merged[-1][2], end)
            else:
                merged.append([contig, start, end])
        columns = np.array(merged, dtype=np.int64).reshape(-1, 3).T
        self._contig, self._start, self._end = columns
        # one sorted axis for all contigs: position in the concatenation of contigs, each given the longest one's room
        self._room = int(self._end.max()) + 1 if len(merged) else 1

    def __len__(self) -> int:
        """Number of disjoint intervals."""
        return len(self._start)

    def overlap(self, contig: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[n] whether each place shares a base with one of the intervals; `start` may lie before the contig.

        Args:
            contig, start, end: [n].
        """
        if not len(self):
            return np.zeros(len(start), dtype=bool)
        begin = np.clip(start, 0, self._room - 1)
        at = np.searchsorted(self._contig * self._room + self._end, contig * self._room + begin, side="right")
        found = np.minimum(at, len(self) - 1)
        overlaps: NDArray[np.bool_] = (at < len(self)) & (self._contig[found] == contig) & (self._start[found] < end)
        return overlaps & (end > start)
