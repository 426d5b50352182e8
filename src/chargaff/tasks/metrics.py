"""Scores of predictions, computed once over all of them (or, on request, per batch and averaged)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, nan
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.batch import Batch
from chargaff.tasks.protocol import LossOut

Problem = Literal["single-label", "multi-label", "regression"]
Floats = NDArray[np.floating[Any]]


@dataclass
class TokenMetrics:
    """Of language models: loss and perplexity over all positions that count, and how often the best guess is right."""

    _tallies: list[Tensor] = field(default_factory=list)

    def update(self, batch: Batch, out: LossOut) -> None:
        assert out.outputs is not None, "language-model tasks tally correct guesses in evaluation mode"
        self._tallies.append(torch.stack([out.loss * out.count, out.count, out.outputs.float()]).detach())

    def compute(self) -> dict[str, float]:
        """loss, perplexity = exp(loss), accuracy; 0 loss if nothing counted."""
        total, count, correct = self.state().sum(0).tolist()
        loss = total / max(count, 1.0)
        return {"loss": loss, "perplexity": exp(min(loss, 700.0)), "accuracy": correct / max(count, 1.0)}

    def state(self) -> Tensor:
        """[batches, 3] float64: summed loss, positions, correct guesses."""
        return torch.stack(self._tallies).double().cpu() if self._tallies else torch.zeros(0, 3, dtype=torch.float64)

    def merge(self, states: list[Any]) -> None:
        self._tallies = list(torch.cat(states))


def count_correct(logits: Tensor, target: Tensor, ignore: int) -> Tensor:
    """[] positions whose highest score is the target, ignored ones not counted."""
    return ((logits.argmax(-1) == target) & (target != ignore)).sum()


@dataclass
class SequenceMetrics:
    """Of sequence tasks; keeps every prediction."""

    problem: Problem
    is_per_batch: bool = False
    """Average the scores of batches, as the published fine-tuning code does, instead of scoring all rows at once."""
    _parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def update(self, batch: Batch, out: LossOut) -> None:
        assert out.outputs is not None
        assert batch.target is not None
        tally = torch.stack([out.loss * out.count, out.count]).detach()
        self._parts.append((batch.index, out.outputs.detach().float(), batch.target, tally))

    def compute(self) -> dict[str, float]:
        """The loss and the scores that `score` names."""
        parts = self.state()
        total, count = torch.stack([part[3] for part in parts]).double().sum(0).tolist()
        if self.is_per_batch:
            scored = [score(self.problem, part[1].numpy(), part[2].numpy()) for part in parts]
            scores = {name: float(np.mean([batch[name] for batch in scored])) for name in scored[0]}
        else:
            scores = score(self.problem, *self.predictions()[1:])
        return {"loss": total / max(count, 1e-30), **scores}

    def predictions(self) -> tuple[NDArray[np.int64], Floats, NDArray[Any]]:
        """(row in the source [N] ascending, outputs [N, outputs], targets [N] or [N, outputs])."""
        index, outputs, targets, _ = (
            torch.cat(column).numpy() if number < 3 else column
            for number, column in enumerate(zip(*self.state(), strict=True))
        )
        order = np.argsort(index, kind="stable")
        return index[order], outputs[order], targets[order]

    def state(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        return [
            (index.cpu(), outputs.cpu(), target.cpu(), tally.cpu()) for index, outputs, target, tally in self._parts
        ]

    def merge(self, states: list[Any]) -> None:
        self._parts = [part for state in states for part in state]


def score(problem: Problem, outputs: Floats, targets: NDArray[Any]) -> dict[str, float]:
    """All scores of a problem.

    Args:
        outputs: class logits [N, C], label logits [N, K], or values [N, K].
        targets: classes [N], 0/1 labels [N, K], or values [N] or [N, K].
    """
    if problem == "single-label":
        return score_classes(outputs, targets)
    if problem == "multi-label":
        return score_labels(outputs, targets)
    return score_values(outputs, targets)


def score_classes(logits: Floats, targets: NDArray[np.int64]) -> dict[str, float]:
    """accuracy, f1_macro, mcc, auroc, auprc, and f1 of class 1 where there are two classes.

    The areas are NaN if a class has no row; for more than two classes they are one-against-rest, averaged.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    classes = logits.shape[1]
    guess = logits.argmax(1)
    result = {
        "accuracy": float(accuracy_score(targets, guess)),
        "f1_macro": float(f1_score(targets, guess, labels=range(classes), average="macro", zero_division=0)),
        "mcc": 0.0 if len(np.union1d(targets, guess)) < 2 else float(matthews_corrcoef(targets, guess)),
    }
    if classes == 2:
        result["f1"] = float(f1_score(targets, guess, zero_division=0))
        margin = logits[:, 1] - logits[:, 0]
        return {**result, **_areas(margin[:, None], (targets == 1)[:, None])}
    return {**result, **_areas(softmax(logits), targets[:, None] == np.arange(classes))}


def score_labels(logits: Floats, targets: NDArray[Any]) -> dict[str, float]:
    """accuracy over all labels, exact_match of rows, f1_macro, f1_micro, and the areas averaged over labels."""
    from sklearn.metrics import f1_score

    truth, guess = targets > 0.5, logits > 0
    return {
        "accuracy": float((truth == guess).mean()),
        "exact_match": float((truth == guess).all(1).mean()),
        "f1_macro": float(f1_score(truth, guess, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(truth, guess, average="micro", zero_division=0)),
        **_areas(logits, truth),
    }


def score_values(values: Floats, targets: NDArray[Any]) -> dict[str, float]:
    """mse, mae, r2, pearson, spearman, each averaged over outputs; correlations with a constant are NaN."""
    predicted = np.asarray(values, np.float64).reshape(len(values), -1)
    truth = np.asarray(targets, np.float64).reshape(len(targets), -1)
    error = predicted - truth
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    r2 = np.where(spread > 0, 1 - (error**2).sum(0) / np.where(spread > 0, spread, 1), nan)
    return {
        "mse": float((error**2).mean()),
        "mae": float(np.abs(error).mean()),
        "r2": float(r2.mean()),
        "pearson": _mean_over_columns(_correlation, predicted, truth),
        "spearman": _mean_over_columns(_rank_correlation, predicted, truth),
    }


def _areas(scores: Floats, truth: NDArray[np.bool_]) -> dict[str, float]:
    """Areas under both curves, averaged over columns; NaN if a column holds one class only."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not (truth.any(0) & ~truth.all(0)).all():
        return {"auroc": nan, "auprc": nan}
    return {
        "auroc": _mean_over_columns(lambda s, t: float(roc_auc_score(t, s)), scores, truth),
        "auprc": _mean_over_columns(lambda s, t: float(average_precision_score(t, s)), scores, truth),
    }


def _mean_over_columns(measure: Callable[[Any, Any], float], left: Any, right: Any) -> float:
    return float(np.mean([measure(a, b) for a, b in zip(left.T, right.T, strict=True)]))


def _correlation(left: Floats, right: Floats) -> float:
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / scale) if scale > 0 else nan


def _rank_correlation(left: Floats, right: Floats) -> float:
    return _correlation(_ranks(left), _ranks(right))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (np.cumsum(count) - (count - 1) / 2)[place]
    return shared


def softmax(logits: Floats) -> Floats:
    """[N, C] probabilities; summed in order of size, so that classes in another order give the same numbers."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    total: Floats = shifted / np.sort(shifted, axis=1).sum(1, keepdims=True)
    return total
