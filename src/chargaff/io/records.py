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

_BLOCK_BYTES = 1 << 20
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
                raise InputError(f"{name}:{record.line}: record {record.id!r} has no sequence")
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


def _fasta(stream: BinaryIO, number: int, first: bytes, name: str, keep_case: bool) -> Iterator[Record]:
    """Records of a stream that stands behind its first header line; works on blocks, not lines."""
    parts: list[bytes] = []
    held = first  # the last newline of a block is held until the next block shows whether a header follows it
    at_end = False
    while not at_end:
        block = stream.read(_BLOCK_BYTES)
        at_end = not block
        data, held = held + block, b""
        if data.endswith(b"\n") and not at_end:
            data, held = data[:-1], b"\n"
        continued, *begun = data.split(b"\n>")
        parts.append(continued)
        for text in begun:
            whole = b"".join(parts)
            yield _record(whole, number, name, keep_case)
            number += whole.count(b"\n") + 1
            parts = [b">" + text]
    yield _record(b"".join(parts), number, name, keep_case)


def _record(text: bytes, line: int, name: str, keep_case: bool) -> Record:
    """The FASTA record with that text; `line` is where its header stands."""
    header, _, body = text.partition(b"\n")
    sequence = body.translate(None, b"\r\n")
    if sequence.translate(None, SEQUENCE_LETTERS):
        sequence = b"".join(_clean_lines(body, line, name))
    identifier, description = _split_header(header, line, name)
    return Record(identifier, description, _to_array(sequence, keep_case), line=line)


def _clean_lines(body: bytes, line: int, name: str) -> Iterator[bytes]:
    """The lines of a body without blanks at their ends; raises at the first letter that does not belong there."""
    for number, text in enumerate(body.split(b"\n"), start=line + 1):
        text = text.strip(_BLANKS)
        _require_sequence(text, number, name)
        yield text


def _fastq(stream: BinaryIO, number: int, header: bytes, name: str, keep_case: bool) -> Iterator[Record]:
    lines = enumerate(stream, start=number + 1)
    while True:
        if header[:1] != b"@":
            found = ascii(header[:20].decode("latin-1").strip())
            expected = "a FASTQ header beginning with '@' (records have 4 lines)"
            raise InputError(f"{name}:{number}: expected {expected}, found {found}")
        identifier, description = _split_header(header, number, name)
        sequence, plus, quality = (_next_line(lines, identifier, name) for _ in range(3))
        _require_sequence(sequence, number + 1, name)
        if plus[:1] != b"+":
            raise InputError(
                f"{name}:{number + 2}: expected the '+' line of record {identifier!r}; records have 4 lines"
            )
        if len(quality) != len(sequence):
            lengths = f"{len(quality)} quality characters for {len(sequence)} bases"
            raise InputError(f"{name}:{number + 3}: record {identifier!r} has {lengths}")
        scores = np.frombuffer(bytearray(quality), np.uint8) - np.uint8(33)
        if scores.size and scores.max() > 93:
            raise InputError(f"{name}:{number + 3}: record {identifier!r} has a quality character outside '!' to '~'")
        yield Record(identifier, description, _to_array(sequence, keep_case), scores, line=number)
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


def _require_sequence(text: bytes, line: int, name: str) -> None:
    wrong = text.translate(None, SEQUENCE_LETTERS)
    if wrong:
        offset = text.index(wrong[:1])
        found = ascii(chr(wrong[0]))
        raise InputError(f"{name}:{line}: {found} at offset {offset} of the line is no sequence letter")


def _to_array(sequence: bytes, keep_case: bool) -> Sequence:
    return np.frombuffer(bytearray(sequence if keep_case else sequence.translate(UPPER)), np.uint8)
