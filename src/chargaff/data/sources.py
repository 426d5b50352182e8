"""Sources of pre-training examples: windows over a genome, chosen by arithmetic on item numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chargaff.data.batch import Example
from chargaff.data.holdout import HeldOut
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import BASE_CODE, translate
from chargaff.seq.interval import Interval

PARENT_BP = 1 << 20
"""Length of the interval that each region of the published human training set stands for."""

_CHUNK_BASES = 1 << 26


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
        end = np.minimum(start + self.window_bp, self.genome.lengths_bp[contig])
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
            found.append(items[places.overlap(contig, start, start + self.window_bp)])
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
