"""Curves, calibration and confidence intervals of predictions.

Every score takes a weight per row, so that a bootstrap replicate is a vector of counts and nothing is sorted twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.tasks.metrics import Problem, score_values

Floats = NDArray[np.floating[Any]]

LEVEL = 0.95
"""Of all intervals and bands."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Rows in order of falling score, with equal scores taken together."""

    order: NDArray[np.int64]
    """[n] row numbers."""
    ends: NDArray[np.int64]
    """[t] place in `order` of the last row of each distinct score."""
    positive: NDArray[np.bool_]
    """[n] in the order of `order`."""

    @staticmethod
    def of(score: Floats, positive: NDArray[np.bool_]) -> Ranking:
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        return Ranking(order, ends, positive[order])

    def counts(self, weight: Floats) -> tuple[Floats, Floats]:
        """Weighted (true positives [t], false positives [t]) when all rows down to each distinct score are called."""
        ranked = weight[self.order]
        positive = np.cumsum(np.where(self.positive, ranked, 0))[self.ends]
        return positive, np.cumsum(ranked)[self.ends] - positive


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What ROC and precision-recall curves are drawn from."""

    true_positives: Floats
    """[t], one for each distinct score, falling."""
    false_positives: Floats

    @property
    def is_defined(self) -> bool:
        """Whether both kinds of rows are there."""
        return bool(self.true_positives[-1] > 0 and self.false_positives[-1] > 0)

    def roc(self) -> tuple[Floats, Floats]:
        """(false-positive rate, true-positive rate) [t + 1], from (0, 0) on."""
        false = np.append(0, self.false_positives) / self.false_positives[-1]
        return false, np.append(0, self.true_positives) / self.true_positives[-1]

    def precision_recall(self) -> tuple[Floats, Floats]:
        """(recall, precision) [s <= t] at the scores that call at least one row."""
        called = self.true_positives + self.false_positives
        some = called > 0
        true = self.true_positives[some]
        return true / self.true_positives[-1], true / called[some]

    def auroc(self) -> float:
        """Area under the ROC curve; NaN if it is not defined."""
        if not self.is_defined:
            return nan
        false, true = self.roc()
        return float((np.diff(false) * (true[1:] + true[:-1])).sum() / 2)

    def auprc(self) -> float:
        """Average precision: the sum of precision times gain of recall; NaN if it is not defined."""
        if not self.is_defined:
            return nan
        recall, precision = self.precision_recall()
        return float((np.diff(recall, prepend=0) * precision).sum())

    def roc_at(self, false_rate: Floats) -> Floats:
        """True-positive rate at given false-positive rates."""
        return np.interp(false_rate, *self.roc())

    def precision_at(self, recalls: Floats) -> Floats:
        """Precision where each recall is first reached."""
        recall, precision = self.precision_recall()
        reached = np.searchsorted(recall, recalls - 1e-12)
        return precision[np.minimum(reached, len(recall) - 1)]


class Judged:
    """Predictions of one repetition, ready to be scored under many weights."""

    def __init__(self, problem: Problem, values: Floats, target: NDArray[Any]) -> None:
        """Sorts the rows.

        Args:
            values: [n, C] probabilities of classes or labels, or values.
            target: [n] classes, or [n, C] 0/1 labels or values.
        """
        self.problem: Problem = problem
        self.values = np.asarray(values, np.float64)
        self.target = target
        self.truth = _truth(problem, self.values, target)
        self.guess = self.values.argmax(1) if problem == "single-label" else self.values > 0.5
        columns = range(self.values.shape[1]) if problem != "regression" else ()
        self.rankings = [Ranking.of(self.values[:, k], self.truth[:, k]) for k in columns]

    def curve(self, column: int, weight: Floats | None = None) -> Curve:
        """Of one class against the rest, or of one label."""
        return Curve(*self.rankings[column].counts(np.ones(len(self.values)) if weight is None else weight))

    def confusion(self, weight: Floats | None = None) -> Floats:
        """[C, C], rows are the true classes."""
        classes = self.values.shape[1]
        cell = self.target * classes + self.guess
        counts = np.bincount(cell, weights=weight, minlength=classes**2)
        return counts.reshape(classes, classes).astype(np.float64)

    def label_counts(self, weight: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """Weighted (true positives, false positives, false negatives) [C] of labels; of classes against the rest."""
        if self.problem == "single-label":
            confusion = self.confusion(weight)
            right = confusion.diagonal()
            return right, confusion.sum(0) - right, confusion.sum(1) - right
        scale = np.ones(len(self.values)) if weight is None else weight
        return scale @ (self.truth & self.guess), scale @ (~self.truth & self.guess), scale @ (self.truth & ~self.guess)

    def curves(self, weight: Floats | None = None) -> list[Curve]:
        """One for each class or label; none of values."""
        return [self.curve(column, weight) for column in range(len(self.rankings))]

    def scores(self, weight: Floats | None = None, curves: Sequence[Curve] | None = None) -> dict[str, float]:
        """The scores that `tasks.metrics.score` names, of rows that count `weight` times (whole numbers).

        Args:
            curves: of the same weight, where they are known already.
        """
        if self.problem == "regression":
            rows = np.arange(len(self.values)) if weight is None else np.repeat(np.arange(len(weight)), _whole(weight))
            return score_values(self.values[rows], self.target[rows])
        curves = self.curves(weight) if curves is None else curves
        result = self._called(weight)
        if self.problem == "single-label" and len(curves) == 2:
            curves = curves[1:]
        result["auroc"] = float(np.mean([curve.auroc() for curve in curves]))
        result["auprc"] = float(np.mean([curve.auprc() for curve in curves]))
        return result

    def _called(self, weight: Floats | None) -> dict[str, float]:
        """Scores of what is called, whatever its probability."""
        right, wrong, missed = self.label_counts(weight)
        f1 = 2 * right / np.maximum(2 * right + wrong + missed, 1e-300)
        if self.problem == "single-label":
            confusion = self.confusion(weight)
            result = {"accuracy": float(confusion.trace() / confusion.sum())}
            result |= {"f1_macro": float(f1.mean()), "mcc": matthews(confusion)}
            return result | ({"f1": float(f1[1])} if len(f1) == 2 else {})
        scale = np.ones(len(self.values)) if weight is None else weight
        agrees, total = self.truth == self.guess, 2 * right.sum() + wrong.sum() + missed.sum()
        return {
            "accuracy": float(scale @ agrees.mean(1) / scale.sum()),
            "exact_match": float(scale @ agrees.all(1) / scale.sum()),
            "f1_macro": float(f1.mean()),
            "f1_micro": float(2 * right.sum() / total) if total else 0.0,
        }


def matthews(confusion: Floats) -> float:
    """Matthews correlation of a confusion matrix [C, C]; 0 where it is not defined."""
    total, right = float(confusion.sum()), float(confusion.trace())
    true, called = confusion.sum(1).astype(np.float64), confusion.sum(0).astype(np.float64)
    product = float((total**2 - true @ true) * (total**2 - called @ called))
    return float((right * total - true @ called) / product**0.5) if product > 0 else 0.0


def resample(num_rows: int, groups: NDArray[np.int64] | None, repeats: int, seed: int) -> Iterator[Floats]:
    """Bootstrap replicates as how often each row counts [n].

    Args:
        groups: [n] group of each row, from 0; whole groups are drawn. None: single rows are.
    """
    rng = np.random.default_rng(seed)
    count = num_rows if groups is None else int(groups.max()) + 1
    for _ in range(repeats):
        drawn = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)
        yield drawn if groups is None else drawn[groups]


def interval(replicates: Floats) -> tuple[Any, Any]:
    """(low, high) ends of the middle 95 % over the first axis; replicates that are not defined are left out."""
    if np.isnan(replicates).all():
        return nan, nan
    low, high = np.nanquantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def wilson(right: Floats, total: Floats) -> tuple[Floats, Floats]:
    """95 % interval of a share, by Wilson's score; [0, 1] where nothing was counted."""
    z = 1.959963984540054
    safe = np.maximum(total, 1)
    centre = (right + z**2 / 2) / (safe + z**2)
    half = z / (safe + z**2) * np.sqrt(right * (safe - right) / safe + z**2 / 4)
    return np.where(total > 0, centre - half, 0.0), np.where(total > 0, centre + half, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """How often predictions of a stated probability are right, in bins of equal width."""

    edges: Floats
    """[bins + 1]"""
    counts: Floats
    """[bins]"""
    stated: Floats
    """[bins] mean probability; NaN in an empty bin."""
    observed: Floats
    """[bins] share that is right; NaN in an empty bin."""
    low: Floats
    high: Floats
    error: float
    """Expected calibration error: mean over rows of |observed - stated| of their bin."""

    @staticmethod
    def of(
        probability: Floats, is_right: NDArray[np.bool_], bins: int = 10, weight: Floats | None = None
    ) -> Calibration:
        """Of events with stated probabilities [n], each counting once or `weight` [n] times."""
        edges = np.linspace(0, 1, bins + 1)
        times = np.ones(len(probability)) if weight is None else weight
        place = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
        counts = np.bincount(place, weights=times, minlength=bins).astype(np.float64)
        right = np.bincount(place, weights=is_right * times, minlength=bins).astype(np.float64)
        safe = np.where(counts > 0, counts, nan)
        stated = np.bincount(place, weights=probability * times, minlength=bins) / safe
        gap = np.nan_to_num(np.abs(right / safe - stated))
        low, high = wilson(right, counts)
        return Calibration(edges, counts, stated, right / safe, low, high, float(gap @ counts / max(counts.sum(), 1)))


def calibrations(judged: Judged, names: Sequence[str]) -> dict[str, Calibration]:
    """What is calibrated -> how well: the second of two classes, the predicted one of more, every label."""
    if judged.problem == "multi-label":
        return {name: Calibration.of(judged.values[:, k], judged.truth[:, k]) for k, name in enumerate(names)}
    if len(names) == 2:
        return {f"probability of {names[1]}": Calibration.of(judged.values[:, 1], judged.truth[:, 1])}
    return {"probability of the predicted class": Calibration.of(judged.values.max(1), judged.guess == judged.target)}


def _truth(problem: Problem, values: Floats, target: NDArray[Any]) -> NDArray[np.bool_]:
    """[n, C] whether each class or label is true; empty for values."""
    if problem == "regression":
        return np.zeros((len(values), 0), np.bool_)
    if problem == "multi-label":
        return np.asarray(target) > 0.5
    truth: NDArray[np.bool_] = np.asarray(target)[:, None] == np.arange(values.shape[1])
    return truth


def _whole(weight: Floats) -> NDArray[np.int64]:
    return np.rint(weight).astype(np.int64)
