"""Places on a genome: Strand, Interval, Variant. 0-based, end exclusive; no other file does arithmetic on ends."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from chargaff.errors import InputError


class Strand(StrEnum):
    """Which strand an interval is read from."""

    FORWARD = "+"
    REVERSE = "-"
    NONE = "."

    def flip(self) -> "Strand":
        """The opposite strand; NONE stays."""
        return {Strand.FORWARD: Strand.REVERSE, Strand.REVERSE: Strand.FORWARD}.get(self, self)


_NOTATION = re.compile(r"(?P<contig>.+):(?P<first>[0-9][0-9,]*)(?:-(?P<last>[0-9][0-9,]*))?(?::(?P<strand>[-+.]))?")
_VARIANT = re.compile(r"(?P<contig>.+)[:-](?P<pos1>[0-9][0-9,]*)[:-]?(?P<ref>[A-Za-z]+)(?:>|:|/|-)(?P<alt>[A-Za-z]+)")


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Bases `start` to `end` of a contig.

    An interval does not know how long its contig is: it may begin before base 0 or end past the contig (a window
    around a site near the edge does); `clip` cuts it back, and reading sequence from a genome checks both ends.
    """

    contig: str
    """Name as in the FASTA header, up to the first blank."""
    start: int
    """First base, counted from 0."""
    end: int
    """One past the last base; at least `start`."""
    strand: Strand = Strand.NONE
    """Strand the sequence is read from; NONE reads as forward."""

    def __post_init__(self) -> None:
        if not self.contig:
            raise InputError("interval: the contig name is empty")
        if self.end < self.start:
            raise InputError(f"interval {self.contig}: end {self.end} is before start {self.start}")
        if not isinstance(self.strand, Strand):
            object.__setattr__(self, "strand", _strand(self.strand))

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """The interval written as `chr1:1,000-2,000`, `chr1:1000` (one base) or `chr1:1000-2000:-`.

        The notation counts from 1 and includes both ends, as genome browsers and samtools do.
        """
        match = _NOTATION.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"interval {text!r}: expected contig:first-last[:strand], counted from 1, as chr1:1,000-2,000"
            )
        first = int(match["first"].replace(",", ""))
        last = int((match["last"] or match["first"]).replace(",", ""))
        if first < 1:
            raise InputError(f"interval {text!r}: this notation counts from 1, got {first}")
        if last < first:
            raise InputError(f"interval {text!r}: last base {last} is before first base {first}")
        return cls(match["contig"], first - 1, last, _strand(match["strand"] or "."))

    def __str__(self) -> str:
        """The notation `parse` reads; an empty interval prints as `contig:start^start+1` (between two bases)."""
        strand = "" if self.strand is Strand.NONE else f":{self.strand.value}"
        if self.start == self.end:
            return f"{self.contig}:{self.start}^{self.start + 1}{strand}"
        return f"{self.contig}:{self.start + 1}-{self.end}{strand}"

    @property
    def width_bp(self) -> int:
        """Number of bases."""
        return self.end - self.start

    def overlaps(self, other: "Interval") -> bool:
        """Whether at least one base is shared; strands do not matter."""
        return self.contig == other.contig and max(self.start, other.start) < min(self.end, other.end)

    def intersect(self, other: "Interval") -> "Interval | None":
        """The shared bases with this interval's strand, or None if there are none."""
        if not self.overlaps(other):
            return None
        return replace(self, start=max(self.start, other.start), end=min(self.end, other.end))

    def contains(self, other: "Interval") -> bool:
        """Whether every base of `other` lies inside."""
        return self.contig == other.contig and self.start <= other.start and other.end <= self.end

    def shift(self, offset_bp: int) -> "Interval":
        """Moved by `offset_bp` in reading direction: towards lower coordinates on the reverse strand."""
        offset = -offset_bp if self.strand is Strand.REVERSE else offset_bp
        return replace(self, start=self.start + offset, end=self.end + offset)

    def resize(self, width_bp: int) -> "Interval":
        """The interval of `width_bp` with the same centre.

        The centre is base (start + end) // 2 counted in reading direction; resizing there and back changes nothing.
        """
        if width_bp < 0:
            raise InputError(f"interval {self}: width {width_bp} is negative")
        if self.strand is Strand.REVERSE:
            end = (self.start + self.end + 1) // 2 + width_bp // 2
            return replace(self, start=end - width_bp, end=end)
        start = (self.start + self.end) // 2 - width_bp // 2
        return replace(self, start=start, end=start + width_bp)

    def clip(self, contig_length_bp: int) -> "Interval | None":
        """The part that lies on a contig of that length, or None if there is none."""
        start, end = max(self.start, 0), min(self.end, contig_length_bp)
        return replace(self, start=start, end=end) if start < end else None


@dataclass(frozen=True, slots=True)
class Variant:
    """A replacement of reference bases; `ref` covers [start, start + len(ref))."""

    contig: str
    """Name as in the FASTA header."""
    start: int
    """First reference base, counted from 0."""
    ref: bytes
    """Reference bases in upper case, at least one (insertions keep their anchor base)."""
    alt: bytes
    """Alternative bases in upper case, at least one."""
    id: str = ""
    """Name from the source file; empty if it has none."""

    def __post_init__(self) -> None:
        if not self.contig:
            raise InputError("variant: the contig name is empty")
        if self.start < 0:
            raise InputError(f"variant {self.contig}: start {self.start} is before the first base")
        for name, allele in (("ref", self.ref), ("alt", self.alt)):
            if not allele or allele.translate(None, b"ACGTN"):
                shown = allele.decode("ascii", "replace")
                message = (
                    f"variant {self.contig}:{self.start + 1}: {name} {shown!r} must be one or more of ACGTN, upper case"
                )
                raise InputError(message)
        if self.ref == self.alt:
            raise InputError(f"variant {self}: ref and alt are the same")

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """The variant written as `chr1:12345:A>G`, `chr1:12345A>G` or `1-12345-A-G`; these count from 1."""
        match = _VARIANT.fullmatch(text.strip())
        if match is None:
            raise InputError(f"variant {text!r}: expected contig:position:REF>ALT, counted from 1, as chr1:12345:A>G")
        pos1 = int(match["pos1"].replace(",", ""))
        if pos1 < 1:
            raise InputError(f"variant {text!r}: this notation counts from 1, got {pos1}")
        return cls(match["contig"], pos1 - 1, match["ref"].upper().encode(), match["alt"].upper().encode())

    def __str__(self) -> str:
        """The notation `contig:position:REF>ALT`, counted from 1."""
        return f"{self.contig}:{self.start + 1}:{self.ref.decode()}>{self.alt.decode()}"

    @property
    def interval(self) -> Interval:
        """The reference bases that are replaced."""
        return Interval(self.contig, self.start, self.start + len(self.ref))

    @property
    def is_snv(self) -> bool:
        """Whether exactly one base is replaced by one base."""
        return len(self.ref) == len(self.alt) == 1


def _strand(text: str) -> Strand:
    try:
        return Strand(text)
    except ValueError:
        raise InputError(f"strand {text!r}: expected '+', '-' or '.'") from None
