"""Which tracks of a model are wanted, and what is known about them: the published tables of targets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chargaff.errors import ConfigError, InputError
from chargaff.io.tables import read_table

MOST_UNASKED = 100
"""Tracks of a set that are all taken when nobody chooses."""
SQUASHED_POWER = {"sum_sqrt": 0.75}
"""sum_stat -> power that training coverage was raised to; 1 for others (borzoi sheet 4)."""


@dataclass(frozen=True, slots=True)
class Target:
    """A track of a model."""

    number: int
    """In its set, from 0."""
    identifier: str = ""
    description: str = ""
    pair: int | None = None
    """Number of the track that it becomes on the other strand; itself if it has no strand; None: not known."""
    squash: tuple[float, float, float] | None = None
    """scale, soft clip and power of the coverage that it was trained on, where the table has all of them."""

    @property
    def label(self) -> str:
        """For axes and lists."""
        return self.description or self.identifier or f"track {self.number}"


def read_targets(path: str | os.PathLike[str], num_tracks: int) -> dict[int, Target]:
    """Number of a track -> what a table of targets says; published as targets.txt (Borzoi) and targets_human.txt.

    Columns: `index` or a first one without a name (the track's number; without it the rows are the tracks in order),
    and as far as they are there identifier, description, strand_pair, scale, clip_soft, sum_stat.

    Raises:
        InputError: no table, a number out of range or twice, or rows that cannot be matched with tracks.
    """
    table = read_table(path, types={"identifier": "text", "description": "text", "sum_stat": "text"})
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in table.column_names}
    key = next((name for name in ("index", "") if name in columns), None)
    if key is None and table.num_rows != num_tracks:
        raise InputError(
            f"{path}: {table.num_rows:,} rows for {num_tracks:,} tracks; a table of some of them needs a column "
            "'index' with their numbers"
        )
    if not table.num_rows:
        raise InputError(f"{path}: the table has no rows")
    numbers = range(num_tracks) if key is None else columns[key]
    found: dict[int, Target] = {}
    for row, number in enumerate(numbers):
        line = f"{path}:{row + 2}"
        _require_number(line, "index", number, num_tracks)
        if number in found:
            raise InputError(f"{line}: track {number} is there twice")
        found[number] = _target(line, number, {name: values[row] for name, values in columns.items()}, num_tracks)
    for row, target in enumerate(found.values()):
        back = found[target.pair].pair if target.pair in found else target.number
        if back != target.number:
            raise InputError(f"{path}:{row + 2}: strand_pair: {target.pair}, whose own is {back}; both must agree")
    return found


def _target(line: str, number: int, row: Mapping[str, Any], num_tracks: int) -> Target:
    pair = row.get("strand_pair")
    if pair is not None:
        _require_number(line, "strand_pair", pair, num_tracks)
    squash = None
    if all(row.get(name) is not None for name in ("scale", "clip_soft", "sum_stat")):
        try:
            squash = float(row["scale"]), float(row["clip_soft"]), SQUASHED_POWER.get(row["sum_stat"], 1.0)
        except ValueError as error:
            raise InputError(f"{line}: scale and clip_soft: {error}") from None
        if squash[0] <= 0:
            raise InputError(f"{line}: scale: expected more than 0, got {squash[0]}")
    return Target(number, row.get("identifier") or "", row.get("description") or "", pair, squash)


def _require_number(line: str, column: str, value: Any, num_tracks: int) -> None:
    if not isinstance(value, int) or not 0 <= value < num_tracks:
        raise InputError(f"{line}: {column}: expected the number of a track, 0 to {num_tracks - 1}, got {value!r}")


def choose_targets(
    words: Sequence[str], known: Mapping[int, Target] | None, num_tracks: int, set_name: str
) -> tuple[Target, ...]:
    """The tracks that were asked for, by number.

    Args:
        words: each a number "7", a range "7-9" with both ends, "all", an identifier, or part of a description (in any
            case). () takes the rows of the table, or all tracks of a small set.
        known: `read_targets`; None: no table.

    Raises:
        ConfigError: a word that names no track, or many tracks and no choice.
    """
    described = known or {}
    if not words and known is None and num_tracks > MOST_UNASKED:
        raise ConfigError(
            f"targets: the set {set_name} has {num_tracks:,} tracks, each a file; choose some (--targets 0 5 10-19, or "
            "words of their descriptions with --targets-file), or all with --targets all"
        )
    numbers: set[int] = set(range(num_tracks) if known is None else known) if not words else set()
    for word in words:
        numbers.update(_numbers(word, known, num_tracks, set_name))
    return tuple(described.get(number, Target(number)) for number in sorted(numbers))


def _numbers(word: str, known: Mapping[int, Target] | None, num_tracks: int, set_name: str) -> Sequence[int]:
    if word == "all":
        return range(num_tracks)
    first, _, last = word.partition("-")
    if first.isdecimal() and (last.isdecimal() or word == first):
        begin, end = int(first), int(last or first)
        if begin > end or end >= num_tracks:
            raise ConfigError(f"targets: {word}: the set {set_name} has tracks 0 to {num_tracks - 1:,}")
        return range(begin, end + 1)
    if known is None:
        raise ConfigError(f"targets: {word!r} is no number; words are looked up in a table, given as --targets-file")
    named = [target.number for target in known.values() if target.identifier == word]
    found = named or [item.number for item in known.values() if word.lower() in item.description.lower()]
    if not found:
        raise ConfigError(f"targets: {word!r} is no identifier in the table, and in no description")
    return found
