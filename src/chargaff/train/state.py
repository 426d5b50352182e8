"""Where a run is: what is saved beside the weights, and the folder it is saved in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chargaff.data.batch import Source
from chargaff.data.loader import TokenRule
from chargaff.data.order import StepPlan
from chargaff.errors import CheckpointError
from chargaff.model import Model
from chargaff.tasks.protocol import Task
from chargaff.train.config import TrainSpec

LAST = Path("checkpoints/last.ckpt")


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended training early; the state is saved and `fit` with the same arguments goes on from it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run, checked and ready."""

    model: Model
    task: Task
    sources: tuple[Source, ...]
    valid: Source | None
    plan: StepPlan
    max_steps: int
    spec: TrainSpec
    rule: TokenRule
    out: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; fields as in FitResult."""

    steps: int
    stop_reason: str
    metrics: dict[str, float]
    best_step: int
    best_value: float | None


@dataclass
class Progress:
    """Values that decide how a run goes on; saved in every checkpoint, so resuming makes no difference."""

    loss_sum: Tensor
    """[] float64 on the device: loss times positions since the last row of the log."""
    count_sum: Tensor
    """[] float64: positions (or rows) since then."""
    bad_step: Tensor
    """[] int64: first step whose loss or gradient was not finite; -1 if none."""
    grad_norm: Tensor
    """[] norm of the last step's gradient before clipping."""
    best_value: float = inf
    best_step: int = -1
    evaluations_without_gain: int = 0
    last_good_step: int = -1
    """Of the newest checkpoint; -1 if none."""
    last_metrics: dict[str, float] = field(default_factory=dict)
    """Of the newest evaluation."""

    @classmethod
    def fresh(cls, device: torch.device) -> Progress:
        zero = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        bad = torch.full((), -1, dtype=torch.int64, device=device)
        return cls(zero, zero.clone(), bad, torch.zeros((), device=device))

    def state_dict(self) -> dict[str, Any]:
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in asdict(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            here = getattr(self, name)
            setattr(self, name, value.to(here.device) if isinstance(value, Tensor) else value)


def completed_steps(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint of ours has behind it.

    Raises:
        CheckpointError: damaged, or not one of ours.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except (RuntimeError, OSError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(
            f"{checkpoint}: not a readable training state ({str(error).splitlines()[0]}); delete it to start over"
        ) from None
