"""What happens between steps: log, evaluation, best weights, saved state, interruption."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from chargaff.data.loader import Collate, EvalSteps, make_loader
from chargaff.errors import ConfigError, InputError
from chargaff.hub.save import save
from chargaff.io.atomic import publish
from chargaff.train.config import is_rising
from chargaff.train.evaluate import evaluate
from chargaff.train.log import TRAIN, VALID, RunLog
from chargaff.train.module import TrainingModule
from chargaff.train.progress import Show
from chargaff.train.state import LAST, Job

log = logging.getLogger(__name__)


class Keeper(Callback):
    """Runs after each step, in this order: watch for a broken loss, log, evaluate, save."""

    def __init__(self, job: Job, show: Show) -> None:
        self.spec, self.out, self.max_steps = job.spec, job.out, job.max_steps
        self.source = job.valid
        self.valid: EvalSteps | None = None
        self.collate = Collate(job.model.tokenizer, job.rule)
        in_epochs = job.spec.epochs is not None
        self.valid_every = job.spec.valid_every or (job.plan.steps_per_epoch() if in_epochs else job.max_steps)
        self.show = show
        self.stop_reason = ""
        self.is_interrupted = False
        """By a signal to any of the run's processes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._logged_at = time.monotonic()
        self._logged_step = trainer.global_step
        if trainer.is_global_zero:
            self.log = RunLog(self.out, completed_steps=trainer.global_step)
            kind = "resume" if trainer.global_step else "start"
            self.log.event(kind, trainer.global_step, processes=trainer.world_size, device=str(pl_module.device))
        if self._is_out_of_patience(_module(pl_module)):
            trainer.should_stop = True  # the run was stopped after its last state had been saved
        if self.source is not None:
            self.valid = EvalSteps(
                self.source,
                self.collate,
                self.spec.valid_batch or _module(pl_module).micro_batches[-1],
                limit=self.spec.valid_samples,
                rank=trainer.global_rank,
                num_ranks=trainer.world_size,
            )
            if self.spec.valid_at_start and trainer.global_step == 0:
                self._evaluate(trainer, _module(pl_module), 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module, step = _module(pl_module), trainer.global_step
        is_last = step >= self.max_steps
        logs = step % self.spec.log_every == 0 or is_last
        evaluates = self.valid is not None and (step % self.valid_every == 0 or is_last)
        saves = step % self.spec.checkpoint_every == 0 or is_last
        # all processes stop after the same step: saving and the next step both need every one of them
        interrupted = trainer.strategy.reduce_boolean_decision(self.is_interrupted, all=False)
        if interrupted:
            self.is_interrupted = True
        if logs or evaluates or saves or interrupted or self.stop_reason or module.device.type == "cpu":
            self._require_finite(trainer, module)
        if logs:
            self._log(trainer, module, step)
        if evaluates:
            self._evaluate(trainer, module, step)
        stops = interrupted or bool(self.stop_reason)
        if saves or stops:
            self.save(trainer, step)
        if stops:
            trainer.should_stop = True

    def save(self, trainer: Trainer, step: int) -> None:
        """The state to resume from; the former one is replaced only when this one is complete."""
        progress = _module(trainer.lightning_module).run_progress
        last_good, progress.last_good_step = progress.last_good_step, step
        path = self.out / LAST
        try:
            if trainer.is_global_zero:
                with publish(path, overwrite=True) as part:
                    trainer.save_checkpoint(part)
            else:
                trainer.save_checkpoint(path)
        except InputError as error:
            progress.last_good_step = last_good
            kept = f"the state of step {last_good} is intact" if last_good >= 0 else "no state was saved before"
            raise InputError(f"{error} (training state of step {step}; {kept})") from error
        if trainer.is_global_zero:
            self.log.event("checkpoint", step)

    def _require_finite(self, trainer: Trainer, module: TrainingModule) -> None:
        bad = int(module.run_progress.bad_step)
        if bad < 0:
            return
        good = module.run_progress.last_good_step
        kept = f"the state of step {good} is in {self.out / LAST}" if good >= 0 else "no state had been saved yet"
        raise ConfigError(
            f"train: loss or gradient of step {bad + 1} is not a finite number (learning rate "
            f"{module.schedule(bad):.3g}, gradient norm {float(module.run_progress.grad_norm):.3g}); {kept}. "
            "Lower train.optim.lr, lengthen the warm-up, or set train.clip"
        )

    def _log(self, trainer: Trainer, module: TrainingModule, step: int) -> None:
        progress, place = module.run_progress, module.plan.place(step - 1)
        loss = float(progress.loss_sum) / max(float(progress.count_sum), 1e-30)
        progress.loss_sum.zero_()
        progress.count_sum.zero_()
        row = {
            "step": step,
            "epoch": place.epoch,
            "samples": module.plan.samples_before(step),
            "lr": module.schedule(step - 1),
            "loss": loss,
            "grad_norm": float(progress.grad_norm),
        }
        now = time.monotonic()
        speed = (module.plan.samples_before(step) - module.plan.samples_before(self._logged_step)) / (
            max(now - self._logged_at, 1e-9)
        )
        self._logged_at, self._logged_step = now, step
        if trainer.is_global_zero:
            self.log.write(TRAIN, row)
            self.log.event("train", step, seconds=round(now - self._started, 3), samples_per_s=round(speed, 3))
            self.show(step, f"loss {loss:.4f}, lr {row['lr']:.3g}, {speed:,.1f} sequences/s")

    def _evaluate(self, trainer: Trainer, module: TrainingModule, step: int) -> None:
        assert self.valid is not None
        metrics = evaluate(
            module.model,
            module.task,
            make_loader(self.valid),
            seed=self.spec.seed,
            precision=self.spec.precision,
            is_shared=True,
        )
        values = metrics.compute()
        if self.spec.monitor not in values:
            raise ConfigError(f"train.monitor: expected one of {', '.join(values)}, got {self.spec.monitor!r}")
        module.run_progress.last_metrics = values
        is_better = self._judge(module, values[self.spec.monitor], step)
        if trainer.is_global_zero:
            self.log.write(VALID, {"step": step, **values})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in list(values.items())[:4])
            log.info("step %d: validation %s%s", step, shown, " (best so far)" if is_better else "")
            if is_better:
                save(module.model, self.out / "best", overwrite=True)
        self._logged_at = time.monotonic()

    def _judge(self, module: TrainingModule, value: float, step: int) -> bool:
        """Whether this is the best evaluation so far; decides about early stopping."""
        progress = module.run_progress
        loss_like = -value if is_rising(self.spec.monitor, self.spec.mode) else value
        gain = progress.best_value - loss_like
        is_better = not math.isnan(loss_like) and (progress.best_step < 0 or gain > 0)
        if is_better:
            progress.best_value, progress.best_step = loss_like, step
        enough = is_better and gain > self.spec.min_delta
        progress.evaluations_without_gain = 0 if enough else progress.evaluations_without_gain + 1
        self._is_out_of_patience(module)
        return is_better

    def _is_out_of_patience(self, module: TrainingModule) -> bool:
        without_gain = module.run_progress.evaluations_without_gain
        if self.spec.patience is None or without_gain < self.spec.patience:
            return False
        self.stop_reason = f"{self.spec.monitor} has not improved in {without_gain} evaluations"
        return True


class StopOnSignal(Callback):
    """Ctrl-C and SIGTERM end the run after the step in progress, its state saved; a second one ends it at once."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        self.keeper.is_interrupted = True
        log.warning("%s received: saving the state after this step (again: stop at once)", self.received.name)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def _module(module: LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
