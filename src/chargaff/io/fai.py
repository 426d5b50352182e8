"""The .fai index of a FASTA file: where each contig's bases lie, and how long its lines are."""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.atomic import output_errors, write_atomically
from chargaff.io.spans import BgzfSpans, Spans
from chargaff.io.streams import open_input

_log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

_CHUNK_BYTES = 1 << 23
_CHECKED_CONTIGS = 1000
_MAX_TRAILING_BYTES = 1 << 16


class UnevenLinesError(InputError):
    """The lines of a record differ in length, so positions cannot be computed."""


@dataclass(frozen=True, slots=True, eq=False)
class FastaIndex:
    """The five columns of a .fai file; offsets and widths count uncompressed bytes."""

    names: tuple[str, ...]
    lengths: Ints
    """[n] bases of each contig."""
    offsets: Ints
    """[n] byte of each contig's first base."""
    line_bases: Ints
    """[n] bases per full line."""
    line_bytes: Ints
    """[n] bytes per full line, its end included."""

    def byte_of(self, contig: Ints, position: Ints) -> Ints:
        """Byte of each base; `contig` and `position` broadcast."""
        per_line = self.line_bases[contig]
        byte: Ints = self.offsets[contig] + position // per_line * self.line_bytes[contig] + position % per_line
        return byte

    def to_text(self) -> str:
        """The content of the .fai file."""
        columns = (self.lengths, self.offsets, self.line_bases, self.line_bytes)
        rows = zip(self.names, *(column.tolist() for column in columns), strict=True)
        return "".join("\t".join(map(str, row)) + "\n" for row in rows)

    @classmethod
    def from_text(cls, text: str) -> "FastaIndex":
        """The index written in a .fai file; a ValueError if it is no such file or cannot be true."""
        rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
        if not rows or any(len(row) != 5 for row in rows):
            raise ValueError("not five columns")
        names = tuple(row[0] for row in rows)
        numbers = np.array([[int(field) for field in row[1:]] for row in rows], np.int64).T
        index = cls(names, *np.ascontiguousarray(numbers))
        if len(set(names)) != len(names):
            raise ValueError("a name occurs twice")
        if (index.lengths < 1).any() or (index.line_bases < 1).any() or (index.line_bytes < index.line_bases).any():
            raise ValueError("an impossible length")
        return index


def load_index(path: Path, spans: Spans) -> FastaIndex:
    """The index of an indexable FASTA file: the .fai beside it or in the user cache if one fits, else a new one, saved.

    A .fai fits if it is not older than the file and the file has the contigs' headers where it says. A new one goes
    next to the file, or to the user cache where that folder cannot be written.

    Raises:
        UnevenLinesError, InputError: as `build_index`.
    """
    places = [Path(f"{path}.fai"), *_cache_paths(path)]
    for candidate in places:
        index = _read_fai(candidate, path)
        if index is not None:
            if _matches(index, spans):
                return index
            _log.info("%s does not fit its file and is replaced", candidate)
    with open_input(path) as stream:
        index = build_index(stream, str(path))
    if not _save(places[0], path, index, spans):
        any(_save(place, path, index, None) for place in places[1:])
    return index


def _cache_paths(path: Path) -> list[Path]:
    """Where the index lies in the user cache; nowhere for a user without a home folder."""
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()[:32]
    root = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return [root / "chargaff" / "fai" / f"{key}.fai"] if root.is_absolute() else []


def _read_fai(candidate: Path, path: Path) -> FastaIndex | None:
    try:
        if candidate.stat().st_mtime_ns < path.stat().st_mtime_ns:
            return None
        return FastaIndex.from_text(candidate.read_text())
    except (OSError, ValueError):
        return None


def _save(target: Path, path: Path, index: FastaIndex, spans: Spans | None) -> bool:
    """Write the index (and, beside a bgzip file, its .gzi); False where the folder cannot be written."""
    try:
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        files = [(target, index.to_text().encode())]
        if isinstance(spans, BgzfSpans):
            files.append((Path(f"{path}.gzi"), spans.gzi()))
        for name, content in files:
            write_atomically(name, content)
            newest = max(name.stat().st_mtime_ns, path.stat().st_mtime_ns)  # a file dated in the future
            os.utime(name, ns=(newest, newest))
    except InputError as error:
        _log.info("%s", error)
        return False
    return True


def _matches(index: FastaIndex, spans: Spans) -> bool:
    """Whether the headers of (up to 1000 of) the contigs are where the index says, and nothing follows the last one."""
    order = np.argsort(index.offsets)
    starts = index.offsets[order]
    ends = index.byte_of(order, index.lengths[order] - 1) + 1
    previous = np.concatenate([[0], ends[:-1]])
    trailing = spans.size_bytes - int(ends[-1])
    if (starts - previous < 2).any() or not 0 <= trailing <= _MAX_TRAILING_BYTES:
        return False
    for i in np.unique(np.linspace(0, len(order) - 1, _CHECKED_CONTIGS).astype(np.int64)).tolist():
        gap = spans.read(int(previous[i]), int(starts[i] - previous[i]))
        header = gap.decode("utf-8", "replace").strip().removeprefix(">").split(maxsplit=1)
        if not gap.endswith(b"\n") or gap.strip().count(b"\n") or header[:1] != [index.names[order[i]]]:
            return False
    return not spans.read(int(ends[-1]), trailing).strip()


def build_index(stream: BinaryIO, name: str) -> FastaIndex:
    """The index of a FASTA stream; about 1 GB/s, memory independent of its size.

    Args:
        stream: uncompressed bytes.
        name: file name for messages.

    Raises:
        UnevenLinesError: a record's lines (but its last) differ in length, or blank lines lie inside it.
        InputError: no FASTA, a record without name or sequence, or a repeated name.
    """
    builder = _Builder(name)
    while chunk := stream.read(_CHUNK_BYTES):
        builder.feed(chunk)
    return builder.finish()


class _Builder:
    """Collects contigs chunk by chunk. A line is known by its start, bases and width (with line end), all absolute."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.contigs: list[str] = []
        self.header_lines: dict[str, int] = {}
        self.columns: list[list[int]] = [[], [], [], []]  # lengths, offsets, line_bases, line_bytes
        self.seen_bytes = 0
        self.seen_lines = 0
        self.line_start = 0
        self.line_head: int | None = None  # first byte of the unfinished line
        self.header_part = b""  # what is known of an unfinished header line
        self.last_byte = 0
        self.previous_end = 0  # byte after the last line of the current record

    def feed(self, chunk: bytes) -> None:
        data = np.frombuffer(chunk, np.uint8)
        if self.line_head is None:
            self.line_head = int(data[0])
        newline = np.flatnonzero(data == 10)
        if newline.size:
            starts = np.concatenate([[self.line_start], self.seen_bytes + newline[:-1] + 1])
            heads = np.concatenate([[self.line_head], data[newline[:-1] + 1]])
            before = np.where(newline > 0, data[newline - 1], self.last_byte)
            widths = self.seen_bytes + newline + 1 - starts
            self._lines(starts, heads == ord(">"), widths - 1 - (before == 13), widths, chunk)
            self.line_start = int(self.seen_bytes + newline[-1] + 1)
            self.header_part = b""
            at = self.line_start - self.seen_bytes
            self.line_head = int(data[at]) if at < data.size else None
        if self.line_head == ord(">"):
            self.header_part += chunk[max(0, self.line_start - self.seen_bytes) :]
        self.seen_bytes += data.size
        self.last_byte = int(data[-1])

    def finish(self) -> FastaIndex:
        if self.line_start < self.seen_bytes:
            self.feed(b"\n")  # the last line has no end
        if not self.contigs:
            raise InputError(f"{self.name}: the file holds only blank lines")
        self._require_bases()
        return FastaIndex(tuple(self.contigs), *(np.array(column, np.int64) for column in self.columns))

    def _lines(self, starts: Ints, header: npt.NDArray[np.bool_], bases: Ints, widths: Ints, chunk: bytes) -> None:
        """Take complete lines; all arrays are [n], and `header` says which lines begin with '>'."""
        first_body = 0
        for at in [*np.flatnonzero(header).tolist(), len(starts)]:
            if at > first_body:
                body = slice(first_body, at)
                self._body(starts[body], bases[body], widths[body], self.seen_lines + first_body + 1)
            if at < len(starts):
                offset = int(starts[at]) - self.seen_bytes
                text = self.header_part + chunk[max(0, offset) : offset + int(widths[at])]
                self._header(text, int(starts[at] + widths[at]), self.seen_lines + at + 1)
                self.header_part = b""
            first_body = at + 1
        self.seen_lines += len(starts)

    def _header(self, text: bytes, end: int, line: int) -> None:
        if self.contigs:
            self._require_bases()
        label = text[1:].decode("utf-8", "replace")
        if not label.strip() or label[0].isspace():
            raise InputError(f"{self.name}:{line}: the header has no name; write it directly behind '>'")
        contig = label.split(maxsplit=1)[0]
        earlier = self.header_lines.setdefault(contig, line)
        if earlier != line:
            message = f"record name {contig!r} was already used at line {earlier}; names must be unique"
            raise InputError(f"{self.name}:{line}: {message}")
        self.contigs.append(contig)
        for column, value in zip(self.columns, (0, end, 0, 0), strict=True):
            column.append(value)
        self.previous_end = end

    def _body(self, starts: Ints, bases: Ints, widths: Ints, line: int) -> None:
        """Lines [m] of the current record, the first being line number `line`."""
        filled = np.flatnonzero(bases)
        if not filled.size:
            return
        if not self.contigs:
            raise InputError(f"{self.name}:{line + filled[0]}: expected a FASTA header line beginning with '>'")
        starts, bases, widths = starts[filled], bases[filled], widths[filled]
        lengths, _, line_bases, line_bytes = self.columns
        if line_bases[-1] == 0:
            line_bases[-1], line_bytes[-1] = int(bases[0]), int(widths[0])
        expected = np.concatenate([[self.previous_end], starts[:-1] + line_bytes[-1]])
        uneven = (starts != expected) | (bases > line_bases[-1])
        if lengths[-1] % line_bases[-1]:
            uneven[0] = True  # the line before, in an earlier chunk, was short
        uneven[1:] |= bases[:-1] != line_bases[-1]
        if uneven.any():
            at = line + int(filled[uneven.argmax()])
            message = f"the lines of record {self.contigs[-1]!r} differ in length or have blank lines between them"
            raise UnevenLinesError(f"{self.name}:{at}: {message}; wrap the file evenly (seqkit seq -w 60)")
        lengths[-1] += int(bases.sum())
        self.previous_end = int(starts[-1] + widths[-1])

    def _require_bases(self) -> None:
        if self.columns[0][-1] == 0:
            contig = self.contigs[-1]
            place = f"{self.name}:{self.header_lines[contig]}"
            raise InputError(f"{place}: record {contig!r} has no sequence; remove it, or complete the file")
