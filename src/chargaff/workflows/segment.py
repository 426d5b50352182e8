"""A genome read base by base: the probability of each element at each base, in pieces that survive an interruption."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.annotation import opposite_elements
from chargaff.data.tiling import Frame, Piece, blend_weights, find_places, merge_intervals, plan_pieces
from chargaff.data.windows import plan_batches
from chargaff.errors import ConfigError, InputError
from chargaff.families.protocol import Backbone, InputRule
from chargaff.hub.load import load
from chargaff.io.arrays import map_array, write_array
from chargaff.io.atomic import read_manifest, write_manifest
from chargaff.io.fasta import Genome
from chargaff.io.regions import read_regions
from chargaff.model import Model, autocast, evaluating
from chargaff.seq.alphabet import BASE_CODE, reverse_complement, translate, upper
from chargaff.seq.interval import Interval
from chargaff.seq.segments import segments_of
from chargaff.tasks.segmentation import element_logits
from chargaff.workflows.cost import Cost, Workload, estimate_inference
from chargaff.workflows.embed import BATCH_TOKENS
from chargaff.workflows.provenance import provenance

_LOG = logging.getLogger(__name__)

PARTS = ".pieces"
"""Folder of what has been computed, below the output folder, until all of it is there."""
PLAN = "plan.json"
SCAN_BP = 1 << 24

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """How a genome is read."""

    strands: Literal["forward", "both"] = "forward"
    """"both" also reads the other strand and averages; elements of one strand change places."""
    window_bp: int | None = None
    """Bases read at once; None: the checkpoint's context."""
    overlap_bp: int | None = None
    """Bases that neighbouring windows share, over which their answers are blended; None: a quarter of the answers."""
    min_unknown_bp: int = 100
    """Stretches without A, C, G, T of at least this length get no answer."""
    piece_bp: int = 1_000_000
    """Bases of a piece of work: what is computed again at most after an interruption, and kept in memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.strands not in ("forward", "both"):
            raise ConfigError(f"strands: expected forward or both, got {self.strands!r}")
        for name in ("window_bp", "min_unknown_bp", "piece_bp", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', '-')}: expected at least 1, got {value}")


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """A planned annotation of a genome."""

    model: Model
    genome: Genome
    intervals: tuple[Interval, ...]
    """What was asked for, disjoint."""
    unknown: Mapping[str, list[tuple[int, int]]]
    """Contig -> stretches without answer."""
    options: SegmentOptions
    frame: Frame
    overlap_bp: int
    parts: tuple[tuple[Piece, ...], ...]
    """Units of work; each holds one piece, or many small ones."""

    @property
    def elements(self) -> tuple[str, ...]:
        return self.model.spec.labels

    @property
    def opposite(self) -> list[int]:
        """For each element the one it becomes on the other strand."""
        return list(opposite_elements(self.elements))

    @property
    def answered_bp(self) -> int:
        return sum(piece.end - piece.start for part in self.parts for piece in part)

    @property
    def reads_twice(self) -> bool:
        return self.options.strands == "both" and self.model.spec.strands != "equivariant"

    def describe(self) -> str:
        """The plan in words."""
        windows = sum(len(piece.windows) for part in self.parts for piece in part)
        asked = sum(interval.end - interval.start for interval in self.intervals)
        left_out = asked - self.answered_bp
        return (
            f"{len(self.elements)} elements for {self.answered_bp:,} bp of {len(self.intervals):,} places; "
            f"{windows:,} windows of {self.frame.input_bp:,} bp, {self.overlap_bp:,} of them shared, "
            f"in {len(self.parts):,} parts"
            + (f"\n{left_out:,} bp in stretches of unknown bases get no answer" if left_out else "")
        )

    def cost(self) -> Cost:
        """Time and memory, from short runs of the model."""
        count = sum(len(piece.windows) for part in self.parts for piece in part) * (2 if self.reads_twice else 1)
        tokens = len(self.encode(np.full(self.frame.input_bp, ord("A"), np.uint8)))
        rows = max(1, self.batch_tokens // tokens)
        dtype = torch.bfloat16 if self.options.dtype == "bfloat16" else None
        return estimate_inference(self.model, [Workload(rows, tokens, count / rows)], dtype=dtype)

    @property
    def batch_tokens(self) -> int:
        kind = self.model.device.type
        return self.options.batch_tokens or BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"])

    def encode(self, bases: NDArray[np.uint8]) -> NDArray[Any]:
        """[T] ids of a window; models of longer tokens get their special tokens, which their head leaves out."""
        tokenizer = self.model.tokenizer
        return tokenizer.encode(bases, special=tokenizer.complement is None)

    def fingerprint(self) -> dict[str, Any]:
        """What a part that was computed before must agree in."""
        return {
            "model": self.model.spec.sha256 or self.model.spec.name,
            "elements": list(self.elements),
            "genome": self.genome.sha256,
            "intervals": [[item.contig, item.start, item.end] for item in self.intervals],
            "options": asdict(self.options),
            "parts": len(self.parts),
        }

    def provenance(self) -> dict[str, Any]:
        """What goes into the outputs."""
        return provenance(self.model, inputs=[self.genome.path], options=asdict(self.options))


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
    intervals = _intervals(opened, regions)
    unknown = _unknown(opened, intervals, options.min_unknown_bp)
    rule = cast(Backbone, loaded.backbone).rule
    frame = _frame(loaded, options)
    places = find_places(
        intervals, dict(opened.lengths), unknown, crosses_unknown=rule.n_bases != "forbidden" or frame.is_fixed
    )
    if not places:
        raise InputError(f"{opened.path}: nothing but unknown bases in the {len(intervals):,} places to read")
    overlap_bp = frame.answered_bp // 4 if options.overlap_bp is None else options.overlap_bp
    pieces = plan_pieces(places, frame, overlap_bp=overlap_bp, piece_bp=options.piece_bp)
    return SegmentJob(
        loaded, opened, tuple(intervals), unknown, options, frame, overlap_bp, _parts(pieces, options.piece_bp)
    )


def _intervals(genome: Genome, regions: str | os.PathLike[str] | None) -> list[Interval]:
    if regions is None:
        return [Interval(name, 0, int(size)) for name, size in genome.lengths.items() if size]
    found = read_regions(regions)
    found.contig_ids(genome)
    return merge_intervals(list(found), genome.contigs)


def _unknown(genome: Genome, intervals: list[Interval], min_bp: int) -> dict[str, list[tuple[int, int]]]:
    """Contig -> long stretches, as far as it is read, that are none of A, C, G, T; contigs without are left out."""
    found: dict[str, list[tuple[int, int]]] = {}
    for item in intervals:
        places = found.setdefault(item.contig, [])
        for start in range(item.start, item.end, SCAN_BP):
            bases = genome.fetch(item.contig, start, min(start + SCAN_BP, item.end))
            for first, last in zip(*segments_of(translate(bases, BASE_CODE) == 4), strict=True):
                begin, end = start + int(first), start + int(last)
                if places and places[-1][1] == begin:
                    places[-1] = places[-1][0], end
                else:
                    places.append((begin, end))
    long = {name: [(start, end) for start, end in places if end - start >= min_bp] for name, places in found.items()}
    return {name: places for name, places in long.items() if places}


def _frame(model: Model, options: SegmentOptions) -> Frame:
    """What the model reads at once and where its answers lie."""
    rule, head = cast(Backbone, model.backbone).rule, cast(Any, model.head)
    is_by_base = model.tokenizer.complement is not None
    token_bp = 1 if is_by_base else int(model.tokenizer.token_bp.max())
    multiple_bp = token_bp * rule.multiple_of * getattr(head, "multiple_of", 1)
    window_bp = options.window_bp or rule.fixed_bp or model.spec.context_bp or 1024 * token_bp
    if rule.fixed_bp is not None and window_bp != rule.fixed_bp:
        raise ConfigError(f"window-bp: {model.spec.family} reads windows of {rule.fixed_bp:,} bp only")
    window_bp = max(window_bp // multiple_bp, 1) * multiple_bp
    if rule.max_tokens is not None and window_bp // token_bp + getattr(head, "num_special", 0) > rule.max_tokens:
        raise ConfigError(
            f"window-bp: {window_bp:,} bp are more than the {rule.max_tokens:,} tokens that {model.spec.family} takes"
        )
    if not hasattr(head, "grid"):
        return Frame(window_bp, multiple_bp=multiple_bp, is_fixed=rule.fixed_bp is not None)
    grid = head.grid(window_bp)
    # where N is a row of zeros, what lies beyond a contig is shown as N; all windows are as long as in training
    is_fixed = rule.fixed_bp is not None or rule.n_bases == "zero"
    return Frame(window_bp, grid.offset_bp, grid.size * grid.step_bp, multiple_bp, is_fixed)


def _parts(pieces: list[Piece], piece_bp: int) -> tuple[tuple[Piece, ...], ...]:
    """Small pieces together, so that many short contigs do not become as many files."""
    parts: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        size = piece.end - piece.start
        if size > room:
            parts.append([])
            room = piece_bp
        parts[-1].append(piece)
        room -= size
    return tuple(map(tuple, parts))


def run_segmenting(
    job: SegmentJob, folder: Path, *, on_progress: Callable[[int], None] = lambda bases: None
) -> Probabilities:
    """Computes what is not there yet; `folder/.pieces` holds what is.

    Raises:
        InputError: the folder holds pieces of another job, or cannot be written.
    """
    parts = folder / PARTS
    before = read_manifest(parts, PLAN)
    if before is not None and before != job.fingerprint():
        raise InputError(
            f"{folder}: holds the beginning of another run (other model, genome, places or options); delete {parts} or "
            "choose another folder"
        )
    parts.mkdir(parents=True, exist_ok=True)
    write_manifest(parts, PLAN, job.fingerprint())
    found = Probabilities(job, parts)
    for number, part in enumerate(job.parts):
        if not found.path(number).exists():
            write_array(found.path(number), np.concatenate(compute_part(job, part), axis=1).astype(np.float16))
        on_progress(sum(piece.end - piece.start for piece in part))
    return found


@dataclass(frozen=True, slots=True)
class Probabilities:
    """What has been computed, on disk, two bytes each (steps of 0.0005 and finer)."""

    job: SegmentJob
    folder: Path

    def path(self, part: int) -> Path:
        return self.folder / f"{part:07d}.npy"

    def element(self, number: int) -> Iterator[tuple[str, int, NDArray[np.float16]]]:
        """(contig, first base, probabilities) of an element, in the order of the genome; mapped, not read."""
        for index, part in enumerate(self.job.parts):
            values = map_array(self.path(index))
            offset = 0
            for piece in part:
                size = piece.end - piece.start
                yield piece.place.contig, piece.start, values[number, offset : offset + size]
                offset += size


def compute_part(job: SegmentJob, part: tuple[Piece, ...]) -> list[Floats]:
    """[elements, bases] probabilities of each piece, blended where windows overlap."""
    sums = [np.zeros((len(job.elements), piece.end - piece.start), np.float32) for piece in part]
    norms = [np.zeros(piece.end - piece.start, np.float32) for piece in part]
    windows = [(number, int(start)) for number, piece in enumerate(part) for start in piece.windows]
    rows = [_read(job, part[number], start) for number, start in windows]
    lengths = [len(job.encode(row)) for row in rows]
    for batch in plan_batches(lengths, InputRule(padding="never"), job.batch_tokens):  # heads look around: no padding
        answers = _answers(job, [rows[window] for window in batch])
        for values, window in zip(answers, batch.tolist(), strict=True):
            number, start = windows[window]
            piece = part[number]
            weight = blend_weights(piece.answered_bp, job.overlap_bp)
            first, last = max(start, piece.start), min(start + piece.answered_bp, piece.end)
            here, there = slice(first - start, last - start), slice(first - piece.start, last - piece.start)
            sums[number][:, there] += (values[here] * weight[here, None]).T
            norms[number][there] += weight[here]
    return [total / norm for total, norm in zip(sums, norms, strict=True)]


@torch.inference_mode()
def _answers(job: SegmentJob, rows: list[NDArray[np.uint8]]) -> Floats:
    """[B, L, elements] probabilities of windows of equal length."""
    dtype = torch.bfloat16 if job.options.dtype == "bfloat16" else None
    with evaluating(job.model), autocast(job.model.device, dtype):
        found = _probabilities(job, rows)
        if job.reads_twice:
            other = _probabilities(job, [reverse_complement(row) for row in rows])
            found = (found + other.flip(1)[..., job.opposite]) / 2
    answers: Floats = found.cpu().numpy()
    return answers


def _probabilities(job: SegmentJob, rows: list[NDArray[np.uint8]]) -> Tensor:
    tokens = torch.from_numpy(np.stack([job.encode(row) for row in rows])).to(job.model.device)
    logits: Tensor | None = job.model(tokens).logits
    assert logits is not None
    return element_logits(logits).sigmoid()


def _read(job: SegmentJob, piece: Piece, start: int) -> NDArray[np.uint8]:
    """The bases of the window whose answers begin at `start`; what may not be read, or lies outside, is filled."""
    place, frame = piece.place, job.frame
    size = frame.input_bp if frame.is_fixed else piece.answered_bp
    begin = start - frame.output_offset_bp
    low, high = max(begin, place.low), min(begin + size, place.high)
    takes_n = cast(Backbone, job.model.backbone).rule.n_bases != "forbidden"
    fill = ord("N") if takes_n else ord("A")
    bases = np.full(size, fill, np.uint8)
    bases[low - begin : high - begin] = upper(job.genome.fetch(place.contig, low, high))
    if not takes_n:
        bases[translate(bases, BASE_CODE) == 4] = fill
    return bases
