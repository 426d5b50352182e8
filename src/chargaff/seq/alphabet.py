"""Sequences as uint8 ASCII arrays, and the 256-byte tables everything that touches bases goes through.

A table is a `bytes` of length 256: entry i is what the byte i becomes. `translate` applies one at several Gb/s.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError

Sequence = npt.NDArray[np.uint8]

UPPER = bytes(range(256)).upper()
"""ASCII lower case to upper case; every other byte stays."""

COMPLEMENT = bytes.maketrans(b"ACGTacgt", b"TGCAtgca")
"""A<->T and C<->G in both cases; N, IUPAC codes, U, gaps and everything else stay. Training uses this one."""

IUPAC_COMPLEMENT = bytes.maketrans(b"ACGTRYKMBVDHUacgtrykmbvdhu", b"TGCAYRMKVBHDAtgcayrmkvbhda")
"""As COMPLEMENT, and the ambiguity codes too (R<->Y, K<->M, B<->V, D<->H; U->A; S, W, N are their own)."""

IUPAC_DNA = b"ACGTRYSWKMBDHVN"
"""Upper-case letters that stand for a base or a set of bases."""

BASE_CODE = bytes("ACGT".index(letter) if (letter := chr(code).upper()) in "ACGT" else 4 for code in range(256))
"""A, C, G, T in either case to 0, 1, 2, 3; everything else to 4."""


def translate(seq: Sequence, table: bytes) -> Sequence:
    """A new writable array of the same shape with every byte replaced by its table entry."""
    flat = bytearray(np.ascontiguousarray(seq).data).translate(table)
    return np.frombuffer(flat, np.uint8).reshape(seq.shape)


def to_array(text: str | bytes | bytearray | memoryview) -> Sequence:
    """[L] writable uint8 array of the text's characters, case kept; a str must be ASCII."""
    if isinstance(text, str):
        try:
            text = text.encode("ascii")
        except UnicodeEncodeError as error:
            message = f"sequence: {text[error.start]!r} at offset {error.start} is no ASCII letter"
            raise InputError(message) from None
    return np.frombuffer(bytearray(text), np.uint8)


def to_string(seq: Sequence) -> str:
    """The sequence as text; [L] bytes, all ASCII."""
    return seq.tobytes().decode("ascii")


def upper(seq: Sequence) -> Sequence:
    """A copy in upper case."""
    return translate(seq, UPPER)


def reverse_complement(seq: Sequence, *, iupac: bool = False) -> Sequence:
    """The other strand in its own reading direction, case preserved; works along the last axis of any shape.

    Args:
        seq: [..., L].
        iupac: complement the ambiguity codes too; by default only A, C, G, T change and everything else stays.
    """
    return translate(seq[..., ::-1], IUPAC_COMPLEMENT if iupac else COMPLEMENT)


@dataclass(frozen=True, slots=True)
class Invalid:
    """Letters of a sequence that do not belong to an alphabet."""

    counts: dict[str, int]
    """Occurrences of each such letter, most frequent first."""
    offset: int
    """0-based position of the first one."""
    letter: str
    """The first one."""

    def __str__(self) -> str:
        total = sum(self.counts.values())
        listed = ", ".join(f"{letter!r} {count:,}x" for letter, count in list(self.counts.items())[:5])
        more = ", ..." if len(self.counts) > 5 else ""
        return f"{total:,} unexpected letters ({listed}{more}), the first {self.letter!r} at offset {self.offset:,}"


def find_invalid(seq: Sequence, allowed: str | bytes = b"ACGTNacgtn") -> Invalid | None:
    """Counts and the first offender of the bytes outside `allowed` (case matters), or None if there are none.

    Args:
        seq: [L].
    """
    table = bytearray(b"\x01" * 256)
    for code in allowed.encode("ascii") if isinstance(allowed, str) else allowed:
        table[code] = 0
    bad = np.flatnonzero(translate(seq, bytes(table)))
    if bad.size == 0:
        return None
    codes, counts = np.unique(seq[bad], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    named = {chr(codes[i]): int(counts[i]) for i in order}
    return Invalid(named, int(bad[0]), chr(seq[bad[0]]))


def require_letters(seq: Sequence, allowed: str | bytes, *, where: str) -> None:
    """Nothing, or an InputError that starts with `where` and gives counts and the first offender."""
    invalid = find_invalid(seq, allowed)
    if invalid is None:
        return
    letters = allowed if isinstance(allowed, str) else allowed.decode("ascii")
    hint = "; is this a protein?" if _looks_like_protein(invalid, seq.size) else ""
    raise InputError(f"{where}: {invalid}; allowed are {letters}{hint}")


def _looks_like_protein(invalid: Invalid, length: int) -> bool:
    only_protein = sum(count for letter, count in invalid.counts.items() if letter.upper() in "EFILPQ")
    return only_protein > 0.05 * length


def count_letters(seq: Sequence) -> dict[str, int]:
    """Occurrences of each character, in byte order."""
    counts = np.bincount(seq.ravel(), minlength=256)
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}
