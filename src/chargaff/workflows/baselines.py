"""Baselines that a model has to beat: logistic regression on k-mer frequencies."""

import itertools
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chargaff.errors import ConfigError, InputError
from chargaff.seq.alphabet import Sequence
from chargaff.seq.kmers import kmer_table


@dataclass(frozen=True, slots=True)
class KmerTrial:
    """One setting that was tried, and its score on the validation rows."""

    k: int
    canonical: bool
    """Both strands folded together, else counted as read."""
    inverse_penalty: float
    """C of the logistic regression: larger means less regularisation."""
    valid_mcc: float
    """Matthews correlation of the predicted classes."""


@dataclass(frozen=True, slots=True)
class KmerBaseline:
    """Standardised k-mer frequencies and a multinomial logistic regression."""

    chosen: KmerTrial
    trials: tuple[KmerTrial, ...]
    """All settings in the order of trial, the chosen one among them."""
    classes: tuple[int, ...]
    """Class number of each column of `predict`, ascending."""
    pipeline: Any

    def predict(self, sequences: Rows[Sequence]) -> npt.NDArray[np.float64]:
        """[n, C] class probabilities."""
        if not len(sequences):
            return np.zeros((0, len(self.classes)))
        table = kmer_table(sequences, self.chosen.k, canonical=self.chosen.canonical)
        probability: npt.NDArray[np.float64] = self.pipeline.predict_proba(table)
        return probability


def fit_kmer_baseline(
    train: Rows[Sequence],
    train_target: npt.NDArray[np.int64],
    valid: Rows[Sequence],
    valid_target: npt.NDArray[np.int64],
    *,
    ks: Rows[int] = (3, 4, 5),
    foldings: Rows[bool] = (True, False),
    inverse_penalties: Rows[float] = (1e-3, 1e-2, 1e-1),
) -> KmerBaseline:
    """The setting with the best validation MCC, fitted on the training rows alone.

    Ties go to the setting tried first: small k before large, canonical before plain, strong penalty before weak.

    Args:
        train, valid: sequences as uint8 ASCII arrays.
        train_target, valid_target: [n] class numbers, one per sequence.

    Raises:
        InputError: no rows, counts that differ, or fewer than two classes in the training rows.
    """
    from sklearn.metrics import matthews_corrcoef

    _check_rows("train", train, train_target)
    _check_rows("valid", valid, valid_target)
    if not (ks and foldings and inverse_penalties):
        raise ConfigError("ks, foldings and inverse_penalties: expected at least one value each")
    classes = np.unique(train_target)
    if len(classes) < 2:
        raise InputError(f"train: a classifier needs rows of at least two classes, all are of class {classes[0]}")
    fitted: list[tuple[KmerTrial, Any]] = []
    for k, canonical in itertools.product(ks, foldings):
        train_table = kmer_table(train, k, canonical=canonical)
        valid_table = kmer_table(valid, k, canonical=canonical)
        for inverse_penalty in inverse_penalties:
            pipeline = _pipeline(inverse_penalty).fit(train_table, train_target)
            mcc = float(matthews_corrcoef(valid_target, pipeline.predict(valid_table)))
            fitted.append((KmerTrial(k, canonical, inverse_penalty, mcc), pipeline))
    best, pipeline = max(fitted, key=lambda item: item[0].valid_mcc)
    return KmerBaseline(best, tuple(trial for trial, _ in fitted), tuple(int(c) for c in classes), pipeline)


def _pipeline(inverse_penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=1000))


def _check_rows(name: str, sequences: Rows[Sequence], target: npt.NDArray[np.int64]) -> None:
    if not len(sequences):
        raise InputError(f"{name}: no sequences")
    if len(sequences) != len(target):
        raise InputError(f"{name}: {len(sequences)} sequences but {len(target)} class numbers")
