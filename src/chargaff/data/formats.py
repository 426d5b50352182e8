"""Known data sets: the rows of `data/datasets/*.toml`, and the readers they name."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

from chargaff.data.readers import (
    read_class_folder,
    read_fasta,
    read_labelled_regions,
    read_pairs,
    read_sequences,
)
from chargaff.data.splits import Indices, hub_split, torch_split
from chargaff.data.table import SequenceTable
from chargaff.errors import ConfigError, InputError
from chargaff.io.streams import open_input

READERS: Mapping[str, Callable[..., SequenceTable]] = {
    "bed-label": read_labelled_regions,
    "csv": read_sequences,
    "fasta-label": partial(read_fasta, has_labels=True),
    "folder-of-classes": read_class_folder,
    "pairs": read_pairs,
}
"""Layout of files -> reader(path, *, classes, **options)."""

SPLITS: Mapping[str, Callable[[int, int, float], tuple[Indices, Indices]]] = {"hub": hub_split, "torch": torch_split}
"""How a suite's authors take validation rows from the training rows: (rows, seed, fraction) -> (valid, train)."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Where the data sets of one table come from."""

    title: str
    source: str
    paper: str
    licence: str
    get: str
    """How to obtain the files, in one sentence."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One row of a table."""

    name: str
    """suite/task"""
    suite: Suite
    format: str
    """Key of READERS."""
    files: Mapping[str, str]
    """Split -> path below the suite's folder."""
    rows: Mapping[str, int]
    """Split -> number of sequences."""
    classes: tuple[str, ...]
    """In the order of their ids."""
    metric: Literal["accuracy", "f1", "mcc"]
    """What the suite's authors report and select by."""
    max_length_bp: int
    """The authors cut longer sequences to their first bases."""
    valid_split: Literal["hub", "torch"]
    """Key of SPLITS."""
    schedule_rows: int
    """Rows that the published runs compute the length of their learning-rate schedule from."""
    valid_fraction: float = 0.1
    length_bp: Mapping[str, int] = field(default_factory=dict)
    """min, median and max of the sequence lengths, where known."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the reader."""

    def path(self, root: Path, split: str) -> Path:
        """Where the split lies, plain or with .gz, below the folder of the suite or of the task; else an InputError."""
        plain = root / self.files[split]
        if root.name == self.name.partition("/")[2]:
            plain = root.parent / self.files[split]
        for path in (plain, plain.with_name(plain.name + ".gz")):
            if path.exists():
                return path
        raise InputError(f"{plain}: no such file or folder; to obtain {self.name}: {self.suite.get}")

    def read(self, root: Path, split: str) -> SequenceTable:
        """The sequences of one of `files`; see `path` for `root`."""
        return READERS[self.format](self.path(root, split), classes=self.classes, **self.options)

    def split_rows(self, num_rows: int, seed: int) -> tuple[Indices, Indices]:
        """(validation, training) rows of the training file, by the authors' rule."""
        return SPLITS[self.valid_split](num_rows, seed, self.valid_fraction)


def list_datasets() -> tuple[Dataset, ...]:
    """All rows of all tables, ordered by suite, then as they stand there."""
    rows: list[Dataset] = []
    with as_file(files("chargaff.data").joinpath("datasets")) as folder:
        for path in sorted(folder.glob("*.toml")):
            with open_input(path) as stream:
                rows += parse_table(path.name, stream.read().decode("utf-8"))
    return tuple(rows)


def get_dataset(name: str) -> Dataset:
    """The row of this name, `suite/task` or the task alone where one suite has it; suggests the nearest otherwise."""
    rows = list_datasets()
    found = [row for row in rows if name in (row.name, row.name.partition("/")[2])]
    if len(found) == 1:
        return found[0]
    near = [row.name for row in found]
    if not found:
        spellings = {spelling: row.name for row in rows for spelling in (row.name.partition("/")[2], row.name)}
        matches = difflib.get_close_matches(name, spellings, n=3)
        near = list(dict.fromkeys(spellings[match] for match in matches))
    hint = f"did you mean {' or '.join(near)}?" if near else "`chargaff data list` names them"
    raise ConfigError(f"{name!r} is {'more than one' if found else 'no'} known data set; {hint}")


def parse_table(file_name: str, text: str) -> tuple[Dataset, ...]:
    """The rows of a data set table, checked.

    Raises:
        ConfigError: naming table, row and key.
    """
    stem = file_name.removesuffix(".toml")
    try:
        tables = tomllib.loads(text)
        suite = Suite(**tables.pop("suite"))
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise ConfigError(f"{file_name}: no data set table with a [suite] ({error})") from None
    return tuple(_parse_row(f"{stem}/{name}", suite, values) for name, values in tables.items())


def _parse_row(name: str, suite: Suite, values: dict[str, Any]) -> Dataset:
    known = {entry.name for entry in fields(Dataset)} - {"name", "suite"}
    unknown = sorted(set(values) - known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ConfigError(f"{name}.{unknown[0]}: unknown key" + (f", did you mean {near[0]!r}?" if near else ""))
    try:
        row = Dataset(name=name, suite=suite, **{**values, "classes": tuple(values.get("classes", ()))})
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from None
    for key, value, choices in (
        ("format", row.format, list(READERS)),
        ("valid_split", row.valid_split, list(SPLITS)),
        ("metric", row.metric, ["accuracy", "f1", "mcc"]),
    ):
        if value not in choices:
            raise ConfigError(f"{name}.{key}: expected one of {', '.join(choices)}, got {value!r}")
    if set(row.files) != set(row.rows):
        raise ConfigError(f"{name}: files has the splits {sorted(row.files)}, rows has {sorted(row.rows)}")
    return row
