"""Whatever a user hands in, as named sequences that can be read by position."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.io.records import read_records
from chargaff.io.regions import read_regions
from chargaff.io.tables import column_names, read_table
from chargaff.io.writers import Column, open_writer
from chargaff.seq.alphabet import Sequence, find_invalid, to_array, upper
from chargaff.seq.interval import Interval, Strand

_LOWER = bytes(range(ord("a"), ord("z") + 1))

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
INTERVAL_ENDINGS = (".bed", ".gff", ".gff3", ".gtf")
NAME_COLUMNS = ("id", "name")
"""Columns that hold the names of a table's sequences; the first that exists is taken."""


class Sequences(Protocol):
    """Named sequences, letters as given."""

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def length_bp(self) -> NDArray[np.int64]:
        """[R]"""
        ...

    def fetch(self, record: int, start: int, stop: int) -> Sequence:
        """[stop - start] letters; may be called from several threads."""
        ...


class InMemory:
    """Sequences held as one byte a base."""

    def __init__(self, ids: Iterable[str], sequences: Iterable[Sequence]) -> None:
        self.ids = tuple(ids)
        self._sequences = tuple(sequences)
        self.length_bp = np.array([len(sequence) for sequence in self._sequences], dtype=np.int64)

    def fetch(self, record: int, start: int, stop: int) -> Sequence:
        """A view."""
        return self._sequences[record][start:stop]


class OnGenome:
    """Intervals of a genome, read where they lie; those on the reverse strand as their reverse complement."""

    def __init__(self, genome: Genome, intervals: Iterable[Interval], ids: Iterable[str]) -> None:
        self.genome = genome
        self.ids = tuple(ids)
        self.intervals = tuple(intervals)
        self.length_bp = np.array([interval.width_bp for interval in self.intervals], dtype=np.int64)

    def fetch(self, record: int, start: int, stop: int) -> Sequence:
        """Counts from the interval's first base in its own reading direction."""
        whole = self.intervals[record]
        first, last = (
            (whole.end - stop, whole.end - start)
            if whole.strand is Strand.REVERSE
            else (whole.start + start, whole.start + stop)
        )
        return self.genome[Interval(whole.contig, first, last, whole.strand)]


@dataclass(frozen=True, slots=True)
class Letters:
    """What the accepted records consist of, besides upper-case A, C, G, T."""

    total_bp: int = 0
    lower_bp: int = 0
    """Lower-case letters; read as upper case."""
    n_bp: int = 0
    unknown_bp: int = 0
    """IUPAC codes and whatever else is none of A, C, G, T, N; read as the tokenizer's unknown token."""

    def __str__(self) -> str:
        parts = [f"{self.total_bp:,} bp"]
        if self.lower_bp:
            parts.append(f"{self.lower_bp:,} in lower case, read as upper case")
        if self.n_bp:
            parts.append(f"{self.n_bp:,} N")
        if self.unknown_bp:
            parts.append(f"{self.unknown_bp:,} other letters, read as unknown")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that was left out."""

    row: int
    """0-based place in the input."""
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one pass over all letters found."""

    accepted: NDArray[np.int64]
    """Rows that can be read by the model, in input order."""
    rejected: tuple[Rejected, ...]
    letters: Letters
    sha256: str
    """Of names and upper-case letters of the accepted records."""


def inspect(sequences: Sequences, *, max_unknown: float, allow_n: bool = True) -> Inspection:
    """Which records a model can read, and why not the others.

    Args:
        max_unknown: largest share of letters other than A, C, G, T, N in a record.
        allow_n: whether N may occur at all.

    Raises:
        InputError: there is no record, or every record is rejected.
    """
    if not sequences.ids:
        raise InputError("the input holds no record")
    accepted, rejected = [], []
    totals = np.zeros(4, dtype=np.int64)
    digest = hashlib.sha256()
    for row, name in enumerate(sequences.ids):
        letters = sequences.fetch(row, 0, int(sequences.length_bp[row]))
        counts = _count(letters)
        reason = _reason(letters, counts, max_unknown, allow_n)
        if reason:
            rejected.append(Rejected(row, name, reason))
            continue
        accepted.append(row)
        totals += counts
        digest.update(f"{name}\n{len(letters)}\n".encode())
        digest.update(upper(letters).data)
    if not accepted:
        more = f" (and {len(rejected) - 1:,} more records, all rejected)" if len(rejected) > 1 else ""
        raise InputError(f"record {rejected[0].id!r}: {rejected[0].reason}{more}")
    found = Letters(*(int(total) for total in totals))
    return Inspection(np.array(accepted, dtype=np.int64), tuple(rejected), found, digest.hexdigest())


def _count(letters: Sequence) -> tuple[int, int, int, int]:
    """All letters, lower-case ones, N, and others than A, C, G, T, N."""
    raw = letters.tobytes()
    lower = len(raw) - len(raw.translate(None, _LOWER))
    rest = raw.translate(None, b"ACGTacgt")
    unknown = len(rest.translate(None, b"Nn"))
    return len(raw), lower, len(rest) - unknown, unknown


def _reason(letters: Sequence, counts: tuple[int, int, int, int], max_unknown: float, allow_n: bool) -> str:
    """Why a record is rejected; "" if it is not."""
    total, _, n, unknown = counts
    if total == 0:
        return "the sequence is empty"
    if unknown > max_unknown * total:
        invalid = find_invalid(letters)
        return f"{invalid}; at most {max_unknown:.1%} may be other than A, C, G, T, N (--max-unknown)"
    if n and not allow_n:
        return f"{n:,} N, which this model cannot read"
    return ""


def read_sequences(
    source: str | os.PathLike[str], *, genome: str | os.PathLike[str] | None = None, column: str | None = None
) -> Sequences:
    """The sequences of a file, held in memory with one byte a base (intervals are read from their genome as needed).

    With `genome` it is a list of intervals: BED, GFF, GTF, or a table with contig, start and end. Otherwise a file that
    ends in .csv, .tsv, .parquet or .jsonl is a table, and anything else, "-" (standard input) too, FASTA or FASTQ.

    Args:
        genome: FASTA file that the intervals refer to.
        column: of a table: where the sequences are. Names are taken from a column "id" or "name" if there is one,
            else from the row number.

    Raises:
        InputError: with file and line, for anything malformed.
        ConfigError: `genome` or `column` is missing, or given for a file that has no use for it.
    """
    name = os.fspath(source)
    kind = Path(name.removesuffix(".gz").removesuffix(".bgz")).suffix.lower()
    if column is not None and (genome is not None or kind not in TABLE_ENDINGS):
        raise ConfigError(f"--column: only tables of sequences ({', '.join(TABLE_ENDINGS)}) have one, not {name}")
    if genome is not None:
        return _read_intervals(name, genome)
    if kind in INTERVAL_ENDINGS:
        raise ConfigError(f"--genome: {name} holds intervals; name the FASTA file they refer to")
    if kind in TABLE_ENDINGS:
        return _read_column(name, column)
    records = list(read_records(source, keep_case=True, allow_empty=True))
    return InMemory((record.id for record in records), (record.sequence for record in records))


def list_rejected(rejected: Iterable[Rejected], output: Path) -> Path | None:
    """Writes `<output>.rejected.tsv` and returns its path; without a rejected record None, and an old list goes."""
    rows = list(rejected)
    listing = Path(f"{output}.rejected.tsv")
    if not rows:
        listing.unlink(missing_ok=True)
        return None
    schema = [Column("row", "int64"), Column("id", "text"), Column("reason", "text")]
    with open_writer(listing, schema, num_rows=len(rows), overwrite=True) as writer:
        columns = {column.name: [getattr(row, column.name) for row in rows] for column in schema}
        writer.write(np.arange(len(rows)), columns)
    return listing


def as_sequences(sequences: Mapping[str, Any] | Iterable[Any]) -> Sequences:
    """Sequences from memory: str, bytes or uint8 arrays, as name -> sequence or in a row (named "0", "1", ...)."""
    named = sequences if isinstance(sequences, Mapping) else {str(i): item for i, item in enumerate(sequences)}
    return InMemory(named, (item if isinstance(item, np.ndarray) else to_array(item) for item in named.values()))


def _read_column(path: str, column: str | None) -> Sequences:
    available = column_names(path)
    if column is None:
        raise ConfigError(f"--column: which column of {path} holds the sequences? It has {', '.join(available)}")
    name_column = next((name for name in NAME_COLUMNS if name in available and name != column), None)
    wanted = [column] if name_column is None else [column, name_column]
    table = read_table(path, wanted, types=dict.fromkeys(wanted, "text"))
    sequences = (to_array(text or "") for text in table[column].to_pylist())
    if name_column is None:
        return InMemory((str(row) for row in range(len(table))), sequences)
    return InMemory((str(name) for name in table[name_column].to_pylist()), sequences)


def _read_intervals(path: str, genome: str | os.PathLike[str]) -> Sequences:
    reference = Genome(genome, keep_case=True)
    regions = read_regions(path)
    regions.contig_ids(reference)  # checks every contig and end
    names = regions.columns.get("name", [""] * len(regions))
    ids = (
        str(interval) if name in ("", ".", None) else str(name) for name, interval in zip(names, regions, strict=True)
    )
    return OnGenome(reference, regions, ids)
