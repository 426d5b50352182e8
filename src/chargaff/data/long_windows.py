"""Windows as the long-context models were trained on: around regions, at fixed places, of several species, of labels.

Rules of the hyenadna sheet 3.1, 3.8 and 3.9. Every source gives letters; tokens are the loader's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chargaff.data.batch import Example
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.io.tables import column_names, read_table
from chargaff.seq.alphabet import upper
from chargaff.seq.interval import Interval

UNKNOWN = ord(".")
"""What the published loaders put outside a contig; no tokenizer knows it."""
LABEL_PREFIX = "y_"


def window_around(region: Interval, window_bp: int) -> tuple[int, int]:
    """(start, end) of the window that a region stands for; may reach outside its contig.

    A shorter region is widened, the odd base to the right; of a longer one the first `window_bp` bases are taken.
    """
    missing = window_bp - region.width_bp
    if missing <= 0:
        return region.start, region.start + window_bp
    return region.start - missing // 2, region.end + missing - missing // 2


class RegionWindows:
    """One window a region, as examples without target; letters as the genome gives them.

    What lies outside the contig is missing, so such a window is shorter, or "." with `fill_ends`.
    """

    def __init__(self, genome: Genome, regions: Sequence[Interval], *, window_bp: int, fill_ends: bool = False) -> None:
        if window_bp < 1:
            raise ConfigError(f"window_bp: expected at least 1, got {window_bp}")
        self.genome, self.regions, self.window_bp, self.fill_ends = genome, tuple(regions), window_bp, fill_ends

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> Example:
        region = self.regions[index]
        start, end = window_around(region, self.window_bp)
        letters = _cut(self.genome, region.contig, start, end, UNKNOWN if self.fill_ends else None)
        return Example((letters,), id=str(region))


def fixed_windows(ranges: Mapping[str, tuple[int, int]], window_bp: int) -> Iterator[Interval]:
    """Windows side by side over ranges of contigs; the last of a range is shorter where it does not divide."""
    for contig, (first, last) in ranges.items():
        for start in range(first, last, window_bp):
            yield Interval(contig, start, min(start + window_bp, last))


def legal_starts(
    contig_bp: int, window_bp: int, tail_fraction: float = 0.0, *, as_published: bool = False
) -> tuple[int, int]:
    """First and last start of a window on a contig; `tail_fraction` of the contig is left out at each end.

    With `as_published` a window may begin, not end, up to the tail that is left out.
    """
    first, end = int(contig_bp * tail_fraction), int(contig_bp * (1 - tail_fraction))
    last = end if as_published and tail_fraction else end - window_bp
    return first, max(last, first)


@dataclass(frozen=True)
class SpeciesWindows:
    """Random windows of several genomes; the target is the species' place in the mapping. Upper case.

    Sample i is a function of (seed, i): a species, one of its contigs, a start, each equally likely.
    """

    genomes: Mapping[str, Genome]
    contigs: Mapping[str, Sequence[str]]
    """Species -> contigs to draw from."""
    window_bp: int
    num_samples: int
    seed: int = 0
    tail_fraction: float = 0.0
    """Share of a contig that is left out at each of its ends."""
    cut_at_last_start: bool = False
    """As the published loader: a window ends at the largest legal start instead of the contig's end; N fills it."""

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Example:
        draw = np.random.default_rng([self.seed, index])
        species = list(self.genomes)[int(draw.integers(len(self.genomes)))]
        contig = self.contigs[species][int(draw.integers(len(self.contigs[species])))]
        first, last = self._starts(species, contig)
        return self.sample(species, contig, int(draw.integers(first, last + 1)))

    def sample(self, species: str, contig: str, start: int) -> Example:
        """The window that begins there; N on the left of what is shorter."""
        genome = self.genomes[species]
        stop = start + self.window_bp
        if self.cut_at_last_start:
            stop = min(stop, self._starts(species, contig)[1])
        letters = upper(_cut(genome, contig, start, max(stop, start), None))
        padded = np.full(self.window_bp, ord("N"), np.uint8)
        padded[self.window_bp - len(letters) :] = letters
        return Example((padded,), target=list(self.genomes).index(species), id=f"{species}:{contig}:{start}")

    def _starts(self, species: str, contig: str) -> tuple[int, int]:
        contig_bp, is_old = self.genomes[species].lengths[contig], self.cut_at_last_start
        return legal_starts(contig_bp, self.window_bp, self.tail_fraction, as_published=is_old)


HELD_OUT = ("5", "7", "9", "10", "11")
VALIDATION = ("1", "3", "12", "13")
"""Chromosomes that the published species runs keep for validation; HELD_OUT they keep for testing."""
_APES = {"gorilla": 22, "orangutan": 22, "chimpanzee": 22}
_LAST_AUTOSOME = {"human": 22, "lemur": 27, "goat": 29, "sheep": 26, "pig": 18, "mouse": 19, "hippo": 17, **_APES}
_WITHOUT_Y = ("mouse", "hippo")


def species_chromosomes(species: str, split: Literal["train", "valid", "test"]) -> tuple[str, ...]:
    """Chromosomes of a split of the ten published species."""
    if species not in _LAST_AUTOSOME:
        raise ConfigError(f"species: expected one of {', '.join(_LAST_AUTOSOME)}, got {species!r}")
    if split != "train":
        return VALIDATION if split == "valid" else HELD_OUT
    second = ["2A", "2B"] if species in _APES else ["2"]
    rest = (str(number) for number in range(4, _LAST_AUTOSOME[species] + 1))
    sex = ["X"] if species in _WITHOUT_Y else ["X", "Y"]
    return (*second, *(name for name in rest if name not in (*VALIDATION, *HELD_OUT)), *sex)


class LabelledWindows:
    """Windows of a table of coordinates with yes-or-no labels, such as the chromatin profiles of DeepSEA.

    Columns Chr_No (0-based number of the autosome), Start, End, and one a label, `y_...`. Upper case; what lies outside
    the contig is ".". The target is [labels] float32.
    """

    def __init__(self, genome: Genome, path: str | os.PathLike[str], *, window_bp: int) -> None:
        """
        Raises:
            ConfigError: an odd difference between `window_bp` and the table's windows, which cannot be centred.
            InputError: a malformed table.
        """
        names = column_names(path)
        self.labels = tuple(name for name in names if name.startswith(LABEL_PREFIX))
        if not {"Chr_No", "Start", "End"} <= set(names) or not self.labels:
            expected = f"Chr_No, Start, End and {LABEL_PREFIX}..."
            raise InputError(f"{Path(path).name}: expected the columns {expected}, has {', '.join(names[:8])}")
        table = read_table(path, ["Chr_No", "Start", "End", *self.labels])
        self.genome, self.window_bp = genome, window_bp
        self.contig = tuple(f"chr{int(number) + 1}" for number in table["Chr_No"].to_pylist())
        start, end = (np.array(table[name].to_pylist(), np.int64) for name in ("Start", "End"))
        widen = window_bp - (end - start)
        if (widen % 2).any():
            raise ConfigError(f"window_bp: {window_bp} cannot be centred on windows of {int((end - start)[0])} bp")
        self.start: NDArray[np.int64] = start - widen // 2
        self.target = np.array([table[name].to_pylist() for name in self.labels], np.float32).T

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: int) -> Example:
        start = int(self.start[index])
        letters = upper(_cut(self.genome, self.contig[index], start, start + self.window_bp, UNKNOWN))
        return Example((letters,), target=self.target[index], id=f"{self.contig[index]}:{start}")


def _cut(genome: Genome, contig: str, start: int, end: int, fill: int | None) -> NDArray[np.uint8]:
    """The bases from start to end; outside the contig nothing, or `fill`."""
    length_bp = genome.lengths[contig]
    first, last = min(max(start, 0), length_bp), min(max(end, 0), length_bp)
    letters = genome.fetch(contig, first, last) if last > first else np.zeros(0, np.uint8)
    if fill is None:
        return letters
    padded = np.full(end - start, fill, np.uint8)
    padded[first - start : first - start + len(letters)] = letters
    return padded
