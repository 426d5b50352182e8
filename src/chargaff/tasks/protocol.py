"""What is being learnt (DESIGN 2.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.model import Model


@dataclass(frozen=True, slots=True)
class LossOut:
    """The loss of a batch and what the metrics need to know."""

    loss: Tensor
    """[] float32, mean over what counts; 0 where nothing does."""
    count: Tensor
    """[] float32, what it is a mean over; `Task.count` of the batch."""
    outputs: Tensor | None
    """What the metrics take: class scores or values [B, outputs], or [] correct guesses; None in training mode."""


class Metrics(Protocol):
    """Sums or predictions of any number of batches, judged once at the end."""

    def update(self, batch: Batch, out: LossOut) -> None: ...
    def compute(self) -> dict[str, float]:
        """Name -> value; "loss" is always there."""
        ...

    def state(self) -> Any:
        """What another process needs to `merge`; tensors on the CPU."""
        ...

    def merge(self, states: list[Any]) -> None:
        """Replaces this state by the union of all ranks'."""
        ...


class Task(Protocol):
    """An objective; its fields are its options, and it owns no weights."""

    def head(self, model: Model) -> tuple[str, dict[str, Any]] | None:
        """Kind and options of the head this task needs, or None to keep the one the model has.

        Raises:
            ConfigError: the model cannot do this task.
        """
        ...

    def prepare(self, batch: Batch, rng: SampleRng, *, is_training: bool) -> Batch:
        """Augments, masks and makes targets, on the batch's device; a function of (rng, batch.index) only."""
        ...

    def count(self, batch: Batch) -> Tensor:
        """[] float32: what the loss of this prepared batch is a mean over (positions or rows, weighted)."""
        ...

    def loss(self, model: Model, batch: Batch) -> LossOut: ...

    def metrics(self) -> Metrics: ...
