"""Values along contigs as bigWig.

The format is that of Kent et al. 2010 (doi:10.1093/bioinformatics/btq351, supplementary tables).
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.atomic import output_errors, publish
from chargaff.io.bigwig_trees import BLOCK, contig_tree, place_tree

Values = npt.NDArray[Any]

MAGIC = 0x888FFC26
BATCH_BP = 65_536
RUNS, STEPS, SUMMARIES = 1024, 4096, 512
"""Most items in a block: runs of equal values, values of single bases, summaries."""
RUN_KIND, STEP_KIND = 1, 3
FIRST_BIN_BP, BIN_RATIO, MOST_LEVELS = 64, 4, 10
LEVEL = 4
"""Of zlib."""
SPOOL_BYTES = 1 << 20
SECTION, INDEXED = struct.Struct("<IIIIIBBH"), struct.Struct("<IIIIQQ")
"""Head of a block of data: contig, start, end, step, span, kind, 0, items; and a row of `BLOCK`."""
RUN = np.dtype([("start", "<u4"), ("end", "<u4"), ("value", "<f4")])
BIN = np.dtype(
    [(name, "<u4") for name in ("contig", "start", "end", "count")]
    + [(name, "<f8") for name in ("least", "most", "sum", "squares")]
)
"""Summary of the values within a few bases; in files, the last four have half the bytes."""
STORED_BIN = np.dtype([(name, "<u4" if number < 4 else "<f4") for number, name in enumerate(BIN.names or ())])


def write_bigwig(
    path: str | os.PathLike[str],
    contigs: Mapping[str, int],
    pieces: Iterable[tuple[str, int, Values]],
    *,
    decimals: int = 3,
    overwrite: bool = False,
) -> None:
    """One value a base. Equal neighbours are stored as one run, which is why values are rounded.

    Args:
        contigs: name -> length in bases.
        pieces: (contig, first base, [n] values), contigs in the order of `contigs`, then by first base; NaN: no value
            there. Each is used once and let go, so that they need not be in memory together.
        decimals: of the stored values.

    Raises:
        InputError: pieces are not in order, two give a value for one base, one reaches beyond its contig, or see
            `io.atomic.publish`.
    """
    too_long = [name for name, size in contigs.items() if size >= 1 << 32]
    if too_long:
        raise InputError(
            f"{too_long[0]}: {contigs[too_long[0]]:,} bp are more than a bigWig can number (4,294,967,295)"
        )
    with publish(path, overwrite=overwrite) as part, output_errors(Path(path)), part.open("wb") as file:
        _write(file, contigs, _batches(pieces, contigs), decimals)


def bigwig_bytes(contigs: Mapping[str, int], pieces: Iterable[tuple[str, int, Values]], *, decimals: int = 3) -> bytes:
    """The content of the file that `write_bigwig` would write, without the contigs that have no piece."""
    ours = list(pieces)
    named = {name for name, _, _ in ours}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "track.bw"
        write_bigwig(path, {name: size for name, size in contigs.items() if name in named}, ours, decimals=decimals)
        return path.read_bytes()


class _Batch(NamedTuple):
    """Some tens of thousands of bases, of part of a piece or of many pieces."""

    contig: npt.NDArray[np.uint32]
    """[p] number of the contig of each piece."""
    start: npt.NDArray[np.int64]
    """[p] first base of each."""
    length: npt.NDArray[np.int64]
    """[p]"""
    values: npt.NDArray[np.float64]
    """[n] of all of them."""


def _batches(pieces: Iterable[tuple[str, int, Values]], contigs: Mapping[str, int]) -> Iterator[_Batch]:
    numbers = {name: number for number, name in enumerate(contigs)}
    waiting: list[tuple[int, int, Values]] = []
    room, last_contig, last_end = BATCH_BP, -1, 0
    for contig, start, values in pieces:
        number, end = numbers[contig], start + len(values)
        if number < last_contig:
            raise InputError(f"{contig}: comes after a later contig, and a bigWig holds them in order; sort the pieces")
        if number == last_contig and start < last_end:
            raise InputError(
                f"{contig}:{start}: lies inside the piece before it, and a bigWig holds one value a base; "
                "merge overlapping intervals, or write .tsv or .parquet"
            )
        if end > contigs[contig]:
            raise InputError(f"{contig}: values up to {end} bp, but the contig has {contigs[contig]} bp")
        last_contig, last_end = number, end
        for offset in range(0, len(values), BATCH_BP):
            part = values[offset : offset + BATCH_BP]
            if len(part) > room:
                yield _batch(waiting)
                waiting, room = [], BATCH_BP
            waiting.append((number, start + offset, part))
            room -= len(part)
    if waiting:
        yield _batch(waiting)


def _batch(pieces: list[tuple[int, int, Values]]) -> _Batch:
    contig, start, values = zip(*pieces, strict=True)
    length = np.array([len(part) for part in values], np.int64)
    return _Batch(
        np.array(contig, np.uint32), np.array(start, np.int64), length, np.concatenate(values).astype(np.float64)
    )


def _write(file: IO[bytes], contigs: Mapping[str, int], batches: Iterable[_Batch], decimals: int) -> None:
    """Head, contigs, data and its index, then the same for each coarser view."""
    longest = max(contigs.values(), default=0)
    widths = [FIRST_BIN_BP * BIN_RATIO**level for level in range(MOST_LEVELS)]
    widths = [width for width in widths if 16 * width <= longest]
    head_bytes = 64 + 24 * len(widths) + 40
    file.write(bytes(head_bytes) + contig_tree(contigs, head_bytes))
    data_offset = file.tell()
    file.write(bytes(8))
    data, total = _Blocks(file), np.zeros(0, BIN)
    with ExitStack() as stack:
        views = [_View(width, stack.enter_context(SpooledTemporaryFile(SPOOL_BYTES))) for width in widths]
        for view, coarser in pairwise(views):
            view.coarser = coarser
        for batch in batches:
            values = np.round(batch.values, decimals)
            _add_data(data, batch, values)
            bins = _bins(batch, values)
            if len(bins):
                total = _combine(np.concatenate([total, bins]), np.zeros(1, np.int64))
            if views and len(bins):
                views[0].add(bins)
        if views:
            views[0].finish()
        index_offset = data.finish(file, RUNS)
        places = [view.append_to(file) for view in views]
    file.write(struct.pack("<I", MAGIC))
    file.seek(data_offset)
    file.write(struct.pack("<Q", len(data.index) // INDEXED.size))
    file.seek(0)
    largest = max([data.largest, *(view.blocks.largest for view in views)])
    head = (MAGIC, 4, len(views), head_bytes, data_offset, index_offset, 0, 0, 0, head_bytes - 40, largest, 0)
    file.write(struct.pack("<IHHQQQHHQQIQ", *head))
    for view, (begin, index) in zip(views, places, strict=True):
        file.write(struct.pack("<IIQQ", view.width_bp, 0, begin, index))
    row = total[0] if len(total) else np.zeros(1, BIN)[0]
    file.write(struct.pack("<Qdddd", *(row[name].item() for name in ("count", "least", "most", "sum", "squares"))))


class _Blocks:
    """Compressed blocks, and which bases each of them is about."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.index = bytearray()
        self.largest = 0

    def add(self, content: bytes, first: tuple[int, int], last: tuple[int, int]) -> None:
        """A block from (contig, base) up to (contig, end)."""
        packed = zlib.compress(content, LEVEL)
        self.index += INDEXED.pack(*first, *last, self.file.tell(), len(packed))
        self.file.write(packed)
        self.largest = max(self.largest, len(content))

    def finish(self, file: IO[bytes], items: int, *, moved: int = 0) -> int:
        """Writes the index behind the blocks, which were moved by that many bytes; returns its offset."""
        blocks = np.frombuffer(self.index, BLOCK).copy()
        blocks["offset"] += np.uint64(moved)
        offset = file.tell()
        file.write(place_tree(blocks, offset, items=items))
        return offset


def _add_data(data: _Blocks, batch: _Batch, values: npt.NDArray[np.float64]) -> None:
    """Values of single bases where most differ from their neighbours, else runs of equal ones."""
    differs = np.ones(len(values), np.bool_)
    differs[1:] = values[1:] != values[:-1]
    is_missing = np.isnan(values)
    if len(batch.contig) == 1 and 3 * np.count_nonzero(differs) > len(values) and not is_missing.any():
        contig, start = int(batch.contig[0]), int(batch.start[0])
        stored = values.astype("<f4")
        for offset in range(0, len(values), STEPS):
            part = stored[offset : offset + STEPS]
            first, last = start + offset, start + offset + len(part)
            head = SECTION.pack(contig, first, last, 1, 1, STEP_KIND, 0, len(part))
            data.add(head + part.tobytes(), (contig, first), (contig, last))
        return
    differs[1:] &= ~(is_missing[1:] & is_missing[:-1])
    piece_begin = np.cumsum(batch.length) - batch.length
    differs[piece_begin] = True
    begin = np.flatnonzero(differs)
    end = np.append(begin[1:], len(values))
    begin, end = begin[~is_missing[begin]], end[~is_missing[begin]]
    piece = np.searchsorted(piece_begin, begin, side="right") - 1
    runs = np.empty(len(begin), RUN)
    runs["start"], runs["end"] = (place - piece_begin[piece] + batch.start[piece] for place in (begin, end))
    runs["value"] = values[begin]
    _add_runs(data, batch.contig[piece], runs)


def _add_runs(data: _Blocks, contig: npt.NDArray[np.uint32], runs: npt.NDArray[Any]) -> None:
    """Blocks of runs [r], each within one contig [r]."""
    if not len(runs):
        return
    changes = np.flatnonzero(contig[1:] != contig[:-1]) + 1
    edges = np.unique(np.concatenate([np.arange(0, len(runs), RUNS), changes, [len(runs)]]))
    numbers, starts = contig[edges[:-1]].tolist(), runs["start"][edges[:-1]].tolist()
    ends = runs["end"][edges[1:] - 1].tolist()
    for number, start, end, (first, last) in zip(numbers, starts, ends, pairwise(edges.tolist()), strict=True):
        head = SECTION.pack(number, start, end, 0, 0, RUN_KIND, 0, last - first)
        data.add(head + runs[first:last].tobytes(), (number, start), (number, end))


def _bins(batch: _Batch, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """[b] of `BIN`: summaries of the values within FIRST_BIN_BP."""
    piece = np.repeat(np.arange(len(batch.contig)), batch.length)
    place = np.arange(len(values)) + (batch.start - np.cumsum(batch.length) + batch.length)[piece]
    is_known = ~np.isnan(values)
    if not is_known.all():
        piece, place, values = piece[is_known], place[is_known], values[is_known]
    if not len(values):
        return np.zeros(0, BIN)
    contig = batch.contig[piece]
    bin_ = place // FIRST_BIN_BP
    first = np.append(0, np.flatnonzero((bin_[1:] != bin_[:-1]) | (contig[1:] != contig[:-1])) + 1)
    last = np.append(first[1:], len(values)) - 1
    bins = np.empty(len(first), BIN)
    bins["contig"], bins["count"] = contig[first], last + 1 - first
    bins["start"], bins["end"] = place[first], place[last] + 1
    bins["least"], bins["most"] = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
    bins["sum"], bins["squares"] = np.add.reduceat(values, first), np.add.reduceat(values * values, first)
    return bins


def _combine(bins: npt.NDArray[Any], first: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """[g] one summary of the bins from each of [g] `first` up to the next."""
    last = np.append(first[1:], len(bins)) - 1
    found = bins[first]
    found["end"] = bins["end"][last]
    found["least"] = np.minimum.reduceat(bins["least"], first)
    found["most"] = np.maximum.reduceat(bins["most"], first)
    for name in ("count", "sum", "squares"):
        found[name] = np.add.reduceat(bins[name], first)
    return found


class _View:
    """Summaries of `width_bp` bases, for browsers that show more than they can draw."""

    coarser: _View | None = None

    def __init__(self, width_bp: int, file: IO[bytes]) -> None:
        self.width_bp, self.blocks, self.count = width_bp, _Blocks(file), 0
        self._last = np.zeros(0, BIN)
        """The last one, which may go on."""
        self._waiting: list[npt.NDArray[Any]] = []

    def add(self, bins: npt.NDArray[Any]) -> None:
        """Finer summaries [b], in order."""
        bins = np.concatenate([self._last, bins])
        ours, contig = bins["start"] // self.width_bp, bins["contig"]
        first = np.append(0, np.flatnonzero((ours[1:] != ours[:-1]) | (contig[1:] != contig[:-1])) + 1)
        found = _combine(bins, first)
        self._last = found[-1:]
        self._store(found[:-1])

    def finish(self) -> None:
        last, self._last = self._last, self._last[:0]
        self._store(last)
        self._write_blocks(everything=True)
        if self.coarser is not None:
            self.coarser.finish()

    def append_to(self, file: IO[bytes]) -> tuple[int, int]:
        """Copies the blocks; returns the offsets of them and of their index."""
        begin = file.tell()
        file.write(struct.pack("<I", self.count))
        self.blocks.file.seek(0)
        shutil.copyfileobj(self.blocks.file, file)
        return begin, self.blocks.finish(file, SUMMARIES, moved=begin + 4)

    def _store(self, bins: npt.NDArray[Any]) -> None:
        self.count += len(bins)
        self._waiting.append(bins)
        self._write_blocks()
        if self.coarser is not None and len(bins):
            self.coarser.add(bins)

    def _write_blocks(self, *, everything: bool = False) -> None:
        """Full blocks of what waits, or all of it."""
        count = sum(map(len, self._waiting))
        stop = count if everything else count // SUMMARIES * SUMMARIES
        if not stop:
            return
        bins = np.concatenate(self._waiting)
        stored = bins[:stop].astype(STORED_BIN)
        for offset in range(0, stop, SUMMARIES):
            part = stored[offset : offset + SUMMARIES]
            first, last = part[0], part[-1]
            ends = (int(last["contig"]), int(last["end"]))
            self.blocks.add(part.tobytes(), (int(first["contig"]), int(first["start"])), ends)
        self._waiting = [bins[stop:]]
