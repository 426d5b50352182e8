"""What a table of sequences holds, and what it shares with another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chargaff.data.leakage import first_occurrence, seen_in, strandless_keys
from chargaff.data.table import SequenceTable
from chargaff.seq.alphabet import count_letters


@dataclass(frozen=True, slots=True)
class Composition:
    """Counts of one split; sequences count as equal on either strand."""

    rows: int
    length_bp: tuple[int, int, int]
    """Shortest, median (rounded down), longest."""
    classes: dict[str, int]
    """Rows of each class; empty without classes."""
    unknown_bases: dict[str, int]
    """Letters other than A, C, G, T."""
    repeated: int
    """Rows whose sequence stands in an earlier row."""
    contradicting: int
    """Those of them that are labelled differently than its first occurrence."""


def table_keys(table: SequenceTable) -> list[bytes]:
    """One key per row, equal for the same sequence (or pair of sequences) on whichever strand."""
    columns = [strandless_keys(view[row] for row in range(len(view))) for view in table.views]
    return [b" ".join(keys) for keys in zip(*columns, strict=True)]


def describe(table: SequenceTable, keys: list[bytes]) -> Composition:
    """The composition of a table with at least one row.

    Args:
        keys: of `table_keys`.
    """
    first = first_occurrence(keys)
    letters: dict[str, int] = {}
    for view in table.views:
        for letter, count in count_letters(view.bases).items():
            letters[letter] = letters.get(letter, 0) + count
    classes: dict[str, int] = {}
    differs = np.zeros(len(table), dtype=bool)
    if table.labels is not None:
        target = table.labels.target
        differs = (target != target[first]).reshape(len(table), -1).any(axis=1)
        if table.labels.kind == "class":
            counts = np.bincount(target, minlength=len(table.labels.names)).tolist()
            classes = dict(zip(table.labels.names, counts, strict=True))
    lengths = table.lengths_bp
    return Composition(
        rows=len(table),
        length_bp=(int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        classes=classes,
        unknown_bases={letter: count for letter, count in letters.items() if letter not in "ACGT"},
        repeated=int((first != np.arange(len(table))).sum()),
        contradicting=int(differs.sum()),
    )


def shared_rows(keys: dict[str, list[bytes]]) -> dict[tuple[str, str], int]:
    """(split, other) -> rows of the split whose sequence also stands in the other; pairs without any are left out."""
    shared = {
        (name, other): int(seen_in(keys[name], keys[other]).sum()) for name in keys for other in keys if name != other
    }
    return {pair: count for pair, count in shared.items() if count}
