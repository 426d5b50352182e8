"""Splice-site windows from a genome and exons: donor, acceptor and neither, all in transcript direction.

A site is a boundary between two bases. Its window holds `window_bp / 2` bases on either side, read on the transcript's
strand. At a donor the exon's last base stands left of the middle and the intron (GT...) right of it; at an acceptor
the intron (...AG) stands left and the exon's first base right.

"Neither" windows are of two sorts. Decoys, the larger part, have GT right of the middle or AG left of it, like a
canonical donor or acceptor, lie in the same genes on the same strand, in numbers proportional to the sites of each
gene, and at least `decoy_margin_bp` from every annotated site; so dinucleotide, gene content and strand tell nothing.
The rest lies anywhere on the contig on a random strand, with the same margin.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chargaff.data.leakage import first_occurrence, strandless_keys
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.io.regions import read_gff
from chargaff.seq.alphabet import BASE_CODE, Sequence, reverse_complement, translate, upper
from chargaff.seq.interval import Interval, Strand

CLASSES = ("acceptor", "donor", "neither")
"""Class names; a label is an index into them."""

_ACCEPTOR, _DONOR, _NEITHER = range(3)
# (label, is on the reverse strand) -> dinucleotide on the forward strand, offset of the boundary from its first base
_GENOMIC = {
    (_DONOR, False): (b"GT", 0),
    (_DONOR, True): (b"AC", 2),
    (_ACCEPTOR, False): (b"AG", 2),
    (_ACCEPTOR, True): (b"CT", 0),
}


@dataclass(frozen=True, slots=True)
class SpliceSpec:
    """How windows are chosen."""

    window_bp: int = 400
    """Even; half on either side of the site."""
    neither_ratio: float = 1.0
    """"Neither" windows per donor or acceptor: 1 makes three classes of about equal size."""
    decoy_fraction: float = 0.8
    """Share of decoys (see above) among them."""
    decoy_margin_bp: int = 10
    """No "neither" window is centred within this distance of an annotated site on either strand."""
    min_intron_bp: int = 20
    """Shorter gaps between exons are artefacts of alignment, not introns."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window_bp < 4 or self.window_bp % 2:
            raise ConfigError(f"window_bp: expected an even number of at least 4, got {self.window_bp}")
        if self.neither_ratio < 0:
            raise ConfigError(f"neither_ratio: expected at least 0, got {self.neither_ratio}")
        if not 0 <= self.decoy_fraction <= 1:
            raise ConfigError(f"decoy_fraction: expected 0 to 1, got {self.decoy_fraction}")


@dataclass(frozen=True, slots=True)
class Exon:
    """One exon of one transcript; the interval has a strand."""

    interval: Interval
    transcript: str
    gene: str


@dataclass(frozen=True, slots=True)
class SpliceWindows:
    """Windows of one contig or several; all arrays have one row per window."""

    contig: NDArray[np.object_]
    start: NDArray[np.int64]
    is_reverse: NDArray[np.bool_]
    label: NDArray[np.int64]
    sequence: Sequence
    """[n, window_bp] upper-case A, C, G, T."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def end(self) -> NDArray[np.int64]:
        end: NDArray[np.int64] = self.start + self.sequence.shape[1]
        return end

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> SpliceWindows:
        return SpliceWindows(
            self.contig[rows], self.start[rows], self.is_reverse[rows], self.label[rows], self.sequence[rows]
        )


@dataclass(frozen=True, slots=True)
class _Sites:
    """Boundaries on one contig: base `boundary` is the first one to the right of it on the forward strand."""

    boundary: NDArray[np.int64]
    is_reverse: NDArray[np.bool_]
    label: NDArray[np.int64]
    gene: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, bool, int, int]]) -> _Sites:
        table = np.array(sorted(set(rows)), dtype=np.int64).reshape(-1, 4)
        return cls(table[:, 0], table[:, 1].astype(bool), table[:, 2], table[:, 3])

    @classmethod
    def join(cls, parts: list[_Sites]) -> _Sites:
        fields = [(p.boundary, p.is_reverse, p.label, p.gene) for p in parts]
        return cls(*(np.concatenate(column) for column in zip(*fields, strict=True)))


def read_exons(path: str | os.PathLike[str], genome: Genome) -> tuple[list[Exon], tuple[str, ...]]:
    """(exons of a GTF or GFF3 file that lie on the genome's contigs, names of the contigs that it does not have).

    The transcript is `transcript_id` or `Parent`, the gene `gene_id` or else the transcript.

    Raises:
        InputError: with the line: no exons, none on the genome, one past a contig's end, or one without transcript.
    """
    regions = read_gff(path, types=("exon",))
    elsewhere = tuple(sorted(set(regions.contigs) - set(genome.contigs)))
    is_here = [contig in genome for contig in regions.contigs]
    if any(is_here):
        regions = regions.select(is_here)
    regions.contig_ids(genome)
    parents, genes = regions.attribute("Parent"), regions.attribute("gene_id")
    exons = []
    for row, transcript in enumerate(regions.attribute("transcript_id")):
        transcript = transcript or parents[row]
        if transcript is None:
            raise InputError(f"{regions.source}:{regions.lines[row]}: the exon has neither transcript_id nor Parent")
        exons.append(Exon(regions[row], transcript, genes[row] or transcript))
    return exons, elsewhere


def splice_windows(
    fetch: Callable[[str], Sequence], exons: Iterable[Exon], spec: SpliceSpec
) -> tuple[SpliceWindows, dict[str, int]]:
    """All windows, ordered by contig, start, strand and label, and counts of what was left out and why.

    Only windows wholly inside their contig and without N are made. Where windows with the same bases, on whichever
    strand, are of different classes, all of them are dropped. Repeats of one class stay.

    Args:
        fetch: contig name -> its sequence; called once per contig that has exons.

    Raises:
        InputError: an exon has no strand, or the exons hold no intron.
    """
    by_contig: dict[str, list[Exon]] = defaultdict(list)
    for exon in exons:
        if exon.interval.strand is Strand.NONE:
            raise InputError(f"exon {exon.interval} of {exon.transcript!r} has no strand")
        by_contig[exon.interval.contig].append(exon)
    counts = dict.fromkeys(("past a contig's end", "with unknown bases", "contradicting"), 0)
    parts = []
    for number, name in enumerate(sorted(by_contig)):
        sequence = upper(fetch(name))
        sites = find_sites(by_contig[name], spec.min_intron_bp)
        rng = np.random.default_rng((spec.seed, number))
        places = _Sites.join([sites, *_neither(sequence, sites, by_contig[name], spec, rng)])
        parts.append(_cut(name, sequence, places, spec.window_bp, counts))
    if not parts or not sum(len(part) for part in parts):
        raise InputError("the exons hold no intron whose splice sites have a window; are there transcripts of 2 exons?")
    windows = _join(parts)
    is_contradicted = _contradicted(windows)
    counts["contradicting"] = int(is_contradicted.sum())
    kept = windows.select(~is_contradicted)
    return kept.select(np.lexsort((kept.label, kept.is_reverse, kept.start, kept.contig.astype(str)))), counts


def find_sites(exons: list[Exon], min_intron_bp: int) -> _Sites:
    """The distinct donors and acceptors of the introns between neighbouring exons of each transcript of one contig.

    A site belongs to the first gene that has it.
    """
    transcripts: dict[tuple[str, Strand], list[Exon]] = defaultdict(list)
    for exon in exons:
        transcripts[exon.transcript, exon.interval.strand].append(exon)
    genes = {key: number for number, key in enumerate(_genes(exons))}
    sites: dict[tuple[int, bool, int], int] = {}
    for (_, strand), members in sorted(transcripts.items()):
        is_reverse = strand is Strand.REVERSE
        members.sort(key=lambda exon: exon.interval)
        for left, right in pairwise(members):
            if right.interval.start - left.interval.end < min_intron_bp:
                continue
            for boundary, is_left in ((left.interval.end, True), (right.interval.start, False)):
                label = _DONOR if is_left != is_reverse else _ACCEPTOR
                sites.setdefault((boundary, is_reverse, label), genes[left.gene, strand])
    return _Sites.of((*key, gene) for key, gene in sites.items())


def _genes(exons: list[Exon]) -> dict[tuple[str, Strand], tuple[int, int]]:
    """(gene, strand) -> (start, end), ordered by key; its position is the gene's number."""
    spans: dict[tuple[str, Strand], tuple[int, int]] = {}
    for exon in exons:
        place = exon.interval
        start, end = spans.get((exon.gene, place.strand), (place.start, place.end))
        spans[exon.gene, place.strand] = (min(start, place.start), max(end, place.end))
    return dict(sorted(spans.items()))


def _neither(
    sequence: Sequence, sites: _Sites, exons: list[Exon], spec: SpliceSpec, rng: np.random.Generator
) -> list[_Sites]:
    """Decoys like donors, decoys like acceptors, and random places, each at the margin from all sites."""
    total = round(spec.neither_ratio * len(sites.boundary) / 2)
    num_decoys = round(spec.decoy_fraction * total)
    is_free = np.ones(len(sequence) + 1, dtype=bool)
    reach = np.arange(-spec.decoy_margin_bp, spec.decoy_margin_bp + 1)
    near = (sites.boundary[:, None] + reach).ravel()
    is_free[near[(near >= 0) & (near <= len(sequence))]] = False
    genes = list(_genes(exons).items())
    parts = []
    for label, wanted in ((_DONOR, num_decoys - num_decoys // 2), (_ACCEPTOR, num_decoys // 2)):
        like = sites.gene[sites.label == label]
        quota = np.bincount(rng.choice(like, wanted), minlength=len(genes)) if len(like) else np.zeros(len(genes), int)
        for gene in np.flatnonzero(quota):
            (_, strand), (start, end) = genes[gene]
            is_reverse = strand is Strand.REVERSE
            boundary = _dinucleotides(sequence, start, end, label, is_reverse)
            boundary = boundary[is_free[boundary]]
            chosen = rng.choice(boundary, min(int(quota[gene]), len(boundary)), replace=False)
            is_free[chosen] = False
            parts.append(_neither_at(chosen, np.full(len(chosen), is_reverse), int(gene)))
    # drawn with some to spare instead of from a list of all free places, which would take 8 bytes per base
    drawn = rng.permutation(np.unique(rng.integers(0, len(is_free), 2 * (total - num_decoys))))
    anywhere = drawn[is_free[drawn]][: total - num_decoys]
    return [*parts, _neither_at(anywhere, rng.random(len(anywhere)) < 0.5, -1)]


def _dinucleotides(sequence: Sequence, start: int, end: int, label: int, is_reverse: bool) -> NDArray[np.int64]:
    """Boundaries in [start, end] that look like a canonical site of this class on this strand."""
    (first, second), offset = _GENOMIC[label, is_reverse]
    piece = sequence[start:end]
    return np.flatnonzero((piece[:-1] == first) & (piece[1:] == second)) + start + offset


def _neither_at(boundary: NDArray[np.int64], is_reverse: NDArray[np.bool_], gene: int) -> _Sites:
    return _Sites(boundary, is_reverse, np.full(len(boundary), _NEITHER), np.full(len(boundary), gene))


def _cut(name: str, sequence: Sequence, places: _Sites, window_bp: int, counts: dict[str, int]) -> SpliceWindows:
    start = places.boundary - window_bp // 2
    is_inside = (start >= 0) & (start + window_bp <= len(sequence))
    counts["past a contig's end"] += int((~is_inside).sum())
    start, is_reverse, label = start[is_inside], places.is_reverse[is_inside], places.label[is_inside]
    if len(start):
        windows = np.lib.stride_tricks.sliding_window_view(sequence, window_bp)[start]
    else:
        windows = np.zeros((0, window_bp), np.uint8)
    is_known: NDArray[np.bool_] = np.all(translate(windows, BASE_CODE) < 4, axis=1)
    counts["with unknown bases"] += int((~is_known).sum())
    windows[is_reverse] = reverse_complement(windows[is_reverse])
    contig = np.full(len(start), name, dtype=object)
    return SpliceWindows(contig, start, is_reverse, label, windows).select(is_known)


def _join(parts: list[SpliceWindows]) -> SpliceWindows:
    fields = [(p.contig, p.start, p.is_reverse, p.label, p.sequence) for p in parts]
    return SpliceWindows(*(np.concatenate(column) for column in zip(*fields, strict=True)))


def _contradicted(windows: SpliceWindows) -> NDArray[np.bool_]:
    """[n] whether a window with the same bases is of another class."""
    first = first_occurrence(strandless_keys(windows.sequence))
    differs = windows.label != windows.label[first]
    is_contradicted = np.zeros(len(first), dtype=bool)
    is_contradicted[first[differs]] = True
    return is_contradicted[first]
