"""Cross entropy over positions in float32 without a float32 copy of all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Logits that are widened to float32 at a time (16 MiB)."""


def _chunks(rows: int, classes: int) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // classes)
    return [slice(begin, begin + size) for begin in range(0, rows, size)]


class _WeightedSum(torch.autograd.Function):
    """sum(weight * cross entropy); keeps the logits as they are plus one float a row, recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        log_total = torch.empty(len(target), device=logits.device)
        total = logits.new_zeros((), dtype=torch.float32)
        for part in _chunks(*logits.shape):
            scores = logits[part].float()
            log_total[part] = scores.logsumexp(1)
            chosen = scores.gather(1, target[part].unsqueeze(1)).squeeze(1)
            total += ((log_total[part] - chosen) * weight[part]).sum()
        ctx.save_for_backward(logits, target, weight, log_total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, target, weight, log_total = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part in _chunks(*logits.shape):
            slope = (logits[part].float() - log_total[part].unsqueeze(1)).exp_()
            slope.scatter_add_(1, target[part].unsqueeze(1), slope.new_full((len(slope), 1), -1.0))
            result[part] = slope.mul_((weight[part] * grads[0]).unsqueeze(1))
        return result, None, None


def cross_entropy(
    logits: Tensor, target: Tensor, *, ignore: int, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(mean loss, total weight) over the positions that count; without any the loss is 0 and so is its gradient.

    Args:
        logits: [..., V], any float dtype.
        target: [...] integer ids.
        ignore: target that does not count.
        weight: [...] weight of each position; None: 1. The loss is sum(weight * loss) / sum(weight).
    """
    flat = target.reshape(-1).long()
    counts = flat != ignore
    effective = counts.float() if weight is None else weight.reshape(-1).float() * counts
    total_weight = effective.sum()
    safe = flat.masked_fill(~counts, 0)
    rows = logits.reshape(-1, logits.shape[-1])
    share = effective / total_weight.clamp_min(torch.finfo(torch.float32).tiny)
    total: Tensor = _WeightedSum.apply(rows, safe, share)  # type: ignore[no-untyped-call]
    return total, total_weight
