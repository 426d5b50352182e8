"""What is where on a genome: elements of a GFF3, GTF or BED file as labels of single bases.

An element is written `type`, `type[attribute=value]`, or either with a strand: "exon", "CDS+", "gene-",
"gene[gene_biotype=protein_coding]". Types are those of the file (for BED the names in the fourth column). Where a file
does not list them, some are derived from the exons, or else the coding parts, of each transcript:

  gene, transcript     from the first to the last of them
  intron               between neighbours
  splice_donor         the first two bases of an intron, in reading direction
  splice_acceptor      the last two
  start_codon          the first three coding bases, in reading direction, across exons if need be
  stop_codon           in GFF3 the last three coding bases; in GTF, which leaves it out of CDS, the three after it
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.io.regions import Regions, read_regions
from chargaff.seq.interval import Strand

Ints = NDArray[np.int64]

SITE_BP = 2
"""Bases of a splice site."""
CODON_BP = 3
DERIVED = ("gene", "transcript", "intron", "splice_donor", "splice_acceptor", "start_codon", "stop_codon")
ALIASES = {"five_prime_UTR": "5UTR", "three_prime_UTR": "3UTR", "five_prime_utr": "5UTR", "three_prime_utr": "3UTR"}
"""Types of files -> names under which the published models know them; both can be asked for."""

_ELEMENT = re.compile(r"(?P<type>[^\[\]+]+?)(?:\[(?P<key>[^=\]]+)=(?P<value>[^\]]*)\])?(?P<strand>[+-])?")


@dataclass(frozen=True, slots=True)
class Element:
    """What to look for."""

    name: str
    """As it was written."""
    type: str
    attribute: tuple[str, str] | None
    strand: Strand
    """NONE: either."""

    @classmethod
    def parse(cls, text: str) -> Element:
        """Raises ConfigError for a text of another form."""
        match = _ELEMENT.fullmatch(text)
        if match is None:
            raise ConfigError(f"element {text!r}: expected type, type[attribute=value], with + or - for a strand")
        attribute = None if match["key"] is None else (match["key"], match["value"])
        return cls(text, match["type"], attribute, Strand(match["strand"] or "."))

    @property
    def opposite(self) -> str:
        """Name of the same element on the other strand; of one without a strand its own."""
        if self.strand is Strand.NONE:
            return self.name
        return self.name[:-1] + ("-" if self.strand is Strand.FORWARD else "+")


def opposite_elements(names: Sequence[str]) -> tuple[int, ...]:
    """For each element the number of the one that it becomes on the other strand.

    Raises:
        ConfigError: a name twice, or an element of one strand without its counterpart.
    """
    if len(set(names)) != len(names):
        raise ConfigError(f"elements: names must differ, got {', '.join(names)}")
    numbers = {name: number for number, name in enumerate(names)}
    found = []
    for name in names:
        other = Element.parse(name).opposite
        if other not in numbers:
            raise ConfigError(f"elements: {name} has no counterpart {other}; name both strands, or neither")
        found.append(numbers[other])
    return tuple(found)


class Annotation:
    """Where each element is on the contigs of one genome; picklable."""

    def __init__(self, elements: Sequence[str], spans: Sequence[tuple[Ints, Ints, Ints]]) -> None:
        """Spans of each element as (contig numbers, starts, ends), in any order; they may overlap."""
        self.elements = tuple(elements)
        self._spans = [_merged(*part) for part in spans]

    def spans(self, element: int, contig: int) -> tuple[Ints, Ints]:
        """(starts, ends) of an element's disjoint stretches on a contig, ascending."""
        numbers, starts, ends = self._spans[element]
        first, last = np.searchsorted(numbers, [contig, contig + 1])
        return starts[first:last], ends[first:last]

    def labels(self, contig: int, start: int, end: int) -> NDArray[np.uint8]:
        """[end - start, elements] 1 where the element is."""
        found = np.zeros((end - start, len(self.elements)), np.uint8)
        for number in range(len(self.elements)):
            starts, ends = self.spans(number, contig)
            first = int(np.searchsorted(ends, start, side="right"))
            last = int(np.searchsorted(starts, end, side="left"))
            for begin, stop in zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True):
                found[max(begin - start, 0) : stop - start, number] = 1
        return found

    def is_in(self, element: int, contig: int, start: Ints, end: Ints) -> NDArray[np.bool_]:
        """[n] whether stretches of a contig share a base with the element."""
        starts, ends = self.spans(element, contig)
        return np.searchsorted(starts, end, side="left") > np.searchsorted(ends, start, side="right")

    def covered_bp(self) -> Ints:
        """[elements] bases of each."""
        return np.array([int((ends - starts).sum()) for _, starts, ends in self._spans], np.int64)


def read_annotation(path: str | os.PathLike[str], elements: Sequence[str], genome: Genome) -> Annotation:
    """The elements of a file on the genome's contigs; lines on other contigs are left out.

    Raises:
        InputError: no line on any contig of the genome, a place past a contig's end, or an element that is nowhere in
            the file and cannot be derived (the types of the file are named).
        ConfigError: an element of another form.
    """
    wanted = [Element.parse(text) for text in elements]
    regions = read_regions(path)
    is_here = np.array([contig in genome for contig in regions.contigs])
    if is_here.any():
        regions = regions.select(is_here)
    contig = regions.contig_ids(genome)
    types = _types(regions)
    spans = [_find(element, regions, contig, types) for element in wanted]
    for element, (found, _, _) in zip(wanted, spans, strict=True):
        if not len(found):
            known = ", ".join(sorted(set(types))[:12])
            raise InputError(
                f"{regions.source}: no {element.name} on the contigs of {genome.path}; the file holds {known}; "
                f"derived from exons or CDS of transcripts: {', '.join(DERIVED)}"
            )
    return Annotation(elements, spans)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Exons, or coding parts, of a transcript or gene."""

    name: str
    contig: str
    strand: Strand
    parts: tuple[tuple[int, int], ...]
    """Ascending."""
    holds_stop: bool
    """Whether coding parts include the stop codon."""


def transcripts_of(regions: Regions, kind: str | None = None, *, by_gene: bool = False) -> list[Transcript]:
    """The transcripts (of a GTF file also the genes) that lines with a parent make up; [] in a file without.

    Args:
        kind: "exon" or "CDS"; None: exons, or coding parts where there are none.
    """
    if "attributes" not in regions.columns:
        return []
    types = _types(regions)
    kind = kind or ("exon" if "exon" in types else "CDS")
    chosen = regions.select([name == kind for name in types])
    owners = chosen.attribute("transcript_id")
    is_gtf = any(owners)
    if not is_gtf:
        owners = chosen.attribute("Parent")
    elif by_gene:
        owners = chosen.attribute("gene_id")
    groups: dict[tuple[str, str, Strand], set[tuple[int, int]]] = {}
    for owner, place in zip(owners, chosen, strict=True):
        if owner:
            groups.setdefault((owner, place.contig, place.strand), set()).add((place.start, place.end))
    return [Transcript(*key, tuple(sorted(parts)), holds_stop=not is_gtf) for key, parts in groups.items()]


def _types(regions: Regions) -> list[str]:
    """Of each line: the feature type, or the name in a BED file or table."""
    for column in ("type", "name"):
        if column in regions.columns:
            return [str(value) for value in regions.columns[column]]
    raise InputError(f"{regions.source}: needs a fourth column that names what each line is")


def _find(element: Element, regions: Regions, contig: Ints, types: list[str]) -> tuple[Ints, Ints, Ints]:
    """(contig, start, end) of an element."""
    names = [kind if kind == element.type else ALIASES.get(kind, kind) for kind in types]
    is_listed = np.array([name == element.type for name in names])
    if is_listed.any():
        keep = is_listed & _matches(element, regions)
        return contig[keep], regions.starts[keep], regions.ends[keep]
    if element.type not in DERIVED or "attributes" not in regions.columns:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    numbers = dict(zip(regions.contigs, contig.tolist(), strict=True))
    is_codon = element.type in ("start_codon", "stop_codon")
    kind = "CDS" if is_codon or "exon" not in types else "exon"
    found = transcripts_of(regions.select(_matches(element, regions)), kind, by_gene=element.type == "gene")
    rows = [(numbers[part.contig], *place) for part in found for place in _derive(element.type, part)]
    table = np.array(rows, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _matches(element: Element, regions: Regions) -> NDArray[np.bool_]:
    """Lines on the element's strand with its attribute."""
    keep = np.ones(len(regions), np.bool_)
    if element.strand is not Strand.NONE:
        keep &= np.array([strand is element.strand for strand in regions.strands])
    if element.attribute is not None:
        key, value = element.attribute
        keep &= np.array([found == value for found in regions.attribute(key)])
    return keep


def _derive(kind: str, transcript: Transcript) -> list[tuple[int, int]]:
    """(start, end) of each place of a derived element in one transcript."""
    places = transcript.parts
    if kind in ("gene", "transcript"):
        found = [(places[0][0], max(end for _, end in places))]
    elif kind in ("start_codon", "stop_codon"):
        found = _codon(kind, transcript)
    else:
        found = [(left[1], right[0]) for left, right in pairwise(places) if right[0] > left[1]]
        if kind != "intron":
            is_reverse = transcript.strand is Strand.REVERSE
            is_first = (kind == "splice_donor") != is_reverse  # of the two ends of the intron on the forward strand
            long_enough = [(start, end) for start, end in found if end - start >= 2 * SITE_BP]
            found = [(a, a + SITE_BP) if is_first else (b - SITE_BP, b) for a, b in long_enough]
    return found


def _codon(kind: str, transcript: Transcript) -> list[tuple[int, int]]:
    """Places of three bases at an end of the coding parts, or just behind it."""
    at_left = (kind == "start_codon") != (transcript.strand is Strand.REVERSE)
    if kind == "stop_codon" and not transcript.holds_stop:
        start = transcript.parts[0][0] - CODON_BP if at_left else transcript.parts[-1][1]
        return [(max(start, 0), start + CODON_BP)]
    found, left = [], CODON_BP
    for start, end in transcript.parts if at_left else reversed(transcript.parts):
        size = min(left, end - start)
        found.append((start, start + size) if at_left else (end - size, end))
        left -= size
        if not left:
            break
    return found


def _merged(contig: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """The same bases as disjoint stretches that do not touch, ordered by place."""
    order = np.lexsort((start, contig))
    contig, start, end = contig[order], start[order], end[order]
    if not len(start):
        return contig, start, end
    room = int(end.max()) + 1
    reach = np.maximum.accumulate(contig * room + end)
    is_new = np.append(True, (contig * room + start)[1:] > reach[:-1])
    first = np.flatnonzero(is_new)
    last = np.append(first[1:], len(start)) - 1
    return contig[first], start[first], reach[last] - contig[first] * room
