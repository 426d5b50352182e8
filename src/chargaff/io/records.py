"""Streaming records of FASTA and FASTQ files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.streams import foreign_format, open_input, source_name
from chargaff.seq.alphabet import UPPER, Sequence

SEQUENCE_LETTERS = bytes(code for code in range(256) if chr(code) in "*-." or (code < 128 and chr(code).isalpha()))
"""Bytes a sequence line may hold: letters in either case, gaps '-' and '.', stop '*'."""

_LETTERS = bytes(code if code in SEQUENCE_LETTERS else 0 for code in range(256))
_UPPER_LETTERS = _LETTERS.translate(UPPER)
_BLOCK_BYTES = 1 << 18
_BLANKS = b"\r\n\t "
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One named sequence of a FASTA or FASTQ file."""

    id: str
    """Header up to the first blank."""
    description: str
    """Rest of the header, without the blank; empty if there is none."""
    sequence: Sequence
    """[L] uint8 ASCII."""
    quality: npt.NDArray[np.uint8] | None = None
    """[L] Phred scores 0 to 93 (FASTQ), or None (FASTA)."""
    line: int = 0
    """Line of the header in the file, counted from 1."""


def read_records(
    path: str | os.PathLike[str], *, keep_case: bool = False, allow_empty: bool = False, allow_duplicates: bool = False
) -> Iterator[Record]:
    """The records of a FASTA or FASTQ file, plain, gzip or bgzip, in file order; '-' reads standard input.

    The format is recognised by its first character. FASTQ records have four lines. Sequences come in upper case
    unless `keep_case`. Names may repeat in FASTQ (mates share them) but not in FASTA, where results could not be
    told apart.

    Args:
        path: file, or '-'.
        keep_case: leave lower (soft-masked) letters as they are.
        allow_empty: yield records without sequence instead of raising.
        allow_duplicates: accept FASTA names that occur more than once.

    Raises:
        InputError: with file:line, for anything that is no such file, is malformed, truncated or corrupt.
    """
    name = source_name(path)
    with open_input(path) as stream:
        number, first = _first_line(stream, name)
        if first[:1] == b"@":
            records = _fastq(stream, number, first, name, keep_case)
        else:
            records = _fasta(stream, number, first, name, keep_case)
            if not allow_duplicates:
                records = _unique(records, name)
        for record in records:
            if record.sequence.size == 0 and not allow_empty:
                place = f"{name}:{record.line}"
                raise InputError(f"{place}: record {record.id!r} has no sequence; remove it, or complete the file")
            yield record


def _first_line(stream: BinaryIO, name: str) -> tuple[int, bytes]:
    """Number and text of the first line that is not blank; it must be a header."""
    for number, line in enumerate(stream, start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if not text.strip():
            continue
        if text[:1] in (b">", b"@"):
            return number, text
        kind = foreign_format(text)
        if kind is not None:
            raise InputError(f"{name}: expected FASTA or FASTQ, found {kind}")
        found = ascii(text[:20].decode("latin-1").strip())
        expected = "a header line beginning with '>' (FASTA) or '@' (FASTQ)"
        raise InputError(f"{name}:{number}: expected {expected}, found {found}")
    raise InputError(f"{name}: the file holds only blank lines")


def _unique(records: Iterator[Record], name: str) -> Iterator[Record]:
    seen: dict[str, int] = {}
    for record in records:
        earlier = seen.setdefault(record.id, record.line)
        if earlier != record.line:
            message = f"record name {record.id!r} was already used at line {earlier}; names must be unique"
            raise InputError(f"{name}:{record.line}: {message}")
        yield record


def _fasta(stream: BinaryIO, line: int, first: bytes, name: str, keep_case: bool) -> Iterator[Record]:
    """Records of a stream that stands behind its first header line; works on blocks, not lines."""
    header, body, newlines = first.rstrip(b"\n"), bytearray(), 0
    held = b"\n" if first.endswith(b"\n") else b""  # waits for the next block, which may begin with a header
    in_header, at_end = False, False
    while not at_end:
        block = stream.read(_BLOCK_BYTES)
        at_end = not block
        data, held = held + block, b""
        if data.endswith(b"\n") and not at_end:
            data, held = data[:-1], b"\n"
        for i, piece in enumerate(data.split(b"\n>") if b">" in data else [data]):
            if i > 0:
                yield _record(header, body, line, name)
                line += newlines + 1
                header, body, newlines, in_header = b">", bytearray(), 0, True
            text = piece
            if in_header:
                rest, end, text = piece.partition(b"\n")
                header, in_header, newlines = header + rest, not end, newlines + len(end)
            letters, more = _clean(text, line + newlines, name, keep_case)
            body += letters
            newlines += more
    yield _record(header, body, line, name)


def _record(header: bytes, body: bytearray, line: int, name: str) -> Record:
    identifier, description = _split_header(header, line, name)
    return Record(identifier, description, np.frombuffer(body, np.uint8), line=line)


def _clean(text: bytes, line: int, name: str, keep_case: bool) -> tuple[bytes, int]:
    """(sequence text without line ends and blanks, number of newlines in it); `line` is where the text begins."""
    joined = text.replace(b"\n", b"")
    newlines = len(text) - len(joined)
    letters = joined.translate(_LETTERS if keep_case else _UPPER_LETTERS)
    if b"\0" in letters:  # carriage returns, blanks, or what does not belong
        wrong = text.translate(None, SEQUENCE_LETTERS + _BLANKS)
        if wrong:
            at = line + text.count(b"\n", 0, text.index(wrong[:1]))
            raise InputError(f"{name}:{at}: {chr(wrong[0])!a} is no sequence letter")
        letters = letters.replace(b"\0", b"")
    return letters, newlines


def _fastq(stream: BinaryIO, number: int, header: bytes, name: str, keep_case: bool) -> Iterator[Record]:
    lines = enumerate(stream, start=number + 1)
    while True:
        if header[:1] != b"@":
            found = ascii(header[:20].decode("latin-1").strip())
            expected = "a FASTQ header beginning with '@' (records have 4 lines)"
            raise InputError(f"{name}:{number}: expected {expected}, found {found}")
        identifier, description = _split_header(header, number, name)
        sequence, plus, quality = (_next_line(lines, identifier, name) for _ in range(3))
        letters, _ = _clean(sequence, number + 1, name, keep_case)
        if plus[:1] != b"+":
            raise InputError(
                f"{name}:{number + 2}: expected the '+' line of record {identifier!r}; records have 4 lines"
            )
        if len(quality) != len(letters):
            lengths = f"{len(quality)} quality characters for {len(letters)} bases"
            raise InputError(f"{name}:{number + 3}: record {identifier!r} has {lengths}")
        scores = np.frombuffer(bytearray(quality), np.uint8) - np.uint8(33)
        if scores.size and scores.max() > 93:
            raise InputError(f"{name}:{number + 3}: record {identifier!r} has a quality character outside '!' to '~'")
        yield Record(identifier, description, np.frombuffer(bytearray(letters), np.uint8), scores, line=number)
        following = _next_header(lines)
        if following is None:
            return
        number, header = following


def _next_line(lines: Iterator[tuple[int, bytes]], identifier: str, name: str) -> bytes:
    item = next(lines, None)
    if item is None:
        raise InputError(f"{name}: the file ends inside record {identifier!r}; it is truncated")
    return item[1].strip(_BLANKS)


def _next_header(lines: Iterator[tuple[int, bytes]]) -> tuple[int, bytes] | None:
    """The next line that is not blank; blank lines may only end a file, anything after them is parsed as a header."""
    return next(((number, line) for number, line in lines if line.strip()), None)


def _split_header(header: bytes, line: int, name: str) -> tuple[str, str]:
    text = header[1:].decode("utf-8", "replace").rstrip()
    parts = text.split(maxsplit=1)
    if not parts or text[0].isspace():
        raise InputError(f"{name}:{line}: the header has no name; write it directly behind {chr(header[0])!r}")
    return parts[0], parts[1] if len(parts) == 2 else ""
