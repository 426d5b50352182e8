"""A genome read window by window, in pieces that survive an interruption: what `segment` and `tracks` share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.tiling import Frame, Piece, blend_weights, merge_intervals
from chargaff.data.windows import plan_batches
from chargaff.errors import ConfigError, InputError
from chargaff.families.protocol import Backbone, InputRule
from chargaff.io.arrays import map_array, write_array
from chargaff.io.atomic import claim, read_manifest, write_manifest
from chargaff.io.fasta import Genome
from chargaff.io.regions import Regions
from chargaff.model import Model
from chargaff.seq.alphabet import BASE_CODE, translate, upper
from chargaff.seq.interval import Interval
from chargaff.seq.segments import segments_of
from chargaff.workflows.cost import Cost, Workload, estimate_inference
from chargaff.workflows.embed import BATCH_TOKENS
from chargaff.workflows.provenance import provenance

PARTS = ".pieces"
"""Folder of what has been computed, below the output folder, until all of it is there."""
PLAN = "plan.json"
SCAN_BP = 1 << 24

Floats = NDArray[np.float32]
Answer = Callable[[list[NDArray[np.uint8]]], Floats]
"""Windows of equal length -> [B, steps, outputs]."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a genome is read."""

    strands: Literal["forward", "both"] = "forward"
    """"both" also reads the other strand and averages; outputs of one strand change places."""
    window_bp: int | None = None
    """Bases read at once; None: the checkpoint's context."""
    min_unknown_bp: int = 100
    """Stretches without A, C, G, T of at least this length count as unknown."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.strands not in ("forward", "both"):
            raise ConfigError(f"strands: expected forward or both, got {self.strands!r}")
        for name in ("window_bp", "min_unknown_bp", "piece_bp", "part_windows", "batch_tokens"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', '-')}: expected at least 1, got {value}")


@dataclass(frozen=True, slots=True)
class GenomeJob:
    """Windows planned over a genome."""

    model: Model
    genome: Genome
    intervals: tuple[Interval, ...]
    """What was asked for, disjoint."""
    unknown: Mapping[str, list[tuple[int, int]]]
    """Contig -> stretches of unknown bases."""
    options: ReadOptions
    frame: Frame
    overlap_bp: int
    parts: tuple[tuple[Piece, ...], ...]
    """Units of work; each holds one piece, or many small ones."""
    outputs: tuple[str, ...]
    """Names of what each step gets a value for."""

    @property
    def asked_bp(self) -> int:
        return sum(interval.end - interval.start for interval in self.intervals)

    @property
    def answered_bp(self) -> int:
        return sum(piece.end - piece.start for part in self.parts for piece in part)

    @property
    def num_windows(self) -> int:
        return sum(len(piece.windows) for part in self.parts for piece in part)

    @property
    def reads_twice(self) -> bool:
        return self.options.strands == "both" and self.model.spec.strands != "equivariant"

    @property
    def batch_tokens(self) -> int:
        kind = self.model.device.type
        return self.options.batch_tokens or BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"])

    @property
    def dtype(self) -> torch.dtype | None:
        """For `autocast`."""
        return torch.bfloat16 if self.options.dtype == "bfloat16" else None

    def cost(self) -> Cost:
        """Time and memory, from short runs of the model."""
        count = self.num_windows * (2 if self.reads_twice else 1)
        tokens = len(self.encode(np.full(self.frame.input_bp, ord("A"), np.uint8)))
        rows = max(1, self.batch_tokens // tokens)
        return estimate_inference(self.model, [Workload(rows, tokens, count / rows)], dtype=self.dtype)

    def encode(self, bases: NDArray[np.uint8]) -> NDArray[Any]:
        """[T] ids of a window; models of longer tokens get their special tokens, which their head leaves out."""
        tokenizer = self.model.tokenizer
        return tokenizer.encode(bases, special=tokenizer.complement is None)

    def tokens(self, rows: Sequence[NDArray[np.uint8]]) -> Tensor:
        """[B, T] on the model's device."""
        return torch.from_numpy(np.stack([self.encode(row) for row in rows])).to(self.model.device)

    def fingerprint(self) -> dict[str, Any]:
        """What a part that was computed before must agree in."""
        return {
            "model": self.model.spec.sha256 or self.model.spec.name,
            "outputs": list(self.outputs),
            "genome": self.genome.sha256,
            "intervals": [[item.contig, item.start, item.end] for item in self.intervals],
            "options": asdict(self.options),
            "parts": len(self.parts),
        }

    def provenance(self) -> dict[str, Any]:
        """What goes into the outputs."""
        return provenance(self.model, inputs=[self.genome.path], options=asdict(self.options))


def find_intervals(genome: Genome, regions: Regions | None) -> list[Interval]:
    """The places of a file, disjoint; None: all contigs.

    Raises:
        InputError: a place lies outside of its contig.
    """
    if regions is None:
        return [Interval(name, 0, int(size)) for name, size in genome.lengths.items() if size]
    regions.contig_ids(genome)
    return merge_intervals(list(regions), genome.contigs)


def find_unknown(genome: Genome, intervals: Sequence[Interval], min_bp: int) -> dict[str, list[tuple[int, int]]]:
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


def answer_part(job: GenomeJob, part: Sequence[Piece], answer: Answer) -> list[Floats]:
    """[outputs, steps] of each piece, blended where windows overlap."""
    frame, step = job.frame, job.frame.step_bp
    sums = [np.zeros((len(job.outputs), frame.steps(piece.end - piece.start)), np.float32) for piece in part]
    norms = [np.zeros(total.shape[1], np.float32) for total in sums]
    windows = [(number, int(start)) for number, piece in enumerate(part) for start in piece.windows]
    rows = [_read(job, part[number], start) for number, start in windows]
    lengths = [len(job.encode(row)) for row in rows]
    for batch in plan_batches(lengths, InputRule(padding="never"), job.batch_tokens):  # heads look around: no padding
        for values, window in zip(answer([rows[window] for window in batch]), batch.tolist(), strict=True):
            number, start = windows[window]
            piece = part[number]
            weight = blend_weights(frame.steps(piece.answered_bp), job.overlap_bp // step)
            first, last = max(start, piece.start), min(start + piece.answered_bp, piece.end)
            here, there = (slice((first - at) // step, frame.steps(last - at)) for at in (start, piece.start))
            sums[number][:, there] += (values[here] * weight[here, None]).T
            norms[number][there] += weight[here]
    for total, norm in zip(sums, norms, strict=True):
        total /= norm
    return sums


def _read(job: GenomeJob, piece: Piece, start: int) -> NDArray[np.uint8]:
    """The bases of the window whose answers begin at `start`; what may not be read, or lies outside, is filled."""
    place, frame = piece.place, job.frame
    size = frame.input_bp if frame.is_fixed else piece.answered_bp
    begin = start - frame.output_offset_bp
    bases = np.full(size, ord(getattr(job.model.head, "outside", "N")), np.uint8)
    bases[max(-begin, 0) : max(int(job.genome.lengths[place.contig]) - begin, 0)] = ord("N")
    low, high = max(begin, place.low), min(begin + size, place.high)
    if low < high:
        bases[low - begin : high - begin] = upper(job.genome.fetch(place.contig, low, high))
    if cast(Backbone, job.model.backbone).rule.n_bases == "forbidden":
        bases[translate(bases, BASE_CODE) == 4] = ord("A")
    return bases


@dataclass(frozen=True, slots=True)
class Answers:
    """What has been computed, on disk."""

    job: GenomeJob
    folder: Path

    def path(self, part: int) -> Path:
        return self.folder / f"{part:07d}.npy"

    def part(self, number: int) -> Iterator[tuple[Piece, NDArray[Any]]]:
        """The pieces of a part with their [outputs, steps]; mapped, not read."""
        values, offset = map_array(self.path(number)), 0
        for piece in self.job.parts[number]:
            end = offset + self.job.frame.steps(piece.end - piece.start)
            yield piece, values[:, offset:end]
            offset = end

    def output(self, number: int) -> Iterator[tuple[str, int, NDArray[Any]]]:
        """(contig, first base, [steps] values) of an output, in the order of the genome; mapped, not read."""
        for index in range(len(self.job.parts)):
            for piece, values in self.part(index):
                yield piece.place.contig, piece.start, values[number]

    def bases(self, place: Interval, outputs: Sequence[int]) -> Floats:
        """[outputs, L] of each base of a place; NaN where there is no answer."""
        found = np.full((len(outputs), place.end - place.start), np.nan, np.float32)
        for index, part in enumerate(self.job.parts):
            if not any(_overlaps(place, piece) for piece in part):
                continue
            for piece, values in self.part(index):
                if _overlaps(place, piece):
                    begin, end = max(piece.start, place.start), min(piece.end, place.end)
                    rows = np.repeat(values[list(outputs)], self.job.frame.step_bp, axis=1)
                    found[:, begin - place.start : end - place.start] = rows[:, begin - piece.start : end - piece.start]
        return found


def _overlaps(place: Interval, piece: Piece) -> bool:
    return piece.place.contig == place.contig and piece.start < place.end and piece.end > place.start


def check_folder(folder: Path, manifest: str, verb: str, *, overwrite: bool) -> None:
    """Raises InputError where the folder holds something else, or a finished run that may not be overwritten."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; {verb} writes a folder")
    is_finished, is_begun = (folder / manifest).exists(), (folder / PARTS).is_dir()
    if is_finished and not overwrite:
        raise InputError(f"{folder}: holds a finished run; choose another folder or allow overwriting (--overwrite)")
    if not (is_finished or is_begun) and any(folder.iterdir()):
        raise InputError(f"{folder}: holds files that are not of {verb}; choose another folder")


def answers_to_folder(
    folder: Path, manifest: str, run: Callable[[], Answers], write: Callable[[Answers], dict[str, Any]]
) -> dict[str, Any]:
    """Has the answers computed and written; the manifest, last, is what `write` returned. Both may be called again
    after an interruption."""
    with claim(folder):
        (folder / manifest).unlink(missing_ok=True)
        found = run()
        record = write(found)
        write_manifest(folder, manifest, record)
        shutil.rmtree(folder / PARTS)
    return record


def run_parts(
    job: GenomeJob,
    folder: Path,
    compute: Callable[[tuple[Piece, ...]], list[Floats]],
    *,
    dtype: type[np.floating[Any]],
    on_progress: Callable[[int], None] = lambda bases: None,
) -> Answers:
    """Computes what is not there yet; `folder/.pieces` holds what is, as `dtype`.

    Raises:
        InputError: the folder holds pieces of another job, or cannot be written.
    """
    parts = folder / PARTS
    plan = json.loads(json.dumps(job.fingerprint()))
    before = read_manifest(parts, PLAN)
    if before is not None and before != plan:
        raise InputError(
            f"{folder}: holds the beginning of another run (other model, genome, places or options); delete {parts} or "
            "choose another folder"
        )
    parts.mkdir(parents=True, exist_ok=True)
    write_manifest(parts, PLAN, plan)
    found = Answers(job, parts)
    for number, part in enumerate(job.parts):
        if not found.path(number).exists():
            write_array(found.path(number), np.concatenate([values.astype(dtype) for values in compute(part)], axis=1))
        on_progress(sum(piece.end - piece.start for piece in part))
    return found
