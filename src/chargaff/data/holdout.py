"""Places that no training may see: fast overlap tests, and the files that list them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import InputError
from chargaff.io.regions import read_bed
from chargaff.io.streams import open_input, source_name
from chargaff.seq.interval import Interval

_CONTIG_COLUMNS = ("contig", "chrom", "source_sequence")


class HeldOut:
    """Intervals on the contigs of one genome, asked for overlap by the million; strands do not matter."""

    def __init__(self, intervals: Sequence[Interval], contigs: Sequence[str]) -> None:
        """Intervals on contigs that are not in `contigs` are ignored; a contig's id is its place there."""
        ids = {name: number for number, name in enumerate(contigs)}
        table = sorted(
            (ids[place.contig], place.start, place.end)
            for place in intervals
            if place.contig in ids and place.start < place.end
        )
        merged: list[list[int]] = []
        for contig, start, end in table:
            if merged and merged[-1][0] == contig and start <= merged[-1][2]:
                merged[-1][2] = max(merged[-1][2], end)
            else:
                merged.append([contig, start, end])
        columns = np.array(merged, dtype=np.int64).reshape(-1, 3).T
        self._contig, self._start, self._end = columns
        # one sorted axis for all contigs: position in the concatenation of contigs, each given the longest one's room
        self._room = int(self._end.max()) + 1 if len(merged) else 1

    def __len__(self) -> int:
        """Number of disjoint intervals."""
        return len(self._start)

    def overlap(self, contig: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[n] whether each place shares a base with one of the intervals; `start` may lie before the contig.

        Args:
            contig, start, end: [n].
        """
        if not len(self):
            return np.zeros(len(start), dtype=bool)
        begin = np.clip(start, 0, self._room - 1)
        at = np.searchsorted(self._contig * self._room + self._end, contig * self._room + begin, side="right")
        found = np.minimum(at, len(self) - 1)
        overlaps: NDArray[np.bool_] = (at < len(self)) & (self._contig[found] == contig) & (self._start[found] < end)
        return overlaps & (end > start)


def read_held_out(
    path: str | os.PathLike[str], contigs: Sequence[str], *, species: str | None = None
) -> list[Interval]:
    """The intervals of a BED file, or of a tab-separated table with a header, that lie on one of `contigs`.

    A table has columns start and end (0-based, end exclusive) and contig, chrom or source_sequence; lines that begin
    with '#' are comments.

    Args:
        contigs: names of the genome's contigs.
        species: take only rows with this value in the table's column "species". Without it, every row that names one
            of the contigs counts, whatever its species.

    Raises:
        InputError: a malformed file, or no interval on any of the contigs: names that do not match would
            silently hold nothing out.
    """
    name = os.fspath(path).lower().removesuffix(".gz").removesuffix(".bgz")
    rows = list(read_bed(path)) if Path(name).suffix == ".bed" else list(_table_rows(path, species))
    known = set(contigs)
    found = [interval for interval in rows if interval.contig in known]
    if not found:
        there = ", ".join(sorted({interval.contig for interval in rows})[:5]) or "nothing"
        here = ", ".join(list(contigs)[:5])
        raise InputError(f"{source_name(path)}: no interval lies on the genome; it names {there}, the genome {here}")
    return found


def _table_rows(path: str | os.PathLike[str], species: str | None) -> Iterator[Interval]:
    where = source_name(path)
    header: list[str] = []
    with open_input(path) as stream:
        for number, raw in enumerate(stream, start=1):
            text = raw.decode("utf-8", "replace").rstrip("\r\n")
            if not text.strip() or text.startswith("#"):
                continue
            cells = text.split("\t")
            if not header:
                header = cells
                contig = next((column for column in _CONTIG_COLUMNS if column in header), None)
                if contig is None or not {"start", "end"} <= set(header):
                    expected = f"columns start, end and one of {', '.join(_CONTIG_COLUMNS)}"
                    raise InputError(f"{where}:{number}: expected {expected}, found {', '.join(header)}")
                if species is not None and "species" not in header:
                    raise InputError(f"{where}:{number}: has no column 'species' to choose {species!r} by")
                continue
            row = dict(zip(header, cells, strict=False))
            if species is None or row.get("species") == species:
                yield _interval(row, str(contig), f"{where}:{number}")


def _interval(row: dict[str, str], contig: str, where: str) -> Interval:
    try:
        return Interval(row[contig], int(row["start"]), int(row["end"]))
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: no interval ({error})") from None
