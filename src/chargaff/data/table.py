"""Sequences with labels, held in memory: the source of every fine-tuning, prediction and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.data.batch import Example
from chargaff.data.labels import Labels
from chargaff.errors import InputError
from chargaff.seq.alphabet import IUPAC_DNA, UPPER, find_invalid, translate
from chargaff.seq.interval import Interval


@dataclass(frozen=True, slots=True, eq=False)
class PackedSequences:
    """Sequences of any lengths in one array: cheap to hold, to select from, and to send to workers."""

    bases: NDArray[np.uint8]
    """[sum of lengths] ASCII, all sequences end to end."""
    offset: NDArray[np.int64]
    """[n + 1] where each sequence begins; the last entry is the total."""

    @classmethod
    def pack(cls, sequences: Iterable[NDArray[np.uint8]]) -> PackedSequences:
        parts = list(sequences)
        lengths = np.fromiter((len(part) for part in parts), dtype=np.int64, count=len(parts))
        bases = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
        return cls(bases, np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offset) - 1

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """[L] a view."""
        return self.bases[self.offset[row] : self.offset[row + 1]]

    @property
    def lengths_bp(self) -> NDArray[np.int64]:
        return np.diff(self.offset)

    def select(self, rows: NDArray[np.int64]) -> PackedSequences:
        return PackedSequences.pack(self[row] for row in rows)


@dataclass(frozen=True, slots=True, eq=False)
class SequenceTable:
    """A source with one row per sequence, or per pair of sequences."""

    views: tuple[PackedSequences, ...]
    """One, or two for pairs; each has a sequence for every row."""
    labels: Labels | None = None
    ids: Sequence[str] | None = None
    """Name of each row; None: its number from 1."""
    intervals: Sequence[Interval] | None = None
    """Where each sequence lies, if it was cut from a genome."""

    def __len__(self) -> int:
        return len(self.views[0])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        target: Any = None if self.labels is None else self.labels.target[index]
        if isinstance(target, np.generic):
            target = target.item()
        return Example(
            tuple(view[index] for view in self.views),
            target=target,
            interval=None if self.intervals is None else self.intervals[index],
            id=str(index + 1) if self.ids is None else self.ids[index],
        )

    @property
    def lengths_bp(self) -> NDArray[np.int64]:
        """[n] length of each row's (first) sequence."""
        return self.views[0].lengths_bp

    def select(self, rows: NDArray[np.int64]) -> SequenceTable:
        """The table of these rows, in this order."""
        ids = [str(row + 1) for row in rows] if self.ids is None else [self.ids[row] for row in rows]
        return SequenceTable(
            tuple(view.select(rows) for view in self.views),
            labels=None if self.labels is None else self.labels.select(rows),
            ids=ids,
            intervals=None if self.intervals is None else [self.intervals[row] for row in rows],
        )


def clean_sequences(packed: PackedSequences, where: str) -> PackedSequences:
    """The sequences in upper case, after a check that none is empty and all letters stand for DNA.

    Raises:
        InputError: naming the first bad row (numbered from 1) and what is wrong with it.
    """
    empty = np.flatnonzero(packed.lengths_bp == 0)
    if empty.size:
        raise InputError(f"{where}: row {empty[0] + 1} has no sequence ({empty.size:,} such rows in all)")
    upper = translate(packed.bases, UPPER)
    invalid = find_invalid(upper, IUPAC_DNA)
    if invalid is not None:
        row = int(np.searchsorted(packed.offset, invalid.offset, side="right")) - 1
        at = invalid.offset - int(packed.offset[row])
        total = sum(invalid.counts.values())
        hint = "; is this RNA? replace U by T" if invalid.letter == "U" else ""
        raise InputError(
            f"{where}: row {row + 1} holds {invalid.letter!r} at base {at} (from 0), which is no DNA letter; "
            f"{total:,} such letters in all: {dict(list(invalid.counts.items())[:5])}{hint}"
        )
    return PackedSequences(upper, packed.offset)
