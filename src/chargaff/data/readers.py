"""Readers of labelled sequences, one per layout of files; each returns a `SequenceTable`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chargaff.data.labels import LabelKind, Labels, parse_labels
from chargaff.data.table import PackedSequences, SequenceTable, clean_sequences
from chargaff.errors import InputError
from chargaff.io.fasta import Genome
from chargaff.io.records import read_records
from chargaff.io.regions import read_regions
from chargaff.io.streams import open_input
from chargaff.io.tables import read_table

if TYPE_CHECKING:
    import pyarrow as pa

FilePath = str | os.PathLike[str]


def read_sequences(
    path: FilePath,
    *,
    sequence: str | Sequence[str] = "sequence",
    label: str | Sequence[str] | None = "label",
    kind: LabelKind = "class",
    classes: Sequence[str] | None = None,
    id: str | None = None,
) -> SequenceTable:
    """The rows of a CSV, TSV, Parquet or JSON-lines table.

    Args:
        sequence: column of the sequence, or the columns of a pair.
        label: column or columns of the labels; None for unlabelled rows.
        classes: class names in the order of their ids; default: those found, sorted.
        id: column that names the rows.

    Raises:
        InputError: a missing column, an empty table, or the first row that is wrong, numbered from 1 without header.
    """
    sequences = [sequence] if isinstance(sequence, str) else list(sequence)
    labels = [] if label is None else [label] if isinstance(label, str) else list(label)
    columns = [*sequences, *labels, *([] if id is None else [id])]
    table = read_table(path, columns, types=dict.fromkeys(columns, "text"))
    where = os.fspath(path)
    if not table.num_rows:
        raise InputError(f"{where}: the table has no rows")
    texts = {name: _text_column(table, name, where) for name in columns}
    return SequenceTable(
        tuple(clean_sequences(_packed(texts[name]), f"{where}, column {name!r}") for name in sequences),
        labels=_labels({name: texts[name].to_pylist() for name in labels}, kind, where, classes),
        ids=None if id is None else texts[id].to_pylist(),
    )


def read_pairs(
    path: FilePath,
    *,
    sequence: Sequence[str] = ("sequence_1", "sequence_2"),
    label: str | None = "label",
    kind: LabelKind = "class",
    classes: Sequence[str] | None = None,
) -> SequenceTable:
    """Rows of two sequences; see `read_sequences`."""
    if len(sequence) != 2:
        raise InputError(f"{os.fspath(path)}: a pair has two sequence columns, got {list(sequence)}")
    return read_sequences(path, sequence=sequence, label=label, kind=kind, classes=classes)


def read_fasta(path: FilePath, *, has_labels: bool = False, classes: Sequence[str] | None = None) -> SequenceTable:
    """The records of a FASTA or FASTQ file; with labels, each header ends in `|label`.

    Raises:
        InputError: a malformed file, or a header without label.
    """
    where = os.fspath(path)
    ids, values, sequences = [], [], []
    for record in read_records(path, allow_duplicates=has_labels):
        name = record.id
        if has_labels:
            header = f"{record.id} {record.description}".strip()
            name, bar, value = header.rpartition("|")
            if not bar or not value.strip():
                raise InputError(f"{where}:{record.line}: the header {header!r} does not end in |label")
            values.append(value.strip())
        ids.append(name.strip())
        sequences.append(record.sequence)
    packed = clean_sequences(PackedSequences.pack(sequences), where)
    labels = _labels({"label": values}, "class", where, classes) if has_labels else None
    return SequenceTable((packed,), labels=labels, ids=ids)


def read_class_folder(folder: FilePath, *, classes: Sequence[str] | None = None) -> SequenceTable:
    """One sequence per file `<folder>/<class>/<name>.txt`, ordered by class, then by file name.

    Classes are numbered in sorted order of their folders.

    Raises:
        InputError: no such folder, no class folders, other classes than those asked for, or a class without files.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected <class>/*.txt below it")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise InputError(f"{root}: holds no class folders; expected <class>/*.txt below it")
    if classes is not None and found != sorted(classes):
        raise InputError(f"{root}: expected the class folders {', '.join(sorted(classes))}, found {', '.join(found)}")
    files = [path for name in found for path in _text_files(root / name)]
    sequences = []
    for path in files:
        with open_input(path) as stream:
            sequences.append(np.frombuffer(bytearray(b"".join(stream.read().split())), np.uint8))
    names = [f"{path.parent.name}/{path.name}" for path in files]
    labels = _labels({"class": [path.parent.name for path in files]}, "class", str(root), classes or found)
    try:
        packed = clean_sequences(PackedSequences.pack(sequences), str(root))
    except InputError as error:
        raise InputError(f"{error} (rows are files in sorted order)") from None
    return SequenceTable((packed,), labels=labels, ids=names)


def read_labelled_regions(
    path: FilePath,
    *,
    genome: Genome | FilePath,
    label: str | Sequence[str] | None = "name",
    kind: LabelKind = "class",
    classes: Sequence[str] | None = None,
) -> SequenceTable:
    """The intervals of a BED, GFF or table file, cut from a genome; reverse-strand ones as their reverse complement.

    Args:
        genome: FASTA file.
        label: column or columns of the labels; in a BED file the fourth column is "name".
        classes: as in `read_sequences`.

    Raises:
        InputError: with the line, for an interval that is not on the genome, or a missing column.
    """
    genome = genome if isinstance(genome, Genome) else Genome(genome)
    regions = read_regions(path)
    regions.contig_ids(genome)
    wanted = [] if label is None else [label] if isinstance(label, str) else list(label)
    for name in wanted:
        if name not in regions.columns:
            raise InputError(f"{regions.source}: no column {name!r} (columns: {', '.join(regions.columns) or 'none'})")
    columns = {name: [str(value) for value in regions.columns[name]] for name in wanted}
    intervals = list(regions)
    return SequenceTable(
        (clean_sequences(PackedSequences.pack(genome[interval] for interval in intervals), regions.source),),
        labels=_labels(columns, kind, regions.source, classes),
        ids=[str(interval) for interval in intervals],
        intervals=intervals,
    )


def _text_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix == ".txt")
    if not files:
        raise InputError(f"{folder}: holds no .txt files")
    return files


def _labels(columns: dict[str, Any], kind: LabelKind, where: str, classes: Sequence[str] | None) -> Labels | None:
    return parse_labels(columns, kind, where, classes) if columns else None


def _text_column(table: pa.Table, name: str, where: str) -> pa.LargeStringArray:
    import pyarrow as pa

    column = table.column(name)
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise InputError(f"{where}: row {row + 1} has no {name!r}")
    try:
        joined = column.cast(pa.large_string()).combine_chunks()
    except pa.ArrowException:
        raise InputError(f"{where}: column {name!r} holds {column.type}, expected text or numbers") from None
    return joined


def _packed(column: pa.LargeStringArray) -> PackedSequences:
    """The bytes of a text column, copied once."""
    _, offsets, data = column.buffers()
    offset = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    bases = np.frombuffer(data, np.uint8)[offset[0] : offset[-1]] if data is not None else np.zeros(0, np.uint8)
    return PackedSequences(bases, offset - offset[0])
