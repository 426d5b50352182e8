"""A genome read base by base: the probability of each element at each base."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.annotation import opposite_elements
from chargaff.data.tiling import Piece, find_places, group_pieces, plan_pieces
from chargaff.errors import ConfigError, InputError
from chargaff.families.protocol import Backbone
from chargaff.hub.load import load
from chargaff.io.fasta import Genome
from chargaff.io.regions import read_regions
from chargaff.model import Model, autocast, evaluating
from chargaff.seq.alphabet import reverse_complement
from chargaff.tasks.segmentation import element_logits
from chargaff.workflows.frames import find_frame
from chargaff.workflows.genome_job import (
    PARTS,
    Answers,
    Floats,
    GenomeJob,
    ReadOptions,
    answer_part,
    find_intervals,
    find_unknown,
    run_parts,
)

__all__ = ["PARTS", "SegmentJob", "SegmentOptions", "compute_part", "plan_segmenting", "run_segmenting"]

PIECE_WINDOWS, PIECE_BP = 32, (250_000, 1_000_000)
"""Pieces begin with a window that the one before has read in part: the fewer windows, the more is read twice."""


@dataclass(frozen=True, slots=True)
class SegmentOptions(ReadOptions):
    """How a genome is read; stretches of unknown bases get no answer."""

    overlap_bp: int | None = None
    """Bases that neighbouring windows share, over which their answers are blended; None: a quarter of the answers."""
    piece_bp: int | None = None
    """Bases of a piece of work: what is computed again at most after an interruption, and kept in memory; None: the
    answers of `PIECE_WINDOWS` windows, within `PIECE_BP`."""


@dataclass(frozen=True, slots=True)
class SegmentJob(GenomeJob):
    """A planned annotation of a genome."""

    options: SegmentOptions

    @property
    def elements(self) -> tuple[str, ...]:
        return self.outputs

    @property
    def opposite(self) -> list[int]:
        """For each element the one it becomes on the other strand."""
        return list(opposite_elements(self.elements))

    def describe(self) -> str:
        """The plan in words."""
        left_out = self.asked_bp - self.answered_bp
        return (
            f"{len(self.elements)} elements for {self.answered_bp:,} bp of {len(self.intervals):,} places; "
            f"{self.num_windows:,} windows of {self.frame.input_bp:,} bp, {self.overlap_bp:,} of them shared, "
            f"in {len(self.parts):,} parts"
            + (f"\n{left_out:,} bp in stretches of unknown bases get no answer" if left_out else "")
        )


def plan_segmenting(
    model: Model | str | Path,
    genome: str | os.PathLike[str],
    options: SegmentOptions | None = None,
    *,
    regions: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> SegmentJob:
    """Opens model and genome, finds the unknown bases, and plans the windows.

    Args:
        genome: FASTA file.
        regions: BED, GFF or table of the places to read; None: all contigs.

    Raises:
        ConfigError: the model says nothing about single bases, or an option does not fit it.
        InputError: the files are malformed, a place lies outside of its contig, or nothing but unknown bases is left.
    """
    options = options or SegmentOptions()
    loaded = model if isinstance(model, Model) else load(model, device=device)
    if loaded.spec.head not in ("token", "segmentation") or not loaded.spec.labels:
        name = loaded.spec.name or loaded.spec.family
        raise ConfigError(
            f"segment needs a model that labels bases; the head of {name} is {loaded.spec.head!r}: fine-tune one with "
            '`chargaff finetune` and task.kind = "segmentation"'
        )
    opened = Genome(genome)
    intervals = find_intervals(opened, None if regions is None else read_regions(regions))
    unknown = find_unknown(opened, intervals, options.min_unknown_bp)
    rule = cast(Backbone, loaded.backbone).rule
    frame = find_frame(loaded, options.window_bp)
    places = find_places(
        intervals, dict(opened.lengths), unknown, crosses_unknown=rule.n_bases != "forbidden" or frame.is_fixed
    )
    if not places:
        raise InputError(f"{opened.path}: nothing but unknown bases in the {len(intervals):,} places to read")
    overlap_bp = frame.answered_bp // 4 if options.overlap_bp is None else options.overlap_bp
    piece_bp = options.piece_bp or min(max(PIECE_WINDOWS * frame.answered_bp, PIECE_BP[0]), PIECE_BP[1])
    parts = group_pieces(plan_pieces(places, frame, overlap_bp=overlap_bp, piece_bp=piece_bp), frame, read_bp=piece_bp)
    return SegmentJob(
        loaded,
        opened,
        tuple(intervals),
        unknown,
        options,
        frame,
        overlap_bp,
        parts,
        loaded.spec.labels,
    )


def run_segmenting(
    job: SegmentJob, folder: Path, *, on_progress: Callable[[int], None] = lambda bases: None
) -> Answers:
    """Computes what is not there yet, two bytes a probability (steps of 0.0005 and finer); errors as `run_parts`."""
    return run_parts(job, folder, lambda part: compute_part(job, part), dtype=np.float16, on_progress=on_progress)


def compute_part(job: SegmentJob, part: tuple[Piece, ...]) -> list[Floats]:
    """[elements, bases] probabilities of each piece, blended where windows overlap."""
    return answer_part(job, part, partial(_answer, job))


@torch.inference_mode()
def _answer(job: SegmentJob, rows: list[NDArray[np.uint8]]) -> Floats:
    """[B, L, elements] probabilities of windows of equal length."""
    with evaluating(job.model), autocast(job.model.device, job.dtype):
        found = _probabilities(job, rows)
        if job.reads_twice:
            other = _probabilities(job, [reverse_complement(row) for row in rows])
            found = (found + other.flip(1)[..., job.opposite]) / 2
    answers: Floats = found.cpu().numpy()
    return answers


def _probabilities(job: SegmentJob, rows: list[NDArray[np.uint8]]) -> Tensor:
    logits: Tensor | None = job.model(job.tokens(rows)).logits
    assert logits is not None
    return element_logits(logits).sigmoid()
