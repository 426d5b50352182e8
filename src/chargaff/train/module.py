"""One optimizer step, as Lightning calls it."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from chargaff.data.augment import HostAugment
from chargaff.data.batch import Batch
from chargaff.data.loader import Collate, TrainSteps, make_loader
from chargaff.data.order import rows_per_rank
from chargaff.data.rng import SampleRng, key64
from chargaff.errors import BackendError
from chargaff.train.config import stages_of
from chargaff.train.optim import make_optimizer, set_learning_rate
from chargaff.train.schedules import horizon_steps, make_schedule
from chargaff.train.state import Job, Progress

log = logging.getLogger(__name__)


class TrainingModule(LightningModule):
    """(model, task); a step's batch is everything this process reads in the step, cut into micro-batches here.

    The loss is the mean over all positions (or rows) of the global batch, however it is divided among micro-batches
    and processes, so neither changes the gradient.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.task, self.spec, self.plan = job.model, job.task, job.spec, job.plan
        self.data = job.sources
        self.collate = Collate(job.model.tokenizer, job.rule)
        self.micro_batches: list[int] = []
        """Per stage; known when the number of processes is."""
        horizon = horizon_steps(
            max_steps=job.max_steps,
            epochs=job.spec.epochs,
            batch=job.spec.batch,
            horizon_samples=job.spec.schedule.horizon_samples,
        )
        self.schedule = make_schedule(job.spec.schedule, job.spec.optim.lr, horizon)
        self.horizon_steps = horizon
        self.run_progress = Progress.fresh(torch.device("cpu"))

    def setup(self, stage: str) -> None:
        rows = [rows_per_rank(part.batch, self.trainer.world_size) for part in stages_of(self.spec)]
        self.micro_batches = [
            min(part.micro_batch or share, share) for part, share in zip(stages_of(self.spec), rows, strict=True)
        ]

    def train_dataloader(self) -> DataLoader[Batch]:
        """The steps that are left, without end; the trainer counts."""
        steps = TrainSteps(
            self.data,
            self.plan,
            [self.collate] * len(self.data),
            rank=self.trainer.global_rank,
            num_ranks=self.trainer.world_size,
            augment=self._host_augment(),
        )
        return make_loader(steps, first=self.global_step, workers=self.spec.workers)

    def _host_augment(self) -> HostAugment | None:
        """Reverse complement on bytes, for tokenizers that cannot do it on tokens."""
        probability = getattr(self.task, "rc_probability", 0.0)
        if probability <= 0 or self.model.tokenizer.complement is not None:
            return None
        return HostAugment(rc_probability=probability)

    def on_fit_start(self) -> None:
        self.model.train()
        fresh = Progress.fresh(self.device)
        fresh.load_state_dict(self.run_progress.state_dict())
        self.run_progress = fresh

    def configure_optimizers(self) -> Optimizer:
        return make_optimizer(self.model, self.spec.optim)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = self.run_progress.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.run_progress.load_state_dict(checkpoint["progress"])

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        step = self.global_step
        stage = self.plan.place(step).stage
        # dropout and the like: a function of (seed, step, rank), so that no generator state need be saved
        torch.manual_seed(key64(self.spec.seed, "step", step, self.global_rank) & (1 << 63) - 1)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        set_learning_rate(optimizer.optimizer, self.schedule(step), lambda lr: self._scheduled(lr, step))
        tally = self._accumulate(batch, step, stage)
        norm = self._clip(optimizer.optimizer)
        self._note(step, tally, norm)
        optimizer.step()

    def _scheduled(self, lr: float, step: int) -> float:
        """The learning rate of a step for parameters whose highest is `lr`."""
        return make_schedule(self.spec.schedule, lr, self.horizon_steps)(step)

    def _accumulate(self, batch: Batch, step: int, stage: int) -> Tensor:
        """Gradients of the global mean loss; returns [2] (sum of loss times count, count) over all processes."""
        rng = SampleRng(self.spec.seed, self.plan.place(step).epoch)
        while True:
            try:
                self.zero_grad(set_to_none=True)
                return self._backward_all(batch, rng, self.micro_batches[stage])
            except torch.OutOfMemoryError as error:
                rows = min(self.micro_batches[stage], len(batch.index))
                if rows == 1 or self.trainer.world_size > 1:
                    raise BackendError(
                        f"train.micro_batch: {rows} sequences of {batch.tokens.shape[1]} tokens do not fit into the "
                        f"memory of {self.device}; lower it, or set train.activation_checkpointing = true"
                    ) from error
            # a smaller micro-batch leaves the result as it is
            self.micro_batches[stage] = (rows + 1) // 2
            torch.cuda.empty_cache()
            log.warning("out of memory: going on with train.micro_batch = %d", self.micro_batches[stage])

    def _backward_all(self, batch: Batch, rng: SampleRng, micro_batch: int) -> Tensor:
        parts = [self.task.prepare(part, rng, is_training=True) for part in split_rows(batch, micro_batch)]
        counts = [self.task.count(part) for part in parts]
        total = self.trainer.strategy.reduce(torch.stack(counts).sum(), reduce_op="sum")
        assert isinstance(total, Tensor)
        # gradients of processes are averaged, hence the number of processes in the weight
        scale = self.trainer.world_size / total.clamp_min(torch.finfo(torch.float32).tiny)
        loss_sum = torch.zeros((), device=self.device)
        for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
            loss = self.task.loss(self.model, part).loss
            with self._quiet_backward(is_last=number == len(parts) - 1):
                self.manual_backward(loss * (count * scale))
            loss_sum += loss.detach() * count
        both = self.trainer.strategy.reduce(torch.stack([loss_sum, total / self.trainer.world_size]), reduce_op="sum")
        assert isinstance(both, Tensor)
        return both

    def _quiet_backward(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Without exchanging gradients between processes, except for the last micro-batch."""
        strategy = self.trainer.strategy
        if is_last or not isinstance(strategy, DDPStrategy):
            return nullcontext()
        assert strategy.model is not None
        context: AbstractContextManager[None] = strategy.model.no_sync()  # type: ignore[operator]
        return context

    def _clip(self, optimizer: Optimizer) -> Tensor:
        """Limits the gradient's norm; returns what it was before."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer)
        limit = self.spec.clip if self.spec.clip > 0 else float("inf")
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return torch.nn.utils.clip_grad_norm_(trained, limit)

    def _note(self, step: int, tally: Tensor, norm: Tensor) -> None:
        progress = self.run_progress
        progress.loss_sum += tally[0]
        progress.count_sum += tally[1]
        progress.grad_norm = norm.detach()
        is_bad = ~torch.isfinite(tally[0])
        if self.spec.precision != "16-mixed":  # there the scaler skips steps whose gradient overflows
            is_bad |= ~torch.isfinite(norm)
        progress.bad_step = torch.where(is_bad & (progress.bad_step < 0), step, progress.bad_step)


def split_rows(batch: Batch, rows: int) -> list[Batch]:
    """The batch in pieces of at most `rows` examples, views kept together."""
    size = len(batch.index)
    if rows >= size:
        return [batch]
    pieces = []
    for begin in range(0, size, rows):
        end = min(begin + rows, size)

        def cut(tensor: Tensor | None, begin: int = begin, end: int = end) -> Tensor | None:
            if tensor is None or len(tensor) == size:
                return None if tensor is None else tensor[begin:end]
            views = tensor.reshape(-1, size, *tensor.shape[1:])  # [V, B, ...]
            return views[:, begin:end].flatten(0, 1)

        tokens = cut(batch.tokens)
        assert tokens is not None
        pieces.append(Batch(tokens, cut(batch.mask), cut(batch.target), batch.index[begin:end], cut(batch.weight)))
    return pieces
