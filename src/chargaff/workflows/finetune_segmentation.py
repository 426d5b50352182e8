"""Fine-tuning on annotations: which elements each base is in, judged once on test windows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from chargaff.data.annotated import AnnotatedWindows, focused
from chargaff.data.annotation import Annotation, opposite_elements, read_annotation
from chargaff.data.loader import Collate, EvalSteps, TokenRule, make_loader
from chargaff.data.sources import GenomeWindows, Partition, open_windows
from chargaff.errors import ConfigError
from chargaff.hub.load import load
from chargaff.hub.save import save
from chargaff.io.fasta import Genome
from chargaff.io.regions import read_bed
from chargaff.io.writers import Column, open_writer
from chargaff.model import Model
from chargaff.seq.interval import Interval
from chargaff.tasks.segmentation import BINS, SegmentationMetrics, SegmentationTask
from chargaff.train.config import TrainSpec, is_rising, stages_of
from chargaff.train.evaluate import evaluate
from chargaff.train.fit import fit, is_first_process, plan_steps
from chargaff.train.log import VALID, read_log
from chargaff.train.runs import AnnotationTable, SegmentationRun, load_finetune_run
from chargaff.workflows.cost import Cost
from chargaff.workflows.finetune import FinetuneResult
from chargaff.workflows.pretrain import step_cost
from chargaff.workflows.provenance import provenance
from chargaff.workflows.training import open_model, record_run, resumable

__all__ = ["SegmentationRun", "Segmenting", "load_finetune_run", "open_segmenting", "train_segmentation"]

log = logging.getLogger(__name__)

ELEMENTS, COUNTS = "elements.parquet", "counts.parquet"


@dataclass(frozen=True, slots=True)
class Segmenting:
    """A run whose data and model have been opened and checked."""

    run: SegmentationRun
    train: tuple[AnnotatedWindows, ...]
    """One per stage."""
    valid: AnnotatedWindows
    test: AnnotatedWindows | None
    model: Model
    """As the repetitions find it."""

    @property
    def elements(self) -> tuple[str, ...]:
        return self.valid.annotation.elements

    def describe(self) -> str:
        """The plan in words."""
        _, max_steps = plan_steps([len(source) for source in self.train], self.run.train)
        test = "no test windows" if self.test is None else f"{len(self.test):,} test windows"
        covered = self.valid.annotation.covered_bp().tolist()
        shown = ", ".join(f"{name} {bases:,} bp" for name, bases in zip(self.elements, covered, strict=True))
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{len(self.train[-1]):,} training windows of {self.train[-1].windows.window_bp:,} bp, {len(self.valid):,} "
            f"validation and {test}\n{len(self.elements)} elements: {shown}\n"
            f"{self.run.train.seeds} seeds of {max_steps:,} steps of {self.run.train.batch:,} windows; "
            f"{parameters:,} parameters without the head"
        )

    def cost(self) -> Cost:
        """Time and memory of all seeds, from short runs of the model; evaluation is not counted."""
        _, max_steps = plan_steps([len(source) for source in self.train], self.run.train)
        spec, longest = self.run.train, max(source.windows.window_bp for source in self.train)
        return step_cost(self.model, spec, spec.batch, spec.micro_batch, longest, max_steps * spec.seeds)


def open_segmenting(run: SegmentationRun) -> Segmenting:
    """Opens the data and the model; nothing is written.

    Raises:
        ConfigError, InputError, CheckpointError: whatever is wrong with the run, before any work is done.
    """
    data = run.data
    opposite_elements(data.elements)
    annotation = read_annotation(data.annotation, data.elements, Genome(data.fasta))
    lengths = [stage.length_bp or data.length_bp for stage in stages_of(run.train)]
    train = {length: _training_windows(data, length, annotation) for length in set(lengths)}
    length = data.test_length_bp or data.length_bp
    valid = AnnotatedWindows(_windows(data, length, "valid"), annotation)
    has_test = bool(data.test_contigs or data.test_regions)
    test = AnnotatedWindows(_windows(data, length, "test"), annotation) if has_test else None
    model = open_model(run.model, seed=run.train.seed, head="none")
    ready = Segmenting(run, tuple(train[length] for length in lengths), valid, test, model)
    make_task(ready, model)
    return ready


def _training_windows(data: AnnotationTable, length_bp: int, annotation: Annotation) -> AnnotatedWindows:
    windows = _windows(data, length_bp, "train")
    if not data.focus:
        return AnnotatedWindows(windows, annotation)
    return focused(windows, annotation, data.focus, data.background)


def _windows(data: AnnotationTable, length_bp: int, split: Literal["train", "valid", "test"]) -> GenomeWindows:
    """Of one split. What is for testing is cut into windows side by side, and no other window touches it."""
    genome = Genome(data.fasta)
    places = _test_places(data, genome)
    if split == "test":
        starts = [np.arange(place.start, max(place.end - length_bp, place.start) + 1, length_bp) for place in places]
        contig = np.repeat([genome.contig_id(place.contig) for place in places], [len(part) for part in starts])
        start = np.concatenate(starts)
        return GenomeWindows(genome, contig, start, window_bp=length_bp, max_unknown_fraction=data.max_unknown_fraction)
    found = open_windows(
        data.fasta,
        length_bp,
        split=split,
        partition=Partition(data.valid_contigs, (), data.valid_fraction),
        exclude=data.exclude,
        exclude_species=data.exclude_species,
        max_unknown_fraction=data.max_unknown_fraction,
    )
    contig, start = found.places(np.arange(len(found)))
    return GenomeWindows(genome, contig, start, window_bp=length_bp, exclude=places)


def _test_places(data: AnnotationTable, genome: Genome) -> list[Interval]:
    if data.test_regions is None:
        return [Interval(name, 0, int(genome.lengths_bp[genome.contig_id(name)])) for name in data.test_contigs]
    regions = read_bed(data.test_regions)
    regions.contig_ids(genome)
    return list(regions)


def make_task(ready: Segmenting, model: Model, *, is_segmental: bool = False) -> SegmentationTask:
    """The objective that the run describes."""
    table, elements = ready.run.task, ready.elements
    inside = np.maximum(ready.valid.annotation.covered_bp(), 1)
    outside = (ready.valid.windows.genome.lengths_bp.sum() - inside).clip(1)
    weights = (outside / inside) ** table.balance
    return SegmentationTask(
        model.tokenizer,
        elements,
        opposite_elements(elements),
        objective=table.loss,
        gamma=table.gamma,
        positive_weights=tuple(weights.tolist()) if table.balance else (),
        shares=tuple((inside / (inside + outside)).tolist()),
        rc_probability=0.5 if table.strands == "augment" else 0.0,
        n_as_pad=table.n_as_pad,
        is_segmental=is_segmental,
    )


def train_segmentation(run: SegmentationRun, *, resume: bool = True) -> FinetuneResult:
    """Trains once per seed, keeps each repetition's best weights by the monitored metric, and tests these once.

    The folder gets `results.parquet` (a row per seed), `elements.parquet` (one per seed, split and element),
    `counts.parquet` (bases inside and outside of each element by step of probability: what its scores and curves are
    made of), `seed-<k>/` (see `train.fit.fit`) and `model/` (the best seed's best weights, with the thresholds that are
    best on the validation windows).

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM; the message holds the command that goes on.
    """
    ready = open_segmenting(run)
    folder, data = run.out.folder, run.data
    inputs = [path for path in (data.fasta, data.annotation, data.exclude, data.test_regions) if path is not None]
    with resumable("finetune", folder):
        record_run(run, folder, inputs=inputs, model=ready.model)
        trials = [_repeat(ready, seed, resume=resume) for seed in range(1, run.train.seeds + 1)]
    if not is_first_process():
        return FinetuneResult((), {}, folder / "model", folder)
    return _conclude(ready, [trial for trial in trials if trial is not None], inputs)


@dataclass(frozen=True, slots=True)
class _Trial:
    row: dict[str, Any]
    elements: list[dict[str, Any]]
    counts: list[dict[str, Any]]
    thresholds: dict[str, float]
    """Best on the validation windows."""
    best: Path


def _repeat(ready: Segmenting, seed: int, *, resume: bool) -> _Trial | None:
    """Trains and judges one repetition; None in all processes but the first, which only help to train."""
    run = ready.run
    spec = TrainSpec.model_validate({**run.train.model_dump(exclude={"seeds"}), "seed": run.train.seed + seed - 1})
    model = open_model(run.model, seed=spec.seed, head="none")
    notes = {**model.spec.notes, "annotation": run.data.annotation.name, "seed": str(seed)}
    longest = max(source.windows.window_bp for source in ready.train)
    model.spec = replace(model.spec, context_bp=longest, notes=notes)
    folder = run.out.folder / f"seed-{seed}"
    task = make_task(ready, model)
    result = fit(model, task, ready.train, ready.valid, spec, folder, resume=resume, labels=ready.elements)
    if not is_first_process():
        return None
    if result.best is None:
        raise ConfigError(f"train.monitor: {spec.monitor} was never a number on the validation windows of seed {seed}")
    valid = read_log(folder / VALID)
    at = valid["step"].index(result.best_step)
    row: dict[str, Any] = {"seed": seed, "steps": result.steps, "best_step": result.best_step}
    row |= {f"valid_{name}": values[at] for name, values in valid.items() if name != "step"}
    best = load(result.best, device=spec.device)
    elements, counts = [], []
    thresholds: dict[str, float] = {}
    for split, source in (("valid", ready.valid), ("test", ready.test)):
        if source is None:
            continue
        metrics = judge(best, make_task(ready, best, is_segmental=True), source, spec)
        if split == "valid":
            thresholds = metrics.best_thresholds()
        else:
            row |= {f"test_{name}": value for name, value in metrics.compute().items()}
        elements += [
            {"seed": seed, "split": split, "element": name, **scores} for name, scores in metrics.by_element().items()
        ]
        counts += _count_rows(seed, split, metrics)
    log.info("seed %d: %s %.4f", seed, spec.monitor, row.get(f"test_{spec.monitor}", row[f"valid_{spec.monitor}"]))
    return _Trial(row, elements, counts, thresholds, result.best)


def _count_rows(seed: int, split: str, metrics: SegmentationMetrics) -> list[dict[str, Any]]:
    """A row for each step of probability that any base of the element's table has."""
    found = []
    for name, (outside, inside) in zip(metrics.elements, metrics.counts(), strict=True):
        for step in np.flatnonzero(inside + outside).tolist():
            counts = {"inside": int(inside[step]), "outside": int(outside[step])}
            found.append({"seed": seed, "split": split, "element": name, "probability": step / BINS, **counts})
    return found


def judge(model: Model, task: SegmentationTask, source: AnnotatedWindows, spec: TrainSpec) -> SegmentationMetrics:
    """Scores of a model on all windows of a source."""
    steps = EvalSteps(source, Collate(model.tokenizer, TokenRule()), spec.valid_batch or spec.batch)
    metrics = evaluate(model, task, make_loader(steps), seed=spec.seed, precision=spec.precision)
    assert isinstance(metrics, SegmentationMetrics)
    return metrics


def _conclude(ready: Segmenting, trials: list[_Trial], inputs: list[Path]) -> FinetuneResult:
    folder, spec = ready.run.out.folder, ready.run.train
    metadata = provenance(ready.model, inputs=inputs, options=ready.run.model_dump(mode="json"))
    rows = [trial.row for trial in trials]
    _write_rows(folder / "results.parquet", rows, metadata)
    _write_rows(folder / ELEMENTS, [row for trial in trials for row in trial.elements], metadata)
    _write_rows(folder / COUNTS, [row for trial in trials for row in trial.counts], metadata)
    sign = 1 if is_rising(spec.monitor, spec.mode) else -1
    best = max(trials, key=lambda trial: sign * cast(float, trial.row[f"valid_{spec.monitor}"]))
    model = load(best.best, device="cpu")
    model.spec = replace(model.spec, thresholds=best.thresholds)
    save(model, folder / "model", overwrite=True)
    split = "test_" if ready.test is not None else "valid_"
    names = [name for name in rows[0] if name.startswith(split)]
    summary = {name: float(np.mean([row[name] for row in rows])) for name in names}
    return FinetuneResult(tuple(rows), summary, folder / "model", folder)


def _write_rows(path: Path, rows: list[dict[str, Any]], metadata: dict[str, Any]) -> None:
    kinds = {int: "int64", float: "float64", str: "text"}
    schema = [Column(name, kinds[type(value)]) for name, value in rows[0].items()]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with open_writer(path, schema, metadata=metadata, num_rows=len(rows), overwrite=True) as out:
        out.write(range(len(rows)), columns)
