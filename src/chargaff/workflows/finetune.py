"""Fine-tuning on labelled sequences, repeated over seeds, judged once on the test set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from chargaff.data.labels import Labels
from chargaff.data.loader import Collate, EvalSteps, TokenRule, make_loader
from chargaff.errors import ConfigError
from chargaff.families.protocol import InputRule
from chargaff.hub.load import load
from chargaff.hub.save import save
from chargaff.io.writers import Column, open_writer
from chargaff.model import Model
from chargaff.tasks.metrics import Problem, SequenceMetrics, softmax
from chargaff.tasks.sequence import SequenceTask
from chargaff.train.config import TrainSpec, is_rising
from chargaff.train.evaluate import evaluate
from chargaff.train.fit import FitResult, fit, is_first_process, plan_steps
from chargaff.train.log import VALID, read_log
from chargaff.train.runs import DatasetTable, FinetuneRun, SequenceTaskTable, load_run
from chargaff.workflows.cost import Cost
from chargaff.workflows.labelled import LabelledData, open_data
from chargaff.workflows.pretrain import step_cost
from chargaff.workflows.provenance import provenance
from chargaff.workflows.training import open_model, record_run, resumable

__all__ = ["FinetuneResult", "FinetuneRun", "Finetuning", "finetune", "load_run", "open_finetuning"]

log = logging.getLogger(__name__)

PROBLEMS: Mapping[str, Problem] = {"class": "single-label", "value": "regression", "multi-label": "multi-label"}
INPUT_NOTE = "input."
"""Begins the names of the notes in which a saved model remembers how its sequences became tokens."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a fine-tuning run leaves in its folder."""

    rows: tuple[dict[str, Any], ...]
    """One per seed, as in results.parquet; () in all processes but the first of a run on several devices."""
    summary: dict[str, float]
    """Mean over seeds of each test metric (of the validation metrics without test rows)."""
    model: Path
    """Folder of the best seed's best weights, chosen on validation rows; `chargaff predict` takes it."""
    folder: Path


@dataclass(frozen=True, slots=True)
class Finetuning:
    """A run whose data and model have been opened and checked."""

    run: FinetuneRun
    data: LabelledData
    rule: TokenRule
    model: Model
    """As the repetitions find it."""

    def describe(self) -> str:
        """The plan in words."""
        train, valid = self.data.divide(1)
        _, max_steps = plan_steps([len(train)], self.run.train)
        test = "no test rows" if self.data.test is None else f"{len(self.data.test):,} test rows"
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{len(train):,} training, {len(valid):,} validation and {test}; {len(self.data.labels.names)} outputs "
            f"({', '.join(self.data.labels.names[:8])})\n"
            f"{self.run.train.seeds} seeds of {max_steps:,} steps of {self.run.train.batch:,} sequences; "
            f"{parameters:,} parameters without the head"
        )

    def cost(self) -> Cost:
        """Time and memory of all seeds, from short runs of the model; evaluation is not counted."""
        train, _ = self.data.divide(1)
        _, max_steps = plan_steps([len(train)], self.run.train)
        tokens = self.rule.max_tokens or int(train.lengths_bp.max())
        spec = self.run.train
        return step_cost(self.model, spec, spec.batch, spec.micro_batch, tokens, max_steps * spec.seeds)


def open_finetuning(run: FinetuneRun) -> Finetuning:
    """Opens the data and the model; nothing is written.

    Raises:
        ConfigError, InputError, CheckpointError: whatever is wrong with the run, before any work is done.
    """
    if run.train.stages:
        raise ConfigError("train.stages: have no use in fine-tuning")
    data = open_data(run.data)
    if len(data.train.views) > 1:
        raise ConfigError("data: rows are pairs of sequences; this task answers questions about single ones")
    if "monitor" not in run.train.model_fields_set and data.metric is not None:
        run = run.model_copy(update={"train": run.train.model_copy(update={"monitor": data.metric})})
    model = open_model(run.model, seed=run.train.seed, head="none")
    rule = _token_rule(run, data, cast(Any, model.backbone).rule)
    _check_lengths(model, rule, data)
    make_task(run.task, data.labels, model, rule).head(model)
    return Finetuning(run, data, rule, model)


def finetune(run: FinetuneRun, *, resume: bool = True) -> FinetuneResult:
    """Trains once per seed, keeps each repetition's best weights by the monitored metric, and tests these once.

    The folder gets `results.parquet` (a row per seed), `predictions.parquet` (test rows of every seed), `seed-<k>/`
    (see `train.fit.fit`) and `model/` (the best seed's best weights).

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM; the message holds the command that goes on.
    """
    ready = open_finetuning(run)
    folder = run.out.folder
    with resumable("finetune", folder):
        record_run(ready.run, folder, inputs=[path for path in ready.data.files if path.is_file()], model=ready.model)
        trials = [_repeat(ready, seed, resume=resume) for seed in range(1, run.train.seeds + 1)]
    if not is_first_process():
        return FinetuneResult((), {}, folder / "model", folder)
    return _conclude(ready, [trial for trial in trials if trial is not None])


@dataclass(frozen=True, slots=True)
class _Trial:
    seed: int
    row: dict[str, Any]
    best: Path
    predictions: dict[str, Any] | None


def _repeat(ready: Finetuning, seed: int, *, resume: bool) -> _Trial | None:
    """Trains and judges one repetition; None in all processes but the first, which only help to train."""
    run, data = ready.run, ready.data
    train, valid = data.divide(seed)
    # where rows are divided by seed, only that differs between repetitions, as in the published protocol
    own_seed = run.train.seed if data.valid is None else run.train.seed + seed - 1
    spec = TrainSpec.model_validate({**run.train.model_dump(exclude={"seeds"}), "seed": own_seed})
    model = open_model(run.model, seed=own_seed, head="none")
    task = make_task(run.task, data.labels, model, ready.rule)
    model.spec = replace(
        model.spec,
        strands=_strands(model, run.task),
        pooling=model.spec.pooling if run.task.pooling == "none" else run.task.pooling,
        context_bp=ready.rule.max_tokens,
        notes={**model.spec.notes, **_notes(run, ready.rule, task), "seed": str(seed)},
    )
    folder = run.out.folder / f"seed-{seed}"
    log.info("seed %d: %d training rows, %d validation rows", seed, len(train), len(valid))
    result = fit(model, task, train, valid, spec, folder, resume=resume, rule=ready.rule, labels=data.labels.names)
    return _judge(ready, seed, task, result, folder) if is_first_process() else None


def _judge(ready: Finetuning, seed: int, task: SequenceTask, result: FitResult, folder: Path) -> _Trial:
    """Scores of the best weights, on validation rows from the log and on test rows now."""
    if result.best is None:
        raise ConfigError(
            f"train.monitor: {ready.run.train.monitor} was never a number on the validation rows of seed {seed}; do "
            "they hold more than one class?"
        )
    valid = read_log(folder / VALID)
    at = valid["step"].index(result.best_step)
    row: dict[str, Any] = {"seed": seed, "steps": result.steps, "best_step": result.best_step}
    row |= {f"valid_{name}": values[at] for name, values in valid.items() if name != "step"}
    predictions = None
    if ready.data.test is not None:
        spec = ready.run.train
        model = load(result.best, device=spec.device)
        steps = EvalSteps(ready.data.test, Collate(model.tokenizer, ready.rule), spec.valid_batch or spec.batch)
        metrics = evaluate(model, task, make_loader(steps), seed=spec.seed, precision=spec.precision)
        assert isinstance(metrics, SequenceMetrics)
        row |= {f"test_{name}": value for name, value in metrics.compute().items()}
        index, outputs, targets = metrics.predictions()
        predictions = {"row": index, "outputs": outputs, "targets": targets}
    shown = row.get(f"test_{ready.run.train.monitor}", row[f"valid_{ready.run.train.monitor}"])
    log.info("seed %d: %s %.4f", seed, ready.run.train.monitor, shown)
    return _Trial(seed, row, result.best, predictions)


def _conclude(ready: Finetuning, trials: list[_Trial]) -> FinetuneResult:
    folder, monitor = ready.run.out.folder, ready.run.train.monitor
    metadata = provenance(
        ready.model,
        inputs=[path for path in ready.data.files if path.is_file()],
        options=ready.run.model_dump(mode="json"),
    )
    rows = [trial.row for trial in trials]
    schema = [Column(name, "int64" if isinstance(value, int) else "float64") for name, value in rows[0].items()]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with open_writer(folder / "results.parquet", schema, metadata=metadata, num_rows=len(rows), overwrite=True) as out:
        out.write(range(len(rows)), columns)
    if ready.data.test is not None:
        _write_predictions(folder / "predictions.parquet", trials, ready.data, metadata)
    sign = 1 if is_rising(monitor, ready.run.train.mode) else -1
    best = max(trials, key=lambda trial: sign * cast(float, trial.row[f"valid_{monitor}"]))
    save(load(best.best, device="cpu"), folder / "model", overwrite=True)
    split = "test_" if ready.data.test is not None else "valid_"
    summary = {name: float(np.mean(values)) for name, values in columns.items() if name.startswith(split)}
    return FinetuneResult(tuple(rows), summary, folder / "model", folder)


def _write_predictions(path: Path, trials: list[_Trial], data: LabelledData, metadata: dict[str, Any]) -> None:
    """One row per seed and test row: names, targets, and the outputs turned into probabilities or values."""
    assert data.test is not None
    names = data.labels.names
    ids = [str(i + 1) for i in range(len(data.test))] if data.test.ids is None else list(data.test.ids)
    problem = PROBLEMS[data.labels.kind]
    shape = () if problem == "single-label" else (len(names),)
    schema = [
        Column("seed", "int64"),
        Column("row", "int64"),
        Column("id", "text"),
        Column("target", "int64" if not shape else "float32", shape),
        *(Column(output_name(problem, name), "float32") for name in names),
    ]
    total = sum(len(trial.predictions["row"]) for trial in trials if trial.predictions is not None)
    with open_writer(path, schema, metadata=metadata, num_rows=total, overwrite=True) as out:
        begin = 0
        for trial in trials:
            assert trial.predictions is not None
            index, values = trial.predictions["row"], to_probabilities(problem, trial.predictions["outputs"])
            targets = trial.predictions["targets"].reshape(len(index), *shape)
            columns = {
                "seed": [trial.seed] * len(index),
                "row": index,
                "id": [ids[row] for row in index],
                "target": targets,
            }
            columns |= {output_name(problem, name): values[:, k] for k, name in enumerate(names)}
            out.write(range(begin, begin + len(index)), columns)
            begin += len(index)


def output_name(problem: str, name: str) -> str:
    """Column of an output: "p_<class>" for probabilities, the plain name for values."""
    return name if problem == "regression" else f"p_{name}"


def to_probabilities(problem: str, outputs: NDArray[Any]) -> NDArray[Any]:
    """[N, outputs] logits as probabilities; values stay as they are."""
    if problem == "regression":
        return outputs
    if problem == "multi-label":
        sigmoid: NDArray[Any] = 1 / (1 + np.exp(-outputs.astype(np.float64)))
        return sigmoid.astype(np.float32)
    return softmax(outputs)


def make_task(table: SequenceTaskTable, labels: Labels, model: Model, rule: TokenRule) -> SequenceTask:
    """The objective that a `[task]` table describes, for these training labels."""
    weights = table.class_weights or None
    if table.balance_classes:
        if weights is not None or labels.kind != "class":
            raise ConfigError("task.balance_classes: needs classes, and no class_weights beside it")
        counts = np.bincount(labels.target, minlength=labels.num_outputs)
        weights = tuple(float(value) for value in len(labels.target) / (labels.num_outputs * np.maximum(counts, 1)))
    return SequenceTask(
        model.tokenizer,
        labels.num_outputs,
        PROBLEMS[labels.kind],
        pooling=table.pooling,
        positions=rule.max_tokens if table.pooling == "none" else None,
        head_bias=table.head_bias,
        rc_probability=0.5 if table.strands in ("augment", "conjoin-eval") else 0.0,
        conjoin_train=table.strands == "conjoin",
        conjoin_eval=table.strands == "conjoin-eval",
        is_oriented=table.strands == "oriented",
        counts_padding=_counts_padding(table, model),
        n_as_pad=table.n_as_pad,
        class_weights=weights,
        is_per_batch=table.metrics_per_batch,
    )


def _counts_padding(table: SequenceTaskTable, model: Model) -> bool:
    """Padding that goes through the computation anyway is pooled too, as in the published fine-tuning."""
    if table.counts_padding is not None:
        return table.counts_padding
    return bool(cast(Any, model.backbone).rule.padding == "never")


def _token_rule(run: FinetuneRun, data: LabelledData, accepted: InputRule) -> TokenRule:
    """Models with special tokens and a mask are padded on the right where the run says nothing."""
    table = run.data
    if accepted.needs_special:
        padding = "right" if table.padding == "none" and accepted.padding == "masked" else table.padding
        return TokenRule(table.max_bp or data.max_bp, padding, special=True)
    max_bp = table.max_bp or data.max_bp
    weighs_positions = run.task.pooling == "none"
    if weighs_positions and table.padding != "none" and not table.pad_to_max:
        raise ConfigError("data.pad_to_max: pooling none weighs positions apart, so all rows need one length; set it")
    if max_bp is None and (weighs_positions or (table.padding != "none" and table.pad_to_max)):
        max_bp = max(int(part.lengths_bp.max()) for part in (data.train, data.valid, data.test) if part is not None)
    return TokenRule(max_bp, table.padding, fixed=table.padding != "none" and table.pad_to_max)


def _check_lengths(model: Model, rule: TokenRule, data: LabelledData) -> None:
    """Early words for what would otherwise fail in the first batch."""
    lengths = np.concatenate([part.lengths_bp for part in (data.train, data.valid, data.test) if part is not None])
    if rule.max_tokens is not None:
        lengths = np.minimum(lengths, rule.max_tokens)
    fixed_bp = cast(Any, model.backbone).rule.fixed_bp
    width = rule.max_tokens if rule.fixed else int(lengths.max())
    if fixed_bp is not None and (width != fixed_bp or (rule.padding == "none" and lengths.min() < fixed_bp)):
        raise ConfigError(
            f"data.max_bp: this model takes inputs of {fixed_bp} bp only; set data.max_bp = {fixed_bp} and "
            f"data.padding (sequences have {lengths.min()} to {lengths.max()} bp)"
        )
    if rule.padding == "none" and lengths.min() != lengths.max():
        raise ConfigError(
            f"data.padding: sequences have {lengths.min()} to {lengths.max()} bp and batches need equal lengths; set "
            'data.padding = "left" (the published fine-tuning) or "right", or cut them all with data.max_bp'
        )


def _strands(model: Model, table: SequenceTaskTable) -> str:
    if model.spec.strands == "equivariant":
        return "equivariant"
    return "conjoined" if table.strands in ("conjoin", "conjoin-eval") else "forward-only"


def _notes(run: FinetuneRun, rule: TokenRule, task: SequenceTask) -> dict[str, str]:
    """How sequences become tokens, for whoever uses the model later."""
    facts = {
        "max_bp": "" if rule.max_tokens is None else str(rule.max_tokens),
        "padding": rule.padding,
        "pad_to_max": str(rule.fixed).lower(),
        "counts_padding": str(task.counts_padding).lower(),
        "n_as_pad": str(task.n_as_pad).lower(),
    }
    data = run.data.name if isinstance(run.data, DatasetTable) else run.data.train.name
    return {**{INPUT_NOTE + name: value for name, value in facts.items()}, "fine-tuned on": data}
