"""Sources of pre-training examples: windows over a genome, chosen by arithmetic on item numbers."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chargaff.data.batch import Example
from chargaff.data.holdout import HeldOut, read_held_out
from chargaff.data.splits import block_split
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.io.regions import Regions, read_bed
from chargaff.seq.alphabet import BASE_CODE, translate
from chargaff.seq.interval import Interval

PARENT_BP = 1 << 20
"""Length of the interval that each region of the published human training set stands for."""

Split = Literal["train", "valid", "test"]

_CHUNK_BASES = 1 << 26
_MAX_BLOCK_BP = 1_000_000
_MIN_BLOCKS = 50


class GenomeWindows:
    """Windows of one length over a genome, as examples without target; upper case unless the genome keeps case.

    A region is a start on a contig and stands for `windows_per_region` windows side by side: item k is window k % n of
    region k // n. A window that would pass the end of its contig is moved left to end there, one that begins before
    the contig is moved right; so neighbours may coincide at contig ends. On a contig shorter than the window, N is
    added on the left.

    Items that an option drops are taken out of the numbering; `len` counts the rest.
    """

    def __init__(
        self,
        genome: Genome,
        contig: NDArray[np.int64],
        start: NDArray[np.int64],
        *,
        window_bp: int,
        windows_per_region: int = 1,
        exclude: Sequence[Interval] = (),
        max_unknown_fraction: float | None = None,
    ) -> None:
        """Plan the windows; sequence is read only if `max_unknown_fraction` asks for it.

        Args:
            contig: [R] contig id of each region in the genome.
            start: [R] first base of each region.
            exclude: a window that shares a base with one of these is dropped.
            max_unknown_fraction: drop windows in which a larger share of letters is none of A, C, G, T; None keeps all.

        Raises:
            ConfigError: no window is left.
        """
        self.genome = genome
        self.window_bp = window_bp
        self._per_region = windows_per_region
        self._contig, self._start = contig.astype(np.int32), start.astype(np.int64)
        self._kept_before_dropped = np.zeros(0, dtype=np.int64)  # [dropped] kept items before each dropped one
        num_planned = len(self)
        held_out = HeldOut(exclude, genome.contigs)
        if len(held_out):
            self._drop(self._excluded(held_out))
        num_excluded = num_planned - len(self)
        if max_unknown_fraction is not None:
            self._drop(self._unknown(max_unknown_fraction))
        if not len(self):
            unknown = num_planned - num_excluded
            reason = f"{num_planned:,} planned, {num_excluded:,} excluded, {unknown:,} with too many unknown bases"
            raise ConfigError(f"{genome.path}: no window of {window_bp:,} bp is left ({reason})")

    @classmethod
    def over_regions(
        cls,
        genome: Genome,
        regions: Sequence[Interval],
        *,
        window_bp: int,
        parent_bp: int = PARENT_BP,
        exclude: Sequence[Interval] = (),
        max_unknown_fraction: float | None = None,
    ) -> GenomeWindows:
        """The published human training set's rule: each region is the `parent_bp` bases from its start on.

        The end of a region is not used. window_bp must divide parent_bp (ConfigError); regions must lie inside their
        contig (InputError).
        """
        if window_bp < 1 or parent_bp % window_bp:
            raise ConfigError(f"window_bp: expected a divisor of {parent_bp:,} (parent_bp), got {window_bp:,}")
        contig = np.array([genome.contig_id(region.contig) for region in regions], dtype=np.int64)
        for region, length_bp in zip(regions, genome.lengths_bp[contig].tolist(), strict=True):
            if region.start >= length_bp or region.end > length_bp:
                place = f"{region.contig}:{region.start}-{region.end} (from 0)"
                raise InputError(
                    f"region {place} is past the end of {region.contig} ({length_bp:,} bp) in {genome.path}; "
                    "was it made for another assembly?"
                )
        start = np.array([region.start for region in regions], dtype=np.int64)
        return cls(
            genome,
            contig,
            start,
            window_bp=window_bp,
            windows_per_region=parent_bp // window_bp,
            exclude=exclude,
            max_unknown_fraction=max_unknown_fraction,
        )

    def __len__(self) -> int:
        return len(self._start) * self._per_region - len(self._kept_before_dropped)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """The examples at these rows, read at once."""
        contig, start = self.places(indices)
        end = self._ends(contig, start)
        intervals = [
            Interval(self.genome.contigs[c], s, e)
            for c, s, e in zip(contig.tolist(), start.tolist(), end.tolist(), strict=True)
        ]
        return [
            Example((window,), interval=interval, id=str(interval))
            for window, interval in zip(self.examples(indices), intervals, strict=True)
        ]

    def examples(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """[n, window_bp] the bases of these rows, in the order asked for."""
        contig, start = self.places(indices)
        return self._read(contig, start)

    def places(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(contig ids in the genome [n], first bases [n]) of these rows."""
        rows = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row {rows.max() if rows.max() >= len(self) else rows.min()} of {len(self)} windows")
        return self._items(rows + np.searchsorted(self._kept_before_dropped, rows, side="right"))

    def _items(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        region, shift = np.divmod(items, self._per_region)
        contig = self._contig[region].astype(np.int64)
        last_start = self.genome.lengths_bp[contig] - self.window_bp
        start = np.maximum(np.minimum(self._start[region] + shift * self.window_bp, last_start), 0)
        return contig, start

    def _ends(self, contig: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.int64]:
        ends: NDArray[np.int64] = np.minimum(start + self.window_bp, self.genome.lengths_bp[contig])
        return ends

    def _read(self, contig: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.uint8]:
        length_bp = self.genome.lengths_bp[contig]
        is_short = length_bp < self.window_bp
        if not is_short.any():
            return self.genome.windows(contig, start, self.window_bp)
        windows = np.full((len(contig), self.window_bp), ord("N"), dtype=np.uint8)
        windows[~is_short] = self.genome.windows(contig[~is_short], start[~is_short], self.window_bp)
        for row in np.flatnonzero(is_short):
            windows[row, -int(length_bp[row]) :] = self.genome.fetch(self.genome.contigs[contig[row]])
        return windows

    def _excluded(self, places: HeldOut) -> NDArray[np.int64]:
        """Kept rows whose window overlaps one of the places."""
        parent_bp = self._per_region * self.window_bp
        # windows of a region reach at most one window length beyond it, where they are moved at a contig's ends
        begin, end = self._start - self.window_bp, self._start + parent_bp + self.window_bp
        found = []
        for region in np.flatnonzero(places.overlap(self._contig.astype(np.int64), begin, end)):
            items = np.arange(region * self._per_region, (region + 1) * self._per_region)
            contig, start = self._items(items)
            found.append(items[places.overlap(contig, start, self._ends(contig, start))])
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def _unknown(self, max_fraction: float) -> NDArray[np.int64]:
        """Kept rows with too many letters that are none of A, C, G, T; reads every window once."""
        step = max(1, _CHUNK_BASES // self.window_bp)
        found = []
        for first in range(0, len(self), step):
            rows = np.arange(first, min(first + step, len(self)))
            unknown = (translate(self.examples(rows), BASE_CODE) == 4).mean(axis=1)
            found.append(rows[unknown > max_fraction])
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def _drop(self, rows: NDArray[np.int64]) -> None:
        """Take out rows, given in the present numbering."""
        before = self._kept_before_dropped
        dropped = np.sort(
            np.concatenate([before + np.arange(len(before)), rows + np.searchsorted(before, rows, "right")])
        )
        self._kept_before_dropped = dropped - np.arange(len(dropped))


def tile_contigs(
    genome: Genome, window_bp: int, contigs: Collection[str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(contig ids, starts) of windows side by side from each contig's first base; what is left at its end is unused.

    Args:
        contigs: names; None takes all.
    """
    if window_bp < 1:
        raise ConfigError(f"window_bp: expected at least 1, got {window_bp}")
    chosen = range(len(genome.contigs)) if contigs is None else sorted(genome.contig_id(name) for name in set(contigs))
    counts = [int(genome.lengths_bp[contig]) // window_bp for contig in chosen]
    contig = np.repeat(np.fromiter(chosen, dtype=np.int64, count=len(counts)), counts)
    starts = [np.arange(count, dtype=np.int64) * window_bp for count in counts]
    return contig, np.concatenate(starts) if starts else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Partition:
    """How a genome without a region file is divided; contigs or fractions, not both. Without either all is "train"."""

    valid_contigs: tuple[str, ...] = ()
    test_contigs: tuple[str, ...] = ()
    valid_fraction: float = 0.0
    """Share of the windows, taken in blocks of neighbours: a fiftieth of the genome, at most a million bases."""
    test_fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.valid_fraction, self.test_fraction) < 0 or self.valid_fraction + self.test_fraction >= 1:
            found = f"valid_fraction {self.valid_fraction}, test_fraction {self.test_fraction}"
            raise ConfigError(f"{found}: expected at least 0 each, and less than 1 together")
        if (self.valid_contigs or self.test_contigs) and (self.valid_fraction or self.test_fraction):
            raise ConfigError("a genome is divided by contigs or by fractions; both are given")
        both = set(self.valid_contigs) & set(self.test_contigs)
        if both:
            raise ConfigError(f"contigs {', '.join(sorted(both))} are named for validation and for test")

    def tiles(self, genome: Genome, window_bp: int, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(contig ids, starts) of the split's windows side by side."""
        named = {"valid": self.valid_contigs, "test": self.test_contigs}
        fractions = {"valid": self.valid_fraction, "test": self.test_fraction}
        if split == "train":
            for name in (*self.valid_contigs, *self.test_contigs):
                genome.contig_id(name)
            contigs = [name for name in genome.contigs if name not in (*self.valid_contigs, *self.test_contigs)]
        elif named[split] or fractions[split]:
            contigs = list(named[split] or genome.contigs)
        else:
            raise ConfigError(f"no {split} windows are set aside: give {split}_contigs or {split}_fraction")
        contig, start = tile_contigs(genome, window_bp, contigs)
        if not self.valid_fraction and not self.test_fraction:
            return contig, start
        rows = self._block_rows(contig, start, window_bp, split)
        return contig[rows], start[rows]

    def _block_rows(
        self, contig: NDArray[np.int64], start: NDArray[np.int64], window_bp: int, split: Split
    ) -> NDArray[np.int64]:
        wanted_bp = min(_MAX_BLOCK_BP, len(start) * window_bp // _MIN_BLOCKS)
        block_bp = max(1, wanted_bp // window_bp) * window_bp
        rest, parts = np.arange(len(start)), {}
        left = 1.0
        for name, fraction in (("test", self.test_fraction), ("valid", self.valid_fraction)):
            if fraction:
                places = contig[rest], start[rest], start[rest] + window_bp
                inside, outside = block_split(*places, self.seed, fraction / left, block_bp)
                parts[name], rest = rest[inside], rest[outside]
                left -= fraction
        return {**parts, "train": rest}[split]


def open_windows(
    genome: str | os.PathLike[str],
    window_bp: int,
    *,
    split: Split = "train",
    regions: str | os.PathLike[str] | None = None,
    parent_bp: int = PARENT_BP,
    partition: Partition | None = None,
    exclude: str | os.PathLike[str] | None = None,
    exclude_species: str | None = None,
    max_unknown_fraction: float | None = None,
) -> GenomeWindows:
    """The windows of one split of a FASTA file.

    With `regions`, a BED file whose fourth column names the split, by the rule of `GenomeWindows.over_regions`;
    without, windows side by side over whole contigs, divided by `partition`.

    Args:
        exclude: list of places that no training may see (`read_held_out`); windows that touch one are dropped.
        exclude_species: rows of that list to use.
        max_unknown_fraction: see `GenomeWindows`.
    """
    opened = Genome(genome)
    held_out = () if exclude is None else read_held_out(exclude, opened.contigs, species=exclude_species)
    if regions is None:
        contig, start = (partition or Partition()).tiles(opened, window_bp, split)
        return GenomeWindows(
            opened, contig, start, window_bp=window_bp, exclude=held_out, max_unknown_fraction=max_unknown_fraction
        )
    if partition is not None:
        raise ConfigError(f"{os.fspath(regions)} names the split of each region; a partition has no use beside it")
    return GenomeWindows.over_regions(
        opened,
        list(_rows_of_split(regions, opened, split)),
        window_bp=window_bp,
        parent_bp=parent_bp,
        exclude=held_out,
        max_unknown_fraction=max_unknown_fraction,
    )


def _rows_of_split(path: str | os.PathLike[str], genome: Genome, split: Split) -> Regions:
    regions = read_bed(path)
    if "name" not in regions.columns:
        raise InputError(f"{regions.source}: has 3 columns; the fourth must name the split (train, valid or test)")
    regions.contig_ids(genome)
    keep = [name == split for name in regions.columns["name"]]
    if not any(keep):
        found = ", ".join(sorted({str(name) for name in regions.columns["name"]})[:5])
        raise InputError(f"{regions.source}: no region of split {split!r}; the fourth column holds {found}")
    return regions.select(keep)
