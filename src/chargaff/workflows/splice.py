"""The splice-site data set: windows from a genome and its exons, divided by position, without leaks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.data.holdout import HeldOut, read_held_out
from chargaff.data.leakage import first_occurrence, seen_in, strandless_keys
from chargaff.data.splice import CLASSES, SpliceSpec, SpliceWindows, read_exons, splice_windows
from chargaff.data.splits import block_split, region_split
from chargaff.errors import InputError
from chargaff.io.atomic import publish, write_manifest
from chargaff.io.fasta import Genome
from chargaff.io.writers import Column, open_writer
from chargaff.seq.interval import Interval
from chargaff.workflows.data import MANIFEST, TableFormat
from chargaff.workflows.provenance import provenance

FilePath = str | os.PathLike[str]

__all__ = ["Division", "SpliceReport", "SpliceSpec", "divide", "prepare_splice"]

_LOG = logging.getLogger(__name__)
_SCHEMA = (
    Column("sequence", "text"),
    Column("label", "text"),
    Column("contig", "text"),
    Column("start", "int64"),
    Column("end", "int64"),
    Column("strand", "text"),
)


@dataclass(frozen=True, slots=True)
class Division:
    """How windows become training, validation and test rows."""

    test_regions: tuple[Interval, ...] = ()
    """Test windows lie wholly inside one, training and validation windows wholly outside all; others are dropped."""
    exclude: tuple[Interval, ...] = ()
    """Training and validation windows that overlap one of these are dropped."""
    valid_fraction: float = 0.1
    """Share of validation windows among those outside; 0 makes none."""
    valid_block_bp: int = 1_000_000
    """Validation windows are whole blocks of this length; windows across a border of the two sides are dropped."""
    max_train_per_class: int | None = None
    """Larger classes are thinned at random."""
    max_eval_per_class: int | None = None
    """The same for validation and test."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SpliceReport:
    """What was made, and what was left out and why."""

    rows: Mapping[str, Mapping[str, int]]
    """Split -> class -> windows."""
    dropped: Mapping[str, int]
    """Reason -> windows."""
    dinucleotides: Mapping[str, Mapping[str, float]]
    """"donor" and "acceptor" -> first or last two intron bases -> share, those above 0.1 %."""
    contigs_without_sequence: tuple[str, ...] = field(default=())
    """Contigs of the annotation that the genome does not have."""


def prepare_splice(
    genome: FilePath,
    gtf: FilePath,
    out: FilePath,
    *,
    spec: SpliceSpec | None = None,
    test_regions: Sequence[Interval | str] = (),
    exclude: FilePath | None = None,
    exclude_species: str | None = None,
    valid_fraction: float = 0.1,
    valid_block_bp: int = 1_000_000,
    max_train_per_class: int | None = None,
    max_eval_per_class: int | None = None,
    format: TableFormat = "parquet",
    overwrite: bool = False,
) -> SpliceReport:
    """Writes the folder `out` with train, valid and test tables and `dataset.json`.

    Tables have the columns sequence (in transcript direction), label (acceptor, donor, neither), contig, start, end
    (0-based, end exclusive) and strand. See `data.splice` for what the windows are, `Division` for the splits. No
    sequence occurs twice, on whichever strand: of those in several splits the one in the test set is kept, or else
    the one in the validation set.

    Args:
        genome: FASTA file.
        gtf: exons, GTF or GFF3.
        test_regions: text counts from 1 and includes its end: "20:1000001-11000000".
        exclude: list of places that no training may see; see `read_held_out`.
        exclude_species: rows of that list to use.

    Raises:
        InputError: annotation and genome do not fit together, or nothing is left of a split.
    """
    spec = spec or SpliceSpec()
    opened = Genome(genome)
    held_out = () if exclude is None else tuple(read_held_out(exclude, opened.contigs, species=exclude_species))
    division = Division(
        test_regions=tuple(_region(region, opened) for region in test_regions),
        exclude=held_out,
        valid_fraction=valid_fraction,
        valid_block_bp=valid_block_bp,
        max_train_per_class=max_train_per_class,
        max_eval_per_class=max_eval_per_class,
        seed=spec.seed,
    )
    exons, elsewhere = read_exons(gtf, opened)
    if elsewhere:
        _LOG.warning("%s: %d contigs are not in %s and are left out", gtf, len(elsewhere), genome)
    windows, dropped = splice_windows(opened.fetch, exons, spec)
    splits, more_dropped = divide(windows, division, opened.contigs)
    report = SpliceReport(
        {name: _class_counts(windows.label[rows]) for name, rows in splits.items()},
        {**dropped, **more_dropped},
        _dinucleotides(windows),
        elsewhere,
    )
    inputs = [Path(genome), Path(gtf), *([] if exclude is None else [Path(exclude)])]
    options = {"spec": spec, "division": {**_division_options(division), "exclude_species": exclude_species}}
    record = provenance(inputs=inputs, options=options)
    with publish(out, overwrite=overwrite) as part:
        part.mkdir()
        for name, rows in splits.items():
            _write(part / f"{name}.{format}", windows.select(rows), record if format == "parquet" else {})
        write_manifest(part, MANIFEST, {"report": _plain(report), "provenance": record})
    return report


def _region(region: Interval | str, genome: Genome) -> Interval:
    parsed = Interval.parse(region) if isinstance(region, str) else region
    length_bp = int(genome.lengths_bp[genome.contig_id(parsed.contig)])
    if parsed.end > length_bp:
        raise InputError(f"test region {parsed}: past the end of {parsed.contig} ({length_bp:,} bp) in {genome.path}")
    return parsed


def divide(
    windows: SpliceWindows, division: Division, contigs: Sequence[str]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, int]]:
    """Row numbers of each split in order of position, and counts of the rows dropped on the way.

    Raises:
        InputError: a split that was asked for is empty.
    """
    every = np.arange(len(windows))
    dropped: dict[str, int] = {}
    test, outside = region_split(windows.contig.tolist(), windows.start, windows.end, division.test_regions)
    dropped["across a test region's border"] = len(every) - len(test) - len(outside)
    ids = {name: number for number, name in enumerate(contigs)}
    contig = np.array([ids[name] for name in windows.contig], dtype=np.int64)
    is_held_out = HeldOut(division.exclude, contigs).overlap(contig, windows.start, windows.end)
    free = outside[~is_held_out[outside]]
    dropped["excluded"] = len(outside) - len(free)
    if division.valid_fraction and len(free) > 1:
        places = contig[free], windows.start[free], windows.end[free]
        chosen = block_split(*places, division.seed, division.valid_fraction, division.valid_block_bp)
        valid, train = free[chosen[0]], free[chosen[1]]
    else:
        valid, train = free[:0], free
    dropped["across a validation block's border"] = len(free) - len(valid) - len(train)
    splits, repeats = _without_repeats(windows, {"test": test, "valid": valid, "train": train})
    wanted = {"train": True, "valid": division.valid_fraction > 0, "test": bool(division.test_regions)}
    thinned: dict[str, NDArray[np.int64]] = {}
    for number, name in enumerate(name for name, is_wanted in wanted.items() if is_wanted):
        rows = splits[name]
        if not len(rows):
            raise InputError(f"no window is left for the {name} split; check test regions, exclusions and block size")
        limit = division.max_train_per_class if name == "train" else division.max_eval_per_class
        thinned[name] = _thin(rows, windows.label, limit, np.random.default_rng((division.seed, number)))
    dropped.update(repeats)
    dropped["thinned"] = sum(len(splits[name]) - len(rows) for name, rows in thinned.items())
    return thinned, dropped


def _without_repeats(
    windows: SpliceWindows, splits: Mapping[str, NDArray[np.int64]]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, int]]:
    """(split -> rows, counts): of equal sequences only the first stays, in the order of the splits."""
    earlier: set[bytes] = set()
    counts = {"repeated in their split": 0, "that stand in an evaluation split": 0}
    kept = {}
    for name, rows in splits.items():
        keys = strandless_keys(windows.sequence[rows])
        is_leak = seen_in(keys, earlier)
        is_first = first_occurrence(keys) == np.arange(len(keys))
        counts["that stand in an evaluation split"] += int(is_leak.sum())
        counts["repeated in their split"] += int((~is_first & ~is_leak).sum())
        kept[name] = rows[is_first & ~is_leak]
        earlier.update(keys)
    return kept, counts


def _thin(
    rows: NDArray[np.int64], label: NDArray[np.int64], limit: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """At most `limit` random rows of each class, in their order."""
    if limit is None:
        return rows
    kept = [rng.permutation(rows[label[rows] == value])[:limit] for value in range(len(CLASSES))]
    return np.sort(np.concatenate(kept))


def _write(path: Path, windows: SpliceWindows, record: Mapping[str, Any]) -> None:
    with open_writer(path, _SCHEMA, metadata=record, num_rows=len(windows)) as writer:
        writer.write(
            np.arange(len(windows)),
            {
                "sequence": [row.tobytes().decode("ascii") for row in windows.sequence],
                "label": [CLASSES[label] for label in windows.label],
                "contig": windows.contig,
                "start": windows.start,
                "end": windows.end,
                "strand": ["-" if is_reverse else "+" for is_reverse in windows.is_reverse],
            },
        )


def _class_counts(label: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(CLASSES, np.bincount(label, minlength=len(CLASSES)).tolist(), strict=True))


def _dinucleotides(windows: SpliceWindows) -> dict[str, dict[str, float]]:
    middle = windows.sequence.shape[1] // 2
    shares = {}
    for name, columns in (("donor", slice(middle, middle + 2)), ("acceptor", slice(middle - 2, middle))):
        pairs = windows.sequence[windows.label == CLASSES.index(name), columns]
        found, counts = np.unique([pair.tobytes().decode("ascii") for pair in pairs], return_counts=True)
        ordered = sorted(zip((counts / max(len(pairs), 1)).tolist(), found.tolist(), strict=True), reverse=True)
        shares[name] = {pair: round(share, 4) for share, pair in ordered if share > 0.001}
    return shares


def _division_options(division: Division) -> dict[str, Any]:
    return {
        "test_regions": [str(region) for region in division.test_regions],
        "valid_fraction": division.valid_fraction,
        "valid_block_bp": division.valid_block_bp,
        "max_train_per_class": division.max_train_per_class,
        "max_eval_per_class": division.max_eval_per_class,
    }


def _plain(report: SpliceReport) -> dict[str, Any]:
    return {
        "rows": {name: dict(counts) for name, counts in report.rows.items()},
        "dropped": dict(report.dropped),
        "dinucleotides": {name: dict(shares) for name, shares in report.dinucleotides.items()},
        "contigs_without_sequence": list(report.contigs_without_sequence),
    }
