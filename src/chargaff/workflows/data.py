"""Data sets: what is known, what a local copy holds, and the making of new ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from chargaff.data.composition import Composition, describe, shared_rows, table_keys
from chargaff.data.formats import READERS, Dataset, get_dataset, list_datasets
from chargaff.data.labels import LabelKind
from chargaff.data.readers import read_class_folder, read_fasta, read_sequences
from chargaff.data.table import SequenceTable
from chargaff.errors import ConfigError
from chargaff.io.atomic import publish, write_manifest
from chargaff.io.tables import column_names
from chargaff.io.writers import Column, open_writer
from chargaff.workflows.provenance import provenance
from chargaff.workflows.sequences import TABLE_ENDINGS

FilePath = str | os.PathLike[str]
TableFormat = Literal["parquet", "tsv", "tsv.gz"]

MANIFEST = "dataset.json"
"""Written last into a prepared folder; says what is in it and where it comes from."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the splits of a data set hold."""

    splits: Mapping[str, Composition]
    shared: Mapping[tuple[str, str], int]
    """(split, other split) -> rows of the first whose sequence also stands in the other, on either strand."""
    problems: tuple[str, ...]
    """One sentence each; empty if all is as it should be."""

    def to_json(self) -> dict[str, Any]:
        shared = [{"split": a, "other": b, "rows": count} for (a, b), count in self.shared.items()]
        splits = {name: asdict(composition) for name, composition in self.splits.items()}
        return {"splits": splits, "shared": shared, "problems": list(self.problems)}


def describe_known(name: str | None = None) -> list[dict[str, Any]]:
    """The known data sets, or the one of this name, as JSON values."""
    rows = list_datasets() if name is None else (get_dataset(name),)
    return [asdict(row) for row in rows]


def check_known(name: str, root: FilePath) -> CheckReport:
    """Compares a local copy of a known data set with its row: counts, classes, lengths, repeats between splits.

    Args:
        root: folder of the suite, or of the task.

    Raises:
        ConfigError: no such data set.
        InputError: files are missing or malformed.
    """
    row = get_dataset(name)
    tables = {split: row.read(Path(root), split) for split in row.files}
    report = check_tables(tables)
    return CheckReport(report.splits, report.shared, (*_deviations(row, report.splits), *report.problems))


def check_files(
    paths: Sequence[FilePath],
    *,
    format: str | None = None,
    sequence: str = "sequence",
    label: Sequence[str] = (),
    kind: LabelKind = "class",
) -> CheckReport:
    """What the given files or class folders hold; each is one split of a data set.

    Args:
        format: key of READERS; by default a folder holds class folders, a name that ends like a table's is a table,
            and anything else is FASTA or FASTQ without labels.
        label: label columns of tables; by default "label" where it exists.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ConfigError("the same path is given twice")
    are_distinct = len({Path(path).name for path in paths}) == len(paths)
    names = [Path(path).name if are_distinct else os.fspath(path) for path in paths]
    return check_tables(
        {name: _read(path, format, sequence, label, kind) for name, path in zip(names, paths, strict=True)}
    )


def prepare_known(
    name: str,
    root: FilePath,
    out: FilePath,
    *,
    seed: int = 1,
    format: TableFormat = "parquet",
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes the folder `out` with tables train, valid and test of a known data set, and `dataset.json`.

    Validation rows are taken from the training rows by the rule of the suite's authors. Columns: sequence, label, id.

    Args:
        root: folder of the suite, or of the task.
        seed: of the validation split.

    Returns:
        Rows of each split.
    """
    row = get_dataset(name)
    tables = {split: row.read(Path(root), split) for split in row.files}
    report = check_tables(tables)
    valid, train = row.split_rows(len(tables["train"]), seed)
    tables |= {"train": tables["train"].select(train), "valid": tables["train"].select(valid)}
    problems = [*_deviations(row, report.splits), *report.problems]
    record = provenance(options={"dataset": row.name, "seed": seed, "valid_split": row.valid_split})
    with publish(out, overwrite=overwrite) as part:
        part.mkdir()
        for split, table in tables.items():
            write_table(part / f"{split}.{format}", table)
        counts = {split: len(table) for split, table in tables.items()}
        write_manifest(part, MANIFEST, {"dataset": asdict(row), "rows": counts, "problems": problems, **record})
    return counts


def write_table(path: FilePath, table: SequenceTable) -> None:
    """A table of single sequences with class labels, as columns sequence, label (class name) and id."""
    if len(table.views) != 1 or table.labels is None or table.labels.kind != "class":
        raise ConfigError(f"{os.fspath(path)}: only single sequences with class labels can be written")
    names = table.labels.names
    with open_writer(
        path, [Column(name, "text") for name in ("sequence", "label", "id")], num_rows=len(table)
    ) as writer:
        examples = [table[index] for index in range(len(table))]
        writer.write(
            range(len(table)),
            {
                "sequence": [example.views[0].tobytes().decode("ascii") for example in examples],
                "label": [names[example.target] for example in examples],
                "id": [example.id for example in examples],
            },
        )


def check_tables(tables: Mapping[str, SequenceTable]) -> CheckReport:
    """Composition of each split, and what they share."""
    keys = {name: table_keys(table) for name, table in tables.items()}
    splits = {name: describe(table, keys[name]) for name, table in tables.items()}
    shared = shared_rows(keys)
    problems = [sentence for name, table in tables.items() for sentence in _oddities(name, table, splits[name])]
    problems += [
        f"{name} and {other} share sequences, on either strand: {count:,} of {splits[name].rows:,} rows of {name}, "
        f"{shared[other, name]:,} of {splits[other].rows:,} of {other}"
        for (name, other), count in shared.items()
        if list(splits).index(name) < list(splits).index(other)
    ]
    names = {name: ", ".join(table.labels.names) for name, table in tables.items() if table.labels is not None}
    if len(set(names.values())) > 1:
        problems.append(f"the splits differ in their labels: {'; '.join(f'{k} has {v}' for k, v in names.items())}")
    return CheckReport(splits, shared, tuple(problems))


def _oddities(name: str, table: SequenceTable, found: Composition) -> list[str]:
    sentences = []
    if found.contradicting:
        sentences.append(f"{name}: sequences that occur again with another label: {found.contradicting:,}")
    missing = [label for label, count in found.classes.items() if not count]
    if missing:
        sentences.append(f"{name}: no row of class {', '.join(missing)}")
    if len(found.classes) == 1:
        sentences.append(f"{name}: all rows are of class {next(iter(found.classes))}")
    return sentences


def _deviations(row: Dataset, splits: Mapping[str, Composition]) -> list[str]:
    """Where a local copy differs from its row."""
    sentences = []
    for split, expected in row.rows.items():
        if splits[split].rows != expected:
            sentences.append(f"{split}: {splits[split].rows:,} rows, the published set has {expected:,}")
    shortest = min(found.length_bp[0] for found in splits.values())
    longest = max(found.length_bp[2] for found in splits.values())
    expected_bp = (row.length_bp.get("min", shortest), row.length_bp.get("max", longest))
    if (shortest, longest) != expected_bp:
        published = f"those of the published set {expected_bp[0]} to {expected_bp[1]}"
        sentences.append(f"lengths are {shortest} to {longest} bp, {published}")
    return sentences


def _read(path: FilePath, format: str | None, sequence: str, label: Sequence[str], kind: LabelKind) -> SequenceTable:
    if format is not None and format not in READERS:
        raise ConfigError(f"format: expected one of {', '.join(READERS)}, got {format!r}")
    if format is not None and format != "csv":
        return READERS[format](path)
    if format is None and Path(path).is_dir():
        return read_class_folder(path)
    plain = os.fspath(path).lower().removesuffix(".gz")
    if format is None and not plain.endswith(TABLE_ENDINGS):
        return read_fasta(path)
    labels = list(label) or [name for name in ("label",) if name in column_names(path)]
    return read_sequences(path, sequence=sequence, label=labels or None, kind=kind)
