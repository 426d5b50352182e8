"""Intervals of BED, GFF3, GTF and table files, with their other columns and line numbers.

Everything leaves here 0-based with exclusive ends; GFF and GTF count from 1 and include the last base.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.fasta import Genome
from chargaff.io.streams import foreign_format, open_input, source_name
from chargaff.io.tables import column_names, read_table, table_format
from chargaff.seq.interval import Interval, Strand

Ints = npt.NDArray[np.int64]
Format = Literal["bed", "gff", "table"]

_BED_COLUMNS = (
    "name",
    "score",
    "strand",
    "thick_start",
    "thick_end",
    "item_rgb",
    "block_count",
    "block_sizes",
    "block_starts",
)
_GFF_COLUMNS = ("source", "type", "score", "phase", "attributes")
_ENDINGS: Mapping[str, Format] = {".bed": "bed", ".gff": "gff", ".gff3": "gff", ".gtf": "gff"}
_CONTIG_NAMES = ("contig", "chrom", "chr", "chromosome", "seqid", "seqname", "#chrom")
_START_NAMES = ("start", "chromstart", "chrom_start", "begin")
_END_NAMES = ("end", "chromend", "chrom_end", "stop")


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Intervals of one file in file order; item i is an Interval, and every sequence here has n entries."""

    source: str
    """File name for messages."""
    contigs: tuple[str, ...]
    """Contig of each interval, as the file spells it."""
    starts: Ints
    """[n] first base, from 0."""
    ends: Ints
    """[n] one past the last base; greater than the start."""
    strands: tuple[Strand, ...]
    """Strand of each; NONE where the file has none."""
    lines: Ints
    """[n] line in the file, counted from 1 (row, for Parquet)."""
    columns: Mapping[str, Sequence[Any]]
    """The file's other columns by name."""

    def __len__(self) -> int:
        return len(self.contigs)

    def __getitem__(self, i: int) -> Interval:
        return Interval(self.contigs[i], int(self.starts[i]), int(self.ends[i]), self.strands[i])

    def __iter__(self) -> Iterator[Interval]:
        rows = zip(self.contigs, self.starts.tolist(), self.ends.tolist(), self.strands, strict=True)
        return (Interval(*row) for row in rows)

    def select(self, keep: npt.ArrayLike) -> "Regions":
        """Some of the intervals: a boolean mask [n] or row numbers."""
        rows = np.arange(len(self))[np.asarray(keep)].tolist()
        columns = {name: tuple(values[i] for i in rows) for name, values in self.columns.items()}
        contigs, strands = tuple(self.contigs[i] for i in rows), tuple(self.strands[i] for i in rows)
        return Regions(self.source, contigs, self.starts[rows], self.ends[rows], strands, self.lines[rows], columns)

    def attribute(self, key: str) -> tuple[str | None, ...]:
        """Value of an attribute (`gene_id`) in the last column of GFF3 or GTF; None where a line lacks it."""
        if "attributes" not in self.columns:
            raise InputError(f"{self.source}: has no attributes; only GFF and GTF files do")
        gff3 = re.compile(rf"(?:^|;)\s*{re.escape(key)}=([^;]*)")
        gtf = re.compile(rf'(?:^|;)\s*{re.escape(key)}\s+"?([^";]*)"?')
        found = (gff3.search(text) or gtf.search(text) for text in self.columns["attributes"])
        return tuple(unquote(match[1].strip()) if match else None for match in found)

    def contig_ids(self, genome: Genome) -> Ints:
        """[n] the genome's number of each interval's contig, after checking that every interval lies on its contig.

        Raises:
            InputError: with the line, for an unknown contig (naming the genome's spelling) or an end past the contig.
        """
        known = {name: i for i, name in enumerate(genome.contigs)}
        ids = np.array([known.get(name, -1) for name in self.contigs], np.int64)
        for i in np.flatnonzero(ids < 0)[:1].tolist():
            try:
                genome.contig_id(self.contigs[i])
            except InputError as error:
                raise InputError(f"{self.source}:{self.lines[i]}: {error}") from None
        for i in np.flatnonzero(self.ends > genome.lengths_bp[ids])[:1].tolist():
            past = f"end {self.ends[i]} is past the end of {self.contigs[i]} ({genome.lengths_bp[ids[i]]} bp)"
            message = f"{past} in {genome.path}; was the file made for another assembly?"
            raise InputError(f"{self.source}:{self.lines[i]}: {message}")
        return ids


def read_regions(path: str | os.PathLike[str], *, format: Format | None = None) -> Regions:
    """The intervals of a file; the name tells the format (.bed, .gff, .gff3, .gtf, or a table, each also .gz)."""
    if format is None:
        name = os.fspath(path).lower()
        format = _ENDINGS.get(Path(name.removesuffix(".gz").removesuffix(".bgz")).suffix, "table")
    if format == "bed":
        return read_bed(path)
    return read_gff(path) if format == "gff" else read_interval_table(path)


def read_bed(path: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> Regions:
    """The intervals of a BED file with 3 or more columns; comments, `track` and `browser` lines are left out.

    Args:
        path: file (may be compressed) or '-'.
        names: names of the columns after the third, if they are not BED's (name, score, strand, ...).

    Raises:
        InputError: with the line; also for files without any interval and rows of different widths.
    """
    rows = _Rows(source_name(path))
    width = 0
    for line, text in _lines(path):
        if text.startswith(("#", "track", "browser")):
            continue
        fields = text.split("\t") if "\t" in text else text.split()
        if len(fields) < 3:
            raise rows.error(line, f"expected contig, start and end, found {len(fields)} columns: {text[:60]!r}")
        width = width or len(fields)
        if len(fields) != width:
            raise rows.error(line, f"has {len(fields)} columns, the lines before have {width}")
        start, end = rows.integer(fields[1], "start", line), rows.integer(fields[2], "end", line)
        rows.add(fields[0], start, end, line, fields[3:])
    labels = list(_BED_COLUMNS if names is None else names)[: width - 3]
    if names is not None and len(names) != width - 3:
        raise InputError(f"{rows.source}: {len(names)} names for {max(width - 3, 0)} columns after the third")
    labels += [f"column_{i}" for i in range(len(labels) + 4, width + 1)]
    return rows.regions(labels)


def read_gff(path: str | os.PathLike[str], *, types: Collection[str] | None = None) -> Regions:
    """The features of a GFF3 or GTF file, with columns source, type, score, phase and attributes.

    Args:
        path: file (may be compressed) or '-'.
        types: feature types to keep ("exon"); all by default.

    Raises:
        InputError: with the line; also when no feature is left.
    """
    rows = _Rows(source_name(path))
    for line, text in _lines(path):
        if text.startswith(("##FASTA", ">")):
            break
        if text.startswith("#"):
            continue
        fields = text.split("\t")
        if len(fields) != 9:
            raise rows.error(line, f"expected 9 tab-separated columns, found {len(fields)}: {text[:60]!r}")
        contig, source, kind, first, last, score, strand, phase, attributes = fields
        if types is not None and kind not in types:
            continue
        first_pos1, last_pos1 = rows.integer(first, "start", line), rows.integer(last, "end", line)
        if first_pos1 < 1:
            raise rows.error(line, f"start {first_pos1}: GFF and GTF count from 1")
        strand = "." if strand == "?" else strand
        rows.add(contig, first_pos1 - 1, last_pos1, line, [source, kind, score, phase, attributes], strand)
    if types is not None and not rows.contigs:
        raise InputError(f"{rows.source}: the file holds no feature of type {' or '.join(types)}")
    return rows.regions(_GFF_COLUMNS)


def read_interval_table(path: str | os.PathLike[str], *, counts_from: Literal[0, 1] = 0) -> Regions:
    """The intervals of a CSV, TSV, Parquet or JSON-lines table with columns for contig, start, end and maybe strand.

    Usual names (chrom, chr, seqname, chromStart, stop, ...) are understood in any case.

    Args:
        path: file.
        counts_from: 0 if starts are 0-based and ends exclusive, 1 if both count from 1 and ends are included.
    """
    rows = _Rows(source_name(path))
    available = column_names(path)
    roles = {
        role: _find(available, names, role, rows.source)
        for role, names in (("contig", _CONTIG_NAMES), ("start", _START_NAMES), ("end", _END_NAMES))
    }
    table = read_table(path, types={roles["contig"]: "text"})
    others = [name for name in available if name not in roles.values()]
    values = {name: table[name].to_pylist() for name in available}
    header_lines = 1 if table_format(path) in ("csv", "tsv") else 0
    for i in range(table.num_rows):
        line = i + 1 + header_lines
        start = rows.integer(values[roles["start"]][i], "start", line) - counts_from
        end = rows.integer(values[roles["end"]][i], "end", line)
        rows.add(values[roles["contig"]][i] or "", start, end, line, [values[name][i] for name in others])
    return rows.regions(others)


class _Rows:
    """Collects checked rows."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.contigs: list[str] = []
        self.numbers: list[tuple[int, int, int]] = []
        self.strands: list[str] = []
        self.rest: list[Sequence[Any]] = []

    def error(self, line: int, message: str) -> InputError:
        return InputError(f"{self.source}:{line}: {message}")

    def integer(self, value: Any, what: str, line: int) -> int:
        digits = str(value).strip()
        if not digits.removeprefix("-").isdecimal():
            raise self.error(line, f"{what} {value!r} is no whole number")
        return int(digits)

    def add(self, contig: str, start: int, end: int, line: int, rest: Sequence[Any], strand: str = ".") -> None:
        if not contig:
            raise self.error(line, "the contig name is empty")
        if start < 0:
            raise self.error(line, f"start {start} is before the first base")
        if end <= start:
            what = "the interval is empty" if end == start else "the interval ends before it starts"
            raise self.error(line, f"start {start}, end {end}: {what}")
        self.contigs.append(contig)
        self.numbers.append((start, end, line))
        self.strands.append(strand)
        self.rest.append(rest)

    def regions(self, labels: Sequence[str]) -> Regions:
        if not self.contigs:
            raise InputError(f"{self.source}: the file holds no intervals")
        columns = dict(zip(labels, zip(*self.rest, strict=True), strict=True))
        strands = columns.pop("strand", self.strands)
        known = {strand.value: strand for strand in Strand}
        for i, strand in enumerate(strands):
            if strand not in known:
                raise self.error(self.numbers[i][2], f"strand {strand!r}: expected '+', '-' or '.'")
        starts, ends, lines = (np.ascontiguousarray(column) for column in np.array(self.numbers, np.int64).T)
        return Regions(
            self.source, tuple(self.contigs), starts, ends, tuple(known[strand] for strand in strands), lines, columns
        )


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends; blank ones are left out."""
    with open_input(path) as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1 and (kind := foreign_format(raw)) is not None:
                raise InputError(f"{source_name(path)}: expected lines of text, found {kind}")
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace").rstrip("\r\n")
            if text.strip():
                yield number, text


def _find(names: Sequence[str], wanted: Sequence[str], role: str, source: str) -> str:
    found = next((name for alias in wanted for name in names if name.lower() == alias), None)
    if found is None:
        listed = ", ".join(map(repr, names))
        raise InputError(f"{source}: no {role} column, expected one called {', '.join(wanted)} (columns: {listed})")
    return found
