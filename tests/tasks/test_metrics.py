"""Metrics by hand, at their edges, and the same however the rows are batched."""

from math import isnan

import numpy as np
import pytest
import torch

from chargaff.data.batch import Batch
from chargaff.tasks.metrics import SequenceMetrics, score_classes, score_labels, score_values
from chargaff.tasks.protocol import LossOut


def logits_for(guesses: list[int], classes: int) -> np.ndarray:
    return 4.0 * np.eye(classes, dtype=np.float32)[guesses]


def test_two_classes_by_hand():
    # true positives 3, false positives 1, false negatives 2, true negatives 4
    targets = np.array([1] * 5 + [0] * 5)
    found = score_classes(logits_for([1, 1, 1, 0, 0, 1, 0, 0, 0, 0], 2), targets)
    assert found["accuracy"] == pytest.approx(0.7)
    assert found["f1"] == pytest.approx(6 / 9)
    assert found["f1_macro"] == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert found["mcc"] == pytest.approx((3 * 4 - 1 * 2) / (4 * 5 * 5 * 6) ** 0.5)
    # pairs of a positive and a negative: 3*4 right, 3*1 + 2*4 ties, 2*1 wrong
    assert found["auroc"] == pytest.approx((12 + 0.5 * 11) / 25)
    assert found["auprc"] == pytest.approx(3 / 5 * 3 / 4 + 2 / 5 * 5 / 10)


def test_three_classes_are_averaged_one_against_the_rest():
    targets = np.array([0, 0, 1, 1, 2, 2])
    found = score_classes(logits_for([0, 0, 1, 2, 2, 2], 3), targets)
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 4 / 5) / 3)
    assert found["auroc"] == pytest.approx((1 + 0.75 + 0.875) / 3)
    assert "f1" not in found


@pytest.mark.parametrize("classes", [2, 3])
def test_one_class_only_has_no_area_and_no_correlation(classes):
    found = score_classes(logits_for([0, 0, 0], classes), np.zeros(3, np.int64))
    assert isnan(found["auroc"])
    assert isnan(found["auprc"])
    assert found["mcc"] == 0.0
    assert found["accuracy"] == 1.0


def test_constant_guess_has_no_correlation():
    assert score_classes(logits_for([0, 0, 0, 0], 2), np.array([0, 1, 0, 1]))["mcc"] == 0.0


def test_labels_by_hand():
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32)
    found = score_labels(np.array([[2, -1], [-1, 1], [-1, -1], [-2, 2]], np.float32), truth)
    assert found["accuracy"] == pytest.approx(7 / 8)
    assert found["exact_match"] == pytest.approx(3 / 4)
    assert found["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["f1_micro"] == pytest.approx(6 / 7)
    assert found["auroc"] == pytest.approx(((1 + 1 + 0.5 + 1) / 4 + 1) / 2)


def test_values_by_hand():
    truth, guess = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0, 16.0])
    found = score_values(guess[:, None], truth)
    assert found["mse"] == pytest.approx((0 + 4 + 36 + 144) / 4)
    assert found["mae"] == pytest.approx((0 + 2 + 6 + 12) / 4)
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(np.corrcoef(truth, guess)[0, 1])
    assert found["r2"] == pytest.approx(1 - 184 / 5)


def test_equal_values_share_their_rank_and_constants_have_no_correlation():
    found = score_values(np.array([[1.0], [1.0], [2.0]]), np.array([3.0, 5.0, 5.0]))
    assert found["spearman"] == pytest.approx(np.corrcoef([1.5, 1.5, 3], [1, 2.5, 2.5])[0, 1])
    constant = score_values(np.ones((3, 1)), np.array([1.0, 2.0, 3.0]))
    assert isnan(constant["pearson"])
    assert isnan(constant["spearman"])
    assert isnan(score_values(np.array([[1.0], [2.0]]), np.array([1.0, 1.0]))["r2"])


def fed(metrics: SequenceMetrics, outputs: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> SequenceMetrics:
    begin = 0
    for size in sizes:
        rows = slice(begin, begin + size)
        batch = Batch(torch.zeros(size, 1), None, targets[rows], torch.arange(len(targets))[rows])
        loss = torch.nn.functional.cross_entropy(outputs[rows], targets[rows])
        metrics.update(batch, LossOut(loss, torch.tensor(float(size)), outputs[rows]))
        begin += size
    return metrics


def test_scores_do_not_depend_on_batches_or_on_the_order_of_processes():
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(60, 3, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    whole = fed(SequenceMetrics("single-label"), outputs, targets, [60])
    parts = fed(SequenceMetrics("single-label"), outputs, targets, [7, 33, 20])
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-6)
    merged = SequenceMetrics("single-label")
    merged.merge([parts.state()[1:], parts.state()[:1]])
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-6)
    assert merged.predictions()[0].tolist() == list(range(60))
    np.testing.assert_array_equal(merged.predictions()[1], outputs.numpy())


def test_average_over_batches_is_the_published_one_and_differs():
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(40, 2, generator=generator), torch.randint(0, 2, (40,), generator=generator)
    averaged = fed(SequenceMetrics("single-label", is_per_batch=True), outputs, targets, [10, 30])
    parts = [score_classes(outputs[rows].numpy(), targets[rows].numpy()) for rows in (slice(10), slice(10, 40))]
    assert averaged.compute()["mcc"] == pytest.approx(np.mean([part["mcc"] for part in parts]))
    assert averaged.compute()["mcc"] != pytest.approx(
        fed(SequenceMetrics("single-label"), outputs, targets, [40]).compute()["mcc"], rel=1e-3
    )
