"""Curves, scores, intervals and calibration agree with scikit-learn, with our metrics, and with worked examples."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from chargaff.report.statistics import Calibration, Curve, Judged, Ranking, interval, matthews, resample, wilson
from chargaff.tasks.metrics import score, softmax

# float64 sums in another order
TOLERANCE = {"rel": 1e-9, "abs": 1e-12}


def scored(seed: int, rows: int = 101, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < 0.3
    value = rng.normal(size=rows) + positive
    return (np.round(value, 1) if ties else value), positive


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_areas_are_those_of_scikit_learn(ties, is_weighted):
    value, positive = scored(1, ties=ties)
    weight = np.random.default_rng(2).integers(0, 4, len(value)).astype(float) if is_weighted else np.ones(len(value))
    curve = Curve(*Ranking.of(value, positive).counts(weight))
    assert curve.auroc() == pytest.approx(roc_auc_score(positive, value, sample_weight=weight), **TOLERANCE)
    assert curve.auprc() == pytest.approx(average_precision_score(positive, value, sample_weight=weight), **TOLERANCE)


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties):
    value, positive = scored(3, ties=ties)
    curve = Curve(*Ranking.of(value, positive).counts(np.ones(len(value))))
    false_rate, true_rate, _ = roc_curve(positive, value, drop_intermediate=False)
    np.testing.assert_allclose(curve.roc(), [false_rate, true_rate], atol=1e-12)
    precision, recall, _ = precision_recall_curve(positive, value)
    ours = curve.precision_recall()
    np.testing.assert_allclose(ours, [recall[:-1][::-1], precision[:-1][::-1]], atol=1e-12)
    grid = np.linspace(0, 1, 11)
    expected = [ours[1][np.flatnonzero(ours[0] >= r - 1e-12)[0]] for r in grid]
    np.testing.assert_allclose(curve.precision_at(grid), expected)


def test_a_class_without_rows_has_no_curve():
    value, positive = scored(4, ties=False)
    curve = Curve(*Ranking.of(value, positive).counts((~positive).astype(float)))
    assert not curve.is_defined
    assert np.isnan([curve.auroc(), curve.auprc()]).all()


def answers(problem: str, rows: int = 63) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(outputs as the metrics take them, as the report takes them, targets)."""
    rng = np.random.default_rng(5)
    outputs = rng.normal(size=(rows, 3))
    if problem == "binary":
        target = rng.integers(0, 2, rows)
        return outputs[:, :2], softmax(outputs[:, :2]), target
    if problem == "single-label":
        return outputs, softmax(outputs), rng.integers(0, 3, rows)
    if problem == "multi-label":
        return outputs, 1 / (1 + np.exp(-outputs)), (rng.random((rows, 3)) < 0.4).astype(np.float32)
    return outputs, outputs, outputs + rng.normal(size=(rows, 3))


@pytest.mark.parametrize("problem", ["binary", "single-label", "multi-label", "regression"])
def test_a_replicate_scores_as_its_rows_repeated(problem):
    outputs, values, target = answers(problem)
    kind = "single-label" if problem == "binary" else problem
    judged = Judged(kind, values, target)
    assert judged.scores() == pytest.approx(score(kind, outputs, target), **TOLERANCE)
    for weight in resample(len(values), None, 5, seed=6):
        rows = np.repeat(np.arange(len(values)), weight.astype(int))
        assert judged.scores(weight) == pytest.approx(score(kind, outputs[rows], target[rows]), **TOLERANCE)


def test_a_constant_guess_has_no_correlation():
    assert matthews(np.array([[5.0, 0], [7, 0]])) == 0
    assert matthews(np.array([[5.0, 0], [0, 7]])) == 1


def test_replicates_draw_whole_groups_and_repeat_themselves():
    groups = np.repeat(np.arange(7), 3)
    drawn = list(resample(21, groups, 20, seed=1))
    for weight in drawn:
        assert (weight.reshape(7, 3) == weight.reshape(7, 3)[:, :1]).all()
        assert weight.sum() == 21
    np.testing.assert_array_equal(drawn, list(resample(21, groups, 20, seed=1)))


def test_the_interval_of_a_mean_has_its_textbook_width():
    values = np.random.default_rng(7).normal(size=400)
    means = np.array([weight @ values / 400 for weight in resample(400, None, 2000, seed=0)])
    low, high = interval(means)
    # 2,000 replicates: the ends vary by about 3 %
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert low < values.mean() < high


def test_undefined_replicates_are_left_out():
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()


def test_wilson_interval_of_known_counts():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    low, high = wilson(np.array([81.0, 15, 0, 1, 0]), np.array([263.0, 148, 20, 29, 0]))
    np.testing.assert_allclose(low, [0.2553, 0.0624, 0.0, 0.0061, 0], atol=5e-5)
    np.testing.assert_allclose(high, [0.3662, 0.1605, 0.1611, 0.1718, 1], atol=5e-5)


def test_calibration_of_a_worked_example():
    found = Calibration.of(np.array([0.0, 0.1, 0.15, 0.95, 1.0]), np.array([False, False, True, True, True]))
    assert found.counts.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    np.testing.assert_allclose(found.stated[[0, 1, 9]], [0.05, 0.15, 0.975])
    np.testing.assert_allclose(found.observed[[0, 1, 9]], [0, 1, 1])
    assert found.error == pytest.approx((2 * 0.05 + 0.85 + 2 * 0.025) / 5)


def test_perfect_probabilities_are_calibrated():
    probability = np.random.default_rng(8).random(20_000)
    is_right = np.random.default_rng(9).random(20_000) < probability
    # the standard error of a bin's share is about 0.01
    assert Calibration.of(probability, is_right).error < 0.015
