"""Labels as numbers: classes, values and several yes/no labels, checked with the row that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import ConfigError, InputError

LabelKind = Literal["class", "value", "multi-label"]
"""One class per row; one number or several; several labels that are each 0 or 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What the rows of a source are labelled with."""

    kind: LabelKind
    target: NDArray[Any]
    """int64 [n] for classes, float32 [n] for one value, float32 [n, C] otherwise."""
    names: tuple[str, ...]
    """Class of each id, or name of each value or label."""

    @property
    def num_outputs(self) -> int:
        """Outputs a head needs: one per class, value or label."""
        return len(self.names)

    def select(self, rows: NDArray[np.int64]) -> Labels:
        return Labels(self.kind, self.target[rows], self.names)


def parse_labels(
    columns: dict[str, Sequence[str]], kind: LabelKind, where: str, classes: Sequence[str] | None = None
) -> Labels:
    """Labels from text columns.

    Classes are numbered by `classes`, or else in sorted order, by value where all are integers: the same numbers
    for every file that holds the same classes. Give `classes` when a file may lack one.

    Args:
        columns: name -> text of each row; one column for "class".
        where: file name for messages.

    Raises:
        InputError: naming the first row (numbered from 1) whose label is missing or impossible.
    """
    if kind == "class":
        if len(columns) != 1:
            raise ConfigError(f'{where}: one label column makes classes, got {list(columns)}; use kind "multi-label"')
        return _classes(next(iter(columns.values())), where, classes)
    if classes is not None:
        raise ConfigError(f'{where}: class names go with kind "class" only, this is {kind!r}')
    numbers = np.stack([_numbers(name, values, where) for name, values in columns.items()], axis=1)
    if kind == "multi-label":
        bad = np.argwhere((numbers != 0) & (numbers != 1))
        if bad.size:
            row, column = bad[0].tolist()
            found = f"{list(columns)[column]} = {numbers[row, column]:g}"
            raise InputError(f"{where}: row {row + 1} has {found}; labels of a multi-label set are 0 or 1")
    elif len(columns) == 1:
        numbers = numbers[:, 0]
    return Labels(kind, numbers.astype(np.float32), tuple(columns))


def class_names(found: Sequence[str]) -> tuple[str, ...]:
    """Distinct names in sorted order, by value where all are integers."""
    distinct = sorted(set(found))
    if all(name.removeprefix("-").isdecimal() for name in distinct):
        distinct.sort(key=int)
    return tuple(distinct)


def _classes(values: Sequence[str], where: str, classes: Sequence[str] | None) -> Labels:
    names = tuple(classes) if classes is not None else class_names(values)
    if classes is None and len(names) > max(100, len(values) // 2):
        found = f"{len(names):,} different labels in {len(values):,} rows are no classes"
        raise InputError(f'{where}: {found}; if they are numbers, say kind "value"')
    ids = {name: number for number, name in enumerate(names)}
    target = np.fromiter((ids.get(value, -1) for value in values), dtype=np.int64, count=len(values))
    for row in np.flatnonzero((target < 0) | np.fromiter((not value for value in values), bool, len(values)))[:1]:
        if not values[row]:
            raise InputError(f"{where}: row {row + 1} has no label")
        raise InputError(f"{where}: row {row + 1} has label {values[row]!r}; the classes are {', '.join(names[:20])}")
    return Labels("class", target, names)


def _numbers(name: str, values: Sequence[str], where: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except ValueError:
        numbers = np.array([_number(value) for value in values])
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row = int(bad[0])
        raise InputError(f"{where}: row {row + 1} has {name} = {values[row]!r}, expected a finite number")
    return numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
