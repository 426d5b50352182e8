"""The labelled sequences that a `[data]` table names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chargaff.data.formats import READERS, SPLITS, get_dataset
from chargaff.data.labels import Labels
from chargaff.data.table import SequenceTable
from chargaff.errors import ConfigError, InputError
from chargaff.train.runs import DatasetTable, FilesTable
from chargaff.workflows.sequences import TABLE_ENDINGS


@dataclass(frozen=True, slots=True)
class LabelledData:
    """All rows of a data set, before they are divided."""

    train: SequenceTable
    valid: SequenceTable | None
    """None: taken from the training rows by seed."""
    test: SequenceTable | None
    rule: str
    """Key of SPLITS."""
    valid_fraction: float
    max_bp: int | None
    metric: str | None
    """What the data set's authors select by."""
    files: tuple[Path, ...]

    @property
    def labels(self) -> Labels:
        assert self.train.labels is not None
        return self.train.labels

    def divide(self, seed: int) -> tuple[SequenceTable, SequenceTable]:
        """(training rows, validation rows) of a repetition."""
        if self.valid is not None:
            return self.train, self.valid
        valid, train = SPLITS[self.rule](len(self.train), seed, self.valid_fraction)
        return self.train.select(train), self.train.select(valid)


def open_data(table: DatasetTable | FilesTable) -> LabelledData:
    """The rows that a `[data]` table names.

    Raises:
        ConfigError: no such data set.
        InputError: files are missing or malformed, or the splits differ in their labels.
    """
    if isinstance(table, DatasetTable):
        row = get_dataset(table.name)
        splits = {split: row.read(table.root, split) for split in row.files}
        return LabelledData(
            splits["train"],
            splits.get("valid"),
            splits.get("test"),
            rule=row.valid_split,
            valid_fraction=row.valid_fraction,
            max_bp=table.max_bp or row.max_length_bp,
            metric=row.metric,
            files=tuple(row.path(table.root, split) for split in row.files),
        )
    classes = table.classes or None
    train = read_labelled(table.train, table, classes)
    assert train.labels is not None
    if table.labels == "class":
        classes = train.labels.names
    valid, test = (None if path is None else read_labelled(path, table, classes) for path in (table.valid, table.test))
    files = tuple(path for path in (table.train, table.valid, table.test) if path is not None)
    return LabelledData(train, valid, test, table.valid_rule, table.valid_fraction, table.max_bp, None, files)


def read_labelled(path: Path, table: FilesTable, classes: tuple[str, ...] | None) -> SequenceTable:
    """The rows of one file or class folder."""
    plain = path.name.lower().removesuffix(".gz")
    kind = table.format or (
        "folder-of-classes" if path.is_dir() else "csv" if plain.endswith(TABLE_ENDINGS) else "fasta-label"
    )
    if kind == "csv":
        found = READERS[kind](path, sequence=table.sequence, label=table.label, kind=table.labels, classes=classes)
    elif table.labels != "class":
        raise ConfigError(f'data.labels: {path.name} ({kind}) holds classes; "{table.labels}" needs a table')
    else:
        found = READERS[kind](path, classes=classes)
    if found.labels is None:
        raise InputError(f"{path}: its rows have no labels")
    return found
