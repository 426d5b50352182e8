"""Answers for single bases, counted: the probabilities inside and outside of each element, block by block."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.data.annotated import AnnotatedWindows
from chargaff.data.batch import NOT_LABELLED
from chargaff.tasks.segmentation import BINS, best_step, count_scores
from chargaff.train.runs import load_finetune_run
from chargaff.workflows.finetune_segmentation import SegmentationRun, Segmenting, open_segmenting

BLOCK_BP = 50_000
"""What the bootstrap draws."""
REPEATS = 1000
SHOWN = ("mcc", "auprc", "f1")


@dataclass(frozen=True, slots=True)
class Tally:
    """Everything that scores are made of. Probabilities are kept in steps of 1/1024, as `elements.parquet` does."""

    elements: tuple[str, ...]
    counts: NDArray[np.int64]
    """[blocks, elements, 2 (outside, inside), BINS]"""
    blocks: tuple[str, ...]
    """Contig and number of each block of `BLOCK_BP`."""

    def scores(self, thresholds: Mapping[str, float] | None = None) -> dict[str, dict[str, float]]:
        """Element -> scores, at probability 0.5 or the element's own threshold."""
        total = self.counts.sum(0).astype(np.float64)
        return {
            name: count_scores(total[number, 1], total[number, 0], (thresholds or {}).get(name, 0.5))
            for number, name in enumerate(self.elements)
        }

    def best_thresholds(self) -> dict[str, float]:
        """Element -> probability with the highest MCC, a whole step; 0.5 for an element that is nowhere."""
        total = self.counts.sum(0)
        return {name: best_step(*total[number, ::-1])[0] / BINS for number, name in enumerate(self.elements)}

    def save(self, path: Path) -> None:
        np.savez_compressed(path, elements=self.elements, counts=self.counts.astype(np.int32), blocks=self.blocks)

    @classmethod
    def read(cls, path: Path) -> Tally:
        with np.load(path) as file:
            elements, blocks = file["elements"].tolist(), file["blocks"].tolist()
            return cls(tuple(elements), file["counts"].astype(np.int64), tuple(blocks))


def open_run(path: Path) -> Segmenting:
    """The data of a run file that trains an annotator and sets test windows aside."""
    run = load_finetune_run(path)
    if not isinstance(run, SegmentationRun):
        sys.exit(f"{path}: trains no annotator (task.kind is not segmentation)")
    ready = open_segmenting(run)
    if ready.test is None:
        sys.exit(f"{path}: sets no test windows aside")
    return ready


def count_answers(source: AnnotatedWindows, answers: Iterable[tuple[Sequence[int], NDArray[np.float32]]]) -> Tally:
    """Counts of a source's windows, from (rows, probabilities [rows, window_bp, elements]) in any order."""
    elements, names = source.annotation.elements, source.windows.genome.contigs
    contig, start, end = spans_of(source)
    last = end - 1
    spans = zip(contig.tolist(), (start // BLOCK_BP).tolist(), (last // BLOCK_BP).tolist(), strict=True)
    keys = sorted({(number, block) for number, low, high in spans for block in range(low, high + 1)})
    blocks = {key: row for row, key in enumerate(keys)}
    counts = np.zeros((len(blocks), len(elements), 2, BINS), np.int64)
    for rows, probability in answers:
        for row, example, values in zip(rows, source.__getitems__(rows), probability, strict=True):
            target = np.asarray(example.target)
            known = target[:, 0] != NOT_LABELLED
            place = start[row] + np.arange(int(known.sum()))
            cuts = np.flatnonzero(place[1:] % BLOCK_BP == 0) + 1
            parts = (np.split(array, cuts) for array in (place, values[known], target[known]))
            for here, answer, truth in zip(*parts, strict=True):
                counts[blocks[int(contig[row]), int(here[0]) // BLOCK_BP]] += histogram(answer, truth)
    return Tally(elements, counts, tuple(f"{names[c]}:{number}" for c, number in blocks))


def spans_of(source: AnnotatedWindows) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number of the contig, start and end of each window, without what is past the contig."""
    contig, start = source.windows.places(np.arange(len(source)))
    return contig, start, np.minimum(start + source.windows.window_bp, source.windows.genome.lengths_bp[contig])


def histogram(probability: NDArray[np.float32], target: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[elements, 2, BINS] from [L, elements] each."""
    step = (probability * np.float32(BINS)).astype(np.int64).clip(0, BINS - 1)
    cell = step + BINS * (target == 1) + 2 * BINS * np.arange(target.shape[1])
    return np.bincount(cell.ravel(), minlength=2 * BINS * target.shape[1]).reshape(-1, 2, BINS)


def differences(
    ours: Tally, other: Tally, our_thresholds: Mapping[str, float], other_thresholds: Mapping[str, float]
) -> dict[str, dict[str, dict[str, float]]]:
    """Element -> mcc, auprc -> ours minus other with a 95 % interval, drawing whole blocks.

    Both must have been counted on the same windows.
    """
    if ours.blocks != other.blocks or not np.array_equal(ours.counts.sum((2, 3)), other.counts.sum((2, 3))):
        raise SystemExit("the two were not judged on the same bases")
    rng, found = np.random.default_rng(0), {}
    drawn = np.stack([np.bincount(rows, minlength=len(ours.blocks)) for rows in _draws(rng, len(ours.blocks))])
    for name in ours.elements:
        a, b = (_replicates(tally, name, drawn, at[name]) for tally, at in
                ((ours, our_thresholds), (other, other_thresholds)))  # fmt: skip
        found[name] = {}
        for score in ("mcc", "auprc"):
            apart = a[score] - b[score]
            low, high = np.nanquantile(apart[1:], [0.025, 0.975])
            found[name][score] = {"difference": float(apart[0]), "low": float(low), "high": float(high)}
    return found


def _draws(rng: np.random.Generator, blocks: int) -> Iterator[NDArray[np.int64]]:
    """All blocks once, then the replicates."""
    yield np.arange(blocks)
    for _ in range(REPEATS):
        yield rng.integers(0, blocks, blocks)


def _replicates(tally: Tally, name: str, drawn: NDArray[np.int64], threshold: float) -> dict[str, NDArray[Any]]:
    """Score -> its value in each replicate."""
    counts = tally.counts[:, tally.elements.index(name)].astype(np.float64)
    summed = np.einsum("rb,bsp->rsp", drawn.astype(np.float64), counts, optimize=True)
    rows = [count_scores(inside, outside, threshold) for outside, inside in summed]
    return {score: np.array([row[score] for row in rows]) for score in ("mcc", "auprc")}


def rounded(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Element -> the scores worth printing."""
    return {name: {score: round(row[score], 4) for score in SHOWN} for name, row in table.items()}
