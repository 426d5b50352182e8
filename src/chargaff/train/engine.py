"""Lightning, set up and kept quiet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer

from chargaff.data.order import rows_per_rank
from chargaff.errors import ConfigError
from chargaff.train.callbacks import Keeper, StopOnSignal
from chargaff.train.config import TrainSpec, is_rising
from chargaff.train.module import TrainingModule
from chargaff.train.progress import Show
from chargaff.train.state import LAST, Job, Outcome, TrainingInterrupted, completed_steps

_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


def run_job(job: Job, show: Show) -> Outcome:
    """Trains until all steps are done, early stopping, or a signal.

    Raises:
        TrainingInterrupted: a signal; the state is saved.
    """
    keeper = Keeper(job, show)
    checkpoint = job.out / LAST
    resumes = checkpoint.exists()
    device = job.model.device
    if job.spec.precision == "16-mixed" and not _uses_gpu(job.spec):
        raise ConfigError("train.precision: 16-mixed needs a GPU; here take bf16-mixed or 32")
    with _quiet():
        trainer = _make_trainer(job, [keeper, StopOnSignal(keeper)])
        rows_per_rank(job.spec.batch, trainer.world_size)
        if resumes:
            show(completed_steps(checkpoint), "resuming")
        module = TrainingModule(job)
        try:
            trainer.fit(module, ckpt_path=checkpoint if resumes else None, weights_only=True if resumes else None)
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            raise KeyboardInterrupt(_kept(job, module)) from None
    job.model.to(device)
    if keeper.is_interrupted:
        raise TrainingInterrupted(_kept(job, module))
    progress = module.run_progress
    sign = -1 if is_rising(job.spec.monitor, job.spec.mode) else 1
    return Outcome(
        steps=trainer.global_step,
        stop_reason=keeper.stop_reason,
        metrics=progress.last_metrics,
        best_step=progress.best_step,
        best_value=sign * progress.best_value if progress.best_step >= 0 else None,
    )


def _make_trainer(job: Job, callbacks: list[Keeper | StopOnSignal]) -> Trainer:
    spec = job.spec
    return Trainer(
        accelerator="gpu" if spec.device == "cuda" else spec.device,
        devices=spec.devices,
        strategy=spec.strategy,
        precision="32-true" if spec.precision == "32" else spec.precision,
        max_steps=job.max_steps,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job.out,
        callbacks=list(callbacks),
    )


def _uses_gpu(spec: TrainSpec) -> bool:
    return spec.device == "cuda" or (spec.device == "auto" and torch.cuda.is_available())


def _kept(job: Job, module: TrainingModule) -> str:
    step = module.run_progress.last_good_step
    if step < 0:
        return "no state had been saved yet"
    return f"the state of step {step} of {job.max_steps} is saved in {job.out / LAST}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's tips and warnings, none of which the user could act on."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
