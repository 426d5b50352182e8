"""Loss and metrics of a model on held-out data."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.model import Model, autocast, evaluating
from chargaff.tasks.protocol import Metrics, Task

EVALUATION_EPOCH = -1
"""Random numbers of evaluation (what is masked) come from this epoch, so every evaluation asks the same."""


def evaluate(
    model: Model, task: Task, batches: Iterable[Batch], *, seed: int, precision: str = "32", is_shared: bool = False
) -> Metrics:
    """The task's metrics after all batches.

    The model's mode and gradients are left as they were.

    Args:
        is_shared: the batches are this process's share of the data; the result is that of all processes together.
    """
    metrics = task.metrics()
    rng = SampleRng(seed, EVALUATION_EPOCH)
    with evaluating(model), torch.no_grad(), autocast(model.device, precision_dtype(precision)):
        for batch in batches:
            ready = task.prepare(batch.to(model.device), rng, is_training=False)
            metrics.update(ready, task.loss(model, ready))
    if is_shared and torch.distributed.is_available() and torch.distributed.is_initialized():
        states = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, metrics.state())
        metrics.merge(states)
    return metrics


def precision_dtype(precision: str) -> torch.dtype | None:
    """Of matrix products at a training precision; None: as the weights are."""
    return {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]
