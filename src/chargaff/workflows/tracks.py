"""Tracks that a model predicts along a genome: a value for each bin of any region."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.tiling import Frame, Piece, Place, group_pieces, plan_pieces
from chargaff.errors import ConfigError, InputError
from chargaff.hub.load import load
from chargaff.io.fasta import Genome
from chargaff.io.regions import Regions, read_regions
from chargaff.model import Model, autocast, evaluating
from chargaff.seq.alphabet import reverse_complement
from chargaff.seq.interval import Interval
from chargaff.tasks.tracks import undo_squash
from chargaff.workflows.frames import find_frame
from chargaff.workflows.genome_job import (
    Answers,
    Floats,
    GenomeJob,
    ReadOptions,
    answer_part,
    find_intervals,
    find_unknown,
    run_parts,
)
from chargaff.workflows.provenance import provenance
from chargaff.workflows.tracks_targets import Target, choose_targets, read_targets

PART_BYTES = 1 << 28
"""Values of a part, at most."""
PART_READ_BP = 4_000_000
"""Bases read for a part: what is computed again at most after an interruption."""


@dataclass(frozen=True, slots=True)
class TrackOptions(ReadOptions):
    """What is predicted, and how a genome is read for it."""

    head: str | None = None
    """Set of tracks ("human", "mouse"); None: the model's first."""
    targets: tuple[str, ...] = ()
    """Which of its tracks: see `choose_targets`."""
    units: Literal["model", "coverage"] = "model"
    """"coverage" undoes the scaling of the training data, as the table of targets describes it."""
    part_windows: int | None = None
    """Windows of a unit of work; None: as many as PART_READ_BP and PART_BYTES allow."""

    def __post_init__(self) -> None:
        ReadOptions.__post_init__(self)
        if self.units not in ("model", "coverage"):
            raise ConfigError(f"units: expected model or coverage, got {self.units!r}")


@dataclass(frozen=True, slots=True)
class TrackJob(GenomeJob):
    """Planned tracks of a genome."""

    options: TrackOptions
    head: str
    """Set of tracks."""
    targets: tuple[Target, ...]
    regions: tuple[tuple[str, Interval], ...]
    """(name, place) of what was asked for, as it was asked for: they may overlap."""
    targets_file: str | None

    @property
    def units(self) -> str:
        """Of the values."""
        scale = "coverage" if self.options.units == "coverage" else "model output"
        return f"{scale} per {self.frame.step_bp} bp"

    def describe(self) -> str:
        """The plan in words."""
        steps = sum(self.frame.steps(piece.end - piece.start) for part in self.parts for piece in part)
        left_out = self.asked_bp - self.answered_bp
        return (
            f"{len(self.targets):,} tracks of {self.head} for {self.answered_bp:,} bp of {len(self.intervals):,} "
            f"places, in bins of {self.frame.step_bp} bp; {self.num_windows:,} windows of {self.frame.input_bp:,} bp, "
            f"the middle {self.frame.answered_bp:,} of which have values; {len(self.parts):,} parts, "
            f"{steps * len(self.targets) * 4 / 1e9:,.3f} GB of values"
            + (f"\n{left_out:,} bp in windows of unknown bases get no value" if left_out else "")
        )

    def fingerprint(self) -> dict[str, Any]:
        """What a part that was computed before must agree in."""
        return {**GenomeJob.fingerprint(self), "head": self.head, "targets": [asdict(item) for item in self.targets]}

    def provenance(self) -> dict[str, Any]:
        """What goes into the outputs."""
        inputs = [str(self.genome.path), *([self.targets_file] if self.targets_file else [])]
        return provenance(self.model, inputs=inputs, options={**asdict(self.options), "head": self.head})


def plan_tracks(
    model: Model | str | Path,
    genome: str | os.PathLike[str],
    options: TrackOptions | None = None,
    *,
    regions: str | os.PathLike[str] | None = None,
    targets_file: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> TrackJob:
    """Opens model, genome and the table of targets, and plans the windows.

    Bins begin with the first base of a region; the last one may reach beyond its end, but not beyond the contig.
    Regions that share bases are read as one. Windows lie side by side around a region, and each bin has its value from
    one of them. Windows whose bins hold nothing but unknown bases are left out.

    Args:
        genome: FASTA file.
        regions: BED, GFF or table of the places to read; None: all contigs.
        targets_file: table of the set's tracks, see `read_targets`.

    Raises:
        ConfigError: the model has no tracks, or an option does not fit it.
        InputError: a file is malformed, a place lies outside of its contig, or nothing but unknown bases is left.
    """
    options = options or TrackOptions()
    loaded = model if isinstance(model, Model) else load(model, device=device)
    if loaded.spec.head != "tracks":
        name = loaded.spec.name or loaded.spec.family
        raise ConfigError(
            f"tracks needs a model that predicts tracks (Enformer, Borzoi, Flashzoi); the head of {name} is "
            f"{loaded.spec.head!r}"
        )
    head, targets = _targets(loaded, options, targets_file)
    opened = Genome(genome)
    frame = find_frame(loaded, options.window_bp)
    assert frame.input_bp == 2 * frame.output_offset_bp + frame.answered_bp, "bins lie in the middle, on either strand"
    known = None if regions is None else read_regions(regions)
    asked = find_intervals(opened, known)
    intervals = _whole_bins(asked, frame, opened)
    unknown = find_unknown(opened, intervals, options.min_unknown_bp)
    places = [Place(item.contig, item.start, item.end, 0, int(opened.lengths[item.contig])) for item in intervals]
    pieces = plan_pieces(places, frame, overlap_bp=0, piece_bp=frame.answered_bp)  # a window each
    pieces = [piece for piece in pieces if not _is_unknown(piece, unknown.get(piece.place.contig, []))]
    if not pieces:
        raise InputError(f"{opened.path}: nothing but unknown bases in the {len(intervals):,} places to read")
    return TrackJob(
        loaded,
        opened,
        tuple(intervals),
        unknown,
        options,
        frame,
        0,
        group_pieces(pieces, frame, read_bp=_part_windows(options, frame, len(targets)) * frame.input_bp),
        tuple(target.label for target in targets),
        head,
        targets,
        _regions(asked, known),
        None if targets_file is None else os.fspath(targets_file),
    )


def _targets(
    model: Model, options: TrackOptions, targets_file: str | os.PathLike[str] | None
) -> tuple[str, tuple[Target, ...]]:
    """The set of tracks, and those of it that were asked for."""
    head = cast(Any, model.head)
    name = options.head or next(iter(head.slices))
    if name not in head.slices:
        raise ConfigError(f"head: expected {' or '.join(head.slices)}, got {name!r}")
    num_tracks = head.slices[name].stop - head.slices[name].start
    known = None if targets_file is None else read_targets(targets_file, num_tracks)
    targets = choose_targets(options.targets, known, num_tracks, name)
    if options.strands == "both" and head.has_strand_pairs:
        alone = [target for target in targets if target.pair is None]
        if alone:
            raise ConfigError(
                f"strands: which track is the other strand of track {alone[0].number} is not known; give the published "
                "table, with its column strand_pair, as --targets-file"
            )
    if options.units == "coverage":
        unscaled = [target for target in targets if target.squash is None]
        if unscaled:
            raise ConfigError(
                f"units: how track {unscaled[0].number} was scaled is not known; give a table with the columns scale, "
                "clip_soft and sum_stat as --targets-file"
            )
    return name, targets


def _whole_bins(intervals: Sequence[Interval], frame: Frame, genome: Genome) -> list[Interval]:
    """Widened to whole bins, up to the contig's end; those that touch then are one."""
    found: list[Interval] = []
    for item in intervals:
        joins = bool(found) and found[-1].contig == item.contig and item.start <= found[-1].end
        start = found.pop().start if joins else item.start
        end = start + frame.steps(item.end - start) * frame.step_bp
        found.append(Interval(item.contig, start, min(end, int(genome.lengths[item.contig]))))
    return found


def _is_unknown(piece: Piece, stretches: Sequence[tuple[int, int]]) -> bool:
    """Whether one of the ascending stretches holds all of the piece."""
    last = bisect_right(stretches, (piece.start, piece.end)) - 1
    around = stretches[max(last, 0) : last + 2]
    return any(start <= piece.start and piece.end <= end for start, end in around)


def _part_windows(options: TrackOptions, frame: Frame, num_targets: int) -> int:
    """Windows of a unit of work."""
    if options.part_windows is not None:
        return options.part_windows
    window_bytes = frame.steps(frame.answered_bp) * num_targets * np.dtype(np.float32).itemsize
    return max(1, min(PART_READ_BP // frame.input_bp, PART_BYTES // window_bytes))


def _regions(asked: Sequence[Interval], known: Regions | None) -> tuple[tuple[str, Interval], ...]:
    """(name, place): the lines of the file, or the contigs."""
    if known is None:
        return tuple((item.contig, item) for item in asked)
    names = known.columns.get("name") or [""] * len(known)
    return tuple((str(name or ""), place) for name, place in zip(names, known, strict=True))


def run_tracks(job: TrackJob, folder: Path, *, on_progress: Callable[[int], None] = lambda bases: None) -> Answers:
    """Computes what is not there yet, in float32; errors as `run_parts`."""
    return run_parts(job, folder, lambda part: compute_part(job, part), dtype=np.float32, on_progress=on_progress)


def compute_part(job: TrackJob, part: tuple[Piece, ...]) -> list[Floats]:
    """[targets, bins] of each piece."""
    return answer_part(job, part, partial(_answer, job))


@torch.inference_mode()
def _answer(job: TrackJob, rows: list[NDArray[np.uint8]]) -> Floats:
    """[B, bins, targets] of windows."""
    numbers = [target.number for target in job.targets]
    with evaluating(job.model), autocast(job.model.device, job.dtype):
        found = _predict(job, rows, numbers)
        if job.reads_twice:
            pairs = [target.number if target.pair is None else target.pair for target in job.targets]
            other = _predict(job, [reverse_complement(row) for row in rows], pairs)
            found = (found + other.flip(1)) / 2
    if job.options.units == "coverage":
        facts = torch.tensor([target.squash for target in job.targets], device=found.device)
        found = undo_squash(found, *facts.unbind(1))
    answers: Floats = found.cpu().numpy()
    return answers


def _predict(job: TrackJob, rows: list[NDArray[np.uint8]], numbers: list[int]) -> Tensor:
    """[B, bins, tracks] of the tracks with these numbers."""
    head = cast(Any, job.model.head)
    place = head.slices[job.head]
    is_all = numbers == list(range(place.stop - place.start))
    tracks = slice(None) if is_all else torch.tensor(numbers, device=job.model.device)
    found: Tensor = head.predict(head.embed(job.model.encode(job.tokens(rows))), job.head, tracks)
    return found
