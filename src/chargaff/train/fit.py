"""Training: the only entry, for every task (DESIGN 2.9)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from chargaff.data.batch import Source
from chargaff.data.loader import TokenRule
from chargaff.data.order import StepPlan
from chargaff.errors import ConfigError
from chargaff.hub.load import load
from chargaff.hub.save import save
from chargaff.io.atomic import claim, read_manifest, write_manifest
from chargaff.model import Model
from chargaff.tasks.protocol import Task
from chargaff.train.config import TrainSpec, stages_of
from chargaff.train.curves import draw_curves
from chargaff.train.heads import attach_head
from chargaff.train.progress import progress
from chargaff.train.state import LAST, Job, Outcome

log = logging.getLogger(__name__)

RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a finished run leaves."""

    steps: int
    stop_reason: str
    """"" if all planned steps were done; else why not."""
    metrics: dict[str, float]
    """Of the last evaluation; empty without validation data."""
    best_step: int
    """-1 without validation data."""
    best_value: float | None
    """Of the monitored metric, at `best_step`."""
    model: Path
    """Folder of the final weights; `chargaff.load` reads it."""
    best: Path | None
    """Folder of the best weights; None without validation data."""


def fit(
    model: Model,
    task: Task,
    train: Source | Sequence[Source],
    valid: Source | None,
    spec: TrainSpec,
    out: Path | str,
    *,
    resume: bool = True,
    rule: TokenRule | None = None,
    labels: tuple[str, ...] = (),
) -> FitResult:
    """Trains `model` in place and writes the run to the folder `out`.

    In the folder: `model/` and `best/` (final and best weights), `checkpoints/last.ckpt` (state to resume from),
    `train.csv`, `valid.csv`, `events.jsonl`, `curves.png`, `result.json` (written last).

    A run that was interrupted, even killed, and called again ends with the same weights and the same two CSV logs as
    an uninterrupted one (same kind of machine and number of threads). A finished run is not repeated: its final weights
    are put into `model`.

    Args:
        train: the training data; a sequence of sources, one per stage, where stages differ in window length.
        valid: data for evaluation; None: no evaluation.
        resume: go on from the folder's last state; otherwise a folder that holds a run is an error.
        rule: how sequences become tokens; None: no padding, no special tokens.
        labels: names of a new head's outputs.

    Raises:
        ConfigError: the settings do not fit the model or the data, or the loss stopped being a finite number.
        InputError: another process trains in this folder, or it cannot be written.
        TrainingInterrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    out, rule = Path(out), rule or TokenRule()
    _check_padding(model, rule)
    sources = _sources(train, spec)
    plan, max_steps = plan_steps([len(source) for source in sources], spec)
    with claim(out) if is_first_process() else nullcontext(), torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(spec.seed)
        attach_head(model, task, labels)
        done = _finished(out, max_steps, resume=resume)
        if done is not None:
            model.load_state_dict(load(done.model, device=model.device).state_dict())
            return done
        model.requires_grad_(True)
        if spec.freeze_backbone:
            model.backbone.requires_grad_(False)
        job = Job(model, task, sources, valid, plan, max_steps, spec, rule, out)
        from chargaff.train.engine import run_job

        with _recompute(model, spec.activation_checkpointing), progress(max_steps) as show:
            outcome = run_job(job, show)
        return _finish(model, out, outcome)


def plan_steps(num_samples: Sequence[int], spec: TrainSpec) -> tuple[StepPlan, int]:
    """(the samples of every step, number of optimizer steps) of a run over data of these sizes, one per stage."""
    stages = stages_of(spec)
    plan = StepPlan(
        tuple(num_samples), tuple(stage.batch for stage in stages), tuple(stage.steps for stage in stages), spec.seed
    )
    if spec.max_steps is not None:
        return plan, spec.max_steps
    assert spec.epochs is not None
    return plan, spec.epochs * plan.steps_per_epoch()


def _sources(train: Source | Sequence[Source], spec: TrainSpec) -> tuple[Source, ...]:
    num_stages = len(spec.stages) + 1
    sources: tuple[Any, ...] = tuple(train) if isinstance(train, list | tuple) else (train,)
    if len(sources) == 1 and all(stage.length_bp is None for stage in spec.stages):
        sources *= num_stages
    if len(sources) != num_stages:
        raise ConfigError(
            f"train.stages: {num_stages} stages (the last is train.batch) need as many sources, got {len(sources)}"
        )
    return sources


def _check_padding(model: Model, rule: TokenRule) -> None:
    allowed: Any = model.backbone.rule
    if rule.padding != "none" and allowed.padding == "never":
        log.info("this model has no mask: padding takes part in the computation")
    if rule.padding == "left" and allowed.padding == "causal":
        log.info("this causal model reads padding on the left as if it were sequence")
    if rule.max_tokens and allowed.max_tokens and rule.max_tokens > allowed.max_tokens:
        raise ConfigError(f"data.max_tokens: {rule.max_tokens} is more than this model takes ({allowed.max_tokens})")


def _finished(out: Path, max_steps: int, *, resume: bool) -> FitResult | None:
    """The result of a run that is complete already; None if there is work to do."""
    content = read_manifest(out, RESULT)
    if not resume and (content is not None or (out / LAST).exists()):
        raise ConfigError(f"{out}: holds a run already; resume it, or choose another folder")
    if content is None or (content["steps"] < max_steps and not content["stop_reason"]):
        return None
    log.info("%s: finished already, after %d steps", out, content["steps"])
    best = content["best"]
    return FitResult(**{**content, "model": out / content["model"], "best": out / best if best else None})


def _finish(model: Model, out: Path, outcome: Outcome) -> FitResult:
    """Exports the weights, draws the curves and declares the run complete."""
    final, has_best = out / "model", outcome.best_step >= 0
    result = FitResult(**asdict(outcome), model=final, best=out / "best" if has_best else None)
    if is_first_process():
        save(model, final, overwrite=True)
        draw_curves(out)
        write_manifest(out, RESULT, asdict(result) | {"model": final.name, "best": "best" if has_best else None})
    return result


@contextmanager
def _recompute(model: Model, is_on: bool) -> Iterator[None]:
    """Activation checkpointing in all blocks while the block runs."""
    backbone: Any = model.backbone
    if is_on and not hasattr(backbone, "checkpointing"):
        raise ConfigError(f"train.activation_checkpointing: {model.spec.family} is not made of blocks")
    before = getattr(backbone, "checkpointing", False)
    if is_on:
        backbone.checkpointing = True
    try:
        yield
    finally:
        if is_on:
            backbone.checkpointing = before


def is_first_process() -> bool:
    """Whether this is the only process of the run, or the one that writes its files."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
