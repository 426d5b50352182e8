"""Random access to the sequences of a FASTA file. Streaming access is `read_records`."""

import difflib
import functools
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.fai import FastaIndex, Ints, UnevenLinesError, load_index
from chargaff.io.records import SEQUENCE_LETTERS, Record, read_records
from chargaff.io.spans import BgzfSpans, MemorySpans, PlainSpans, Spans
from chargaff.io.streams import foreign_format, is_bgzf, is_gzip, user_file_errors
from chargaff.seq.alphabet import UPPER, Sequence, reverse_complement
from chargaff.seq.interval import Interval, Strand

__all__ = ["Genome", "Record", "read_records"]

_log = logging.getLogger(__name__)
_ILLEGAL = bytes(code for code in range(256) if code not in SEQUENCE_LETTERS)
_SHOWN_NAMES = 5


class Genome:
    """The contigs of a FASTA file, read by position.

    Plain and bgzip files are read in place through an index (.fai, .gzi), which is written next to the file, or to
    the user cache where that folder is read-only, and is rebuilt when the file is newer. A file that cannot be
    indexed - plain gzip, or lines of unequal length - is held in memory by every process that opens it, up to
    `memory_limit_bytes`.

    Reads are positional: one Genome may be used by many threads, survive a fork, and travel to other processes
    (pickled, it reopens its file there and makes sure it is unchanged).
    """

    def __init__(
        self, path: str | os.PathLike[str], *, keep_case: bool = False, memory_limit_bytes: int = 1 << 30
    ) -> None:
        """Open the file and load or build its index.

        Args:
            path: FASTA file with unique names; plain, bgzip or gzip.
            keep_case: return lower (soft-masked) letters as they are; by default all sequence is upper case.
            memory_limit_bytes: largest sequence total held in memory for files that cannot be indexed.

        Raises:
            InputError: no such file, not FASTA, malformed, truncated, or too large for memory.
        """
        self.path = Path(path)
        self.keep_case = keep_case
        self.memory_limit_bytes = memory_limit_bytes
        if os.fspath(path) == "-" or (self.path.exists() and not self.path.is_file()):
            raise InputError(f"{path}: random access needs a regular file; save the sequences to one first")
        self._identity = _identity(self.path)
        self._spans: Spans
        self._spans, self._index = _open(self.path, memory_limit_bytes)
        self._require_unchanged()
        self._table = None if keep_case else UPPER
        self._ids = {name: i for i, name in enumerate(self._index.names)}

    @property
    def contigs(self) -> tuple[str, ...]:
        """Contig names in file order; a contig's id is its place here."""
        return self._index.names

    @property
    def lengths_bp(self) -> Ints:
        """[n] length of each contig, by id."""
        return self._index.lengths

    @functools.cached_property
    def lengths(self) -> Mapping[str, int]:
        """Contig name -> length in bases, in file order."""
        return MappingProxyType(dict(zip(self._index.names, self._index.lengths.tolist(), strict=True)))

    @functools.cached_property
    def sha256(self) -> str:
        """Checksum of the file's bytes, compressed as they are; computed once, when first asked for."""
        self._require_unchanged()
        with user_file_errors(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __repr__(self) -> str:
        return f"Genome({str(self.path)!r}, {len(self.contigs)} contigs, {int(self.lengths_bp.sum()):,} bp)"

    def __contains__(self, contig: object) -> bool:
        return contig in self._ids

    def __getitem__(self, interval: Interval) -> Sequence:
        """[L] bases of the interval; the reverse complement if it lies on the reverse strand.

        Raises:
            InputError: unknown contig, or an end outside the contig.
        """
        seq = self.fetch(interval.contig, interval.start, interval.end)
        return reverse_complement(seq) if interval.strand is Strand.REVERSE else seq

    def fetch(self, contig: str, start: int = 0, end: int | None = None) -> Sequence:
        """[end - start] bases of the forward strand; the whole contig by default."""
        number = self.contig_id(contig)
        end = int(self._index.lengths[number]) if end is None else end
        if end < start:
            raise InputError(f"{contig}: end {end} is before start {start}")
        window: Sequence = self.windows([number], [start], end - start)[0]
        return window

    def contig_id(self, contig: str) -> int:
        """Place of a contig in `contigs`, or an InputError that names the likely spelling."""
        number = self._ids.get(contig)
        if number is None:
            raise InputError(f"{self.path}: no contig {contig!r}{self._spelling(contig)}")
        return number

    def windows(self, contig_ids: npt.ArrayLike, starts: npt.ArrayLike, length_bp: int) -> Sequence:
        """[n, L] forward-strand windows of equal length, in the order asked for.

        Args:
            contig_ids: [n] integers, places in `contigs`.
            starts: [n] first base of each window, from 0.
            length_bp: L.

        Raises:
            InputError: a window leaves its contig, or the file does not hold what its index promises.
        """
        contig, start = np.atleast_1d(np.asarray(contig_ids, np.int64)), np.atleast_1d(np.asarray(starts, np.int64))
        self._require_inside(contig, start, length_bp)
        if length_bp == 0 or contig.size == 0:
            return np.zeros((contig.size, length_bp), np.uint8)
        begin = self._index.byte_of(contig, start)
        count = self._index.byte_of(contig, start + (length_bp - 1)) + 1 - begin
        table = self._table
        parts = [raw.translate(table, _ILLEGAL) for raw in self._spans.read_many(begin.tolist(), count.tolist())]
        for i, part in enumerate(parts):
            if len(part) != length_bp:
                place = f"{self.contigs[contig[i]]}, bases {start[i]:,} to {start[i] + length_bp:,} (from 0)"
                message = f"{len(part):,} sequence letters where the index promises {length_bp:,}"
                raise InputError(f"{self.path}: {place}: {message}; delete {self.path}.fai and check the file")
        return np.frombuffer(bytearray().join(parts), np.uint8).reshape(contig.size, length_bp)

    def _require_inside(self, contig: Ints, start: Ints, length_bp: int) -> None:
        if contig.shape != start.shape or contig.ndim != 1:
            raise InputError(
                f"windows: {contig.shape} contig ids and {start.shape} starts; expected two lists of one length"
            )
        if contig.size == 0:
            return
        if contig.min() < 0 or contig.max() >= len(self.contigs):
            raise InputError(
                f"windows: contig ids must be 0 to {len(self.contigs) - 1}, got {contig.min()} to {contig.max()}"
            )
        outside = (start < 0) | (start + length_bp > self._index.lengths[contig])
        if outside.any():
            i = int(outside.argmax())
            name, length = self.contigs[contig[i]], int(self._index.lengths[contig[i]])
            if start[i] < 0:
                raise InputError(
                    f"{self.path}: start {start[i]} of a window on {name} is before the contig's first base"
                )
            raise InputError(f"{self.path}: end {start[i] + length_bp} is past the end of {name} ({length} bp)")

    def _spelling(self, contig: str) -> str:
        """The end of a message about an unknown contig."""
        same = {_plain_name(name): name for name in self.contigs}.get(_plain_name(contig))
        if same is not None:
            return f"; it is called {same!r} there (was the other file made for an assembly with other names?)"
        near = difflib.get_close_matches(contig, self.contigs[:10_000], n=1)
        names = ", ".join(self.contigs[:_SHOWN_NAMES]) + (", ..." if len(self.contigs) > _SHOWN_NAMES else "")
        return (f"; did you mean {near[0]!r}?" if near else "") + f" (it has {len(self.contigs)}: {names})"

    def _require_unchanged(self) -> None:
        if _identity(self.path) != self._identity:
            raise InputError(f"{self.path}: the file changed while it was in use; open it again")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_spans"]
        if isinstance(self._spans, MemorySpans):
            del state["_index"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._require_unchanged()
        if "_index" in state:
            self._spans = _spans(self.path)
        else:
            self._spans, self._index = _open(self.path, self.memory_limit_bytes)
        self._require_unchanged()


def _identity(path: Path) -> tuple[int, int]:
    with user_file_errors(path):
        status = path.stat()
    return status.st_size, status.st_mtime_ns


def _plain_name(contig: str) -> str:
    """A contig name without what assemblies spell differently: chr prefix, version suffix, case, M against MT."""
    name = contig.lower().removeprefix("chr").partition(".")[0]
    return "mt" if name == "m" else name


def _spans(path: Path) -> Spans:
    """The file's bytes by position; plain or bgzip."""
    return BgzfSpans(path) if is_bgzf(_head(path)) else PlainSpans(path)


def _head(path: Path) -> bytes:
    with user_file_errors(path), path.open("rb") as file:
        return file.read(64)


def _open(path: Path, memory_limit_bytes: int) -> tuple[Spans, FastaIndex]:
    head = _head(path)
    if not head:
        raise InputError(f"{path}: the file is empty")
    if is_gzip(head) and not is_bgzf(head):
        return _load(path, memory_limit_bytes, "plain gzip")
    kind = "FASTQ" if head.lstrip()[:1] == b"@" else foreign_format(head)
    if kind is not None:
        raise InputError(f"{path}: expected FASTA, found {kind}")
    spans = _spans(path)
    try:
        return spans, load_index(path, spans)
    except UnevenLinesError as error:
        return _load(path, memory_limit_bytes, str(error))


def _load(path: Path, memory_limit_bytes: int, reason: str) -> tuple[MemorySpans, FastaIndex]:
    """The whole file in memory, one line per contig."""
    _log.info("%s is held in memory (%s)", path, reason)
    content, names, lengths = bytearray(), [], []
    for record in read_records(path, keep_case=True):
        if record.quality is not None:
            raise InputError(f"{path}: expected FASTA, found FASTQ")
        names.append(record.id)
        lengths.append(record.sequence.size)
        content += record.sequence.data
        if len(content) > memory_limit_bytes:
            limit = f"{memory_limit_bytes / 2**30:g} GiB"
            remedy = f"gunzip it, or recompress it in blocks: gunzip -c {path.name} | bgzip > genome.fa.gz"
            if not is_gzip(_head(path)):
                remedy = "wrap its lines evenly: seqkit seq -w 60"
            raise InputError(f"{path}: holds more than {limit} and allows no random access ({reason}); {remedy}")
    length = np.array(lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(length)[:-1]])
    return MemorySpans(content), FastaIndex(tuple(names), length, offsets, length, length + 1)
