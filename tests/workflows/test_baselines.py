"""The k-mer logistic regression finds what k-mers hold, and is chosen on validation rows alone."""

import numpy as np
import pytest

from chargaff.errors import ConfigError, InputError
from chargaff.seq.alphabet import reverse_complement, to_array
from chargaff.workflows.baselines import fit_kmer_baseline


def random_sequences(rng, count, length_bp, motif=b""):
    rows = []
    for _ in range(count):
        row = to_array(b"ACGT")[rng.integers(0, 4, length_bp)]
        for start in range(5, length_bp - len(motif), 20) if motif else ():
            row[start : start + len(motif)] = to_array(motif)
        rows.append(row)
    return rows


@pytest.fixture
def two_classes():
    """Class 1 carries GATTC every 20 bases."""
    rng = np.random.default_rng(1)
    sequences = random_sequences(rng, 150, 101) + random_sequences(rng, 150, 101, b"GATTC")
    target = np.repeat([0, 1], 150)
    order = rng.permutation(300)
    return [sequences[i] for i in order], target[order]


def test_a_motif_is_found(two_classes):
    sequences, target = two_classes
    baseline = fit_kmer_baseline(sequences[:200], target[:200], sequences[200:240], target[200:240])
    probability = baseline.predict(sequences[240:])
    assert probability.shape == (60, 2)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-12)
    assert (probability.argmax(1) == target[240:]).mean() > 0.95


def test_the_setting_is_the_first_with_the_best_validation_score(two_classes):
    sequences, target = two_classes
    baseline = fit_kmer_baseline(sequences[:200], target[:200], sequences[200:240], target[200:240], ks=(1, 4))
    scores = [trial.valid_mcc for trial in baseline.trials]
    assert len(scores) == 2 * 2 * 3
    assert baseline.chosen == baseline.trials[scores.index(max(scores))]
    assert baseline.chosen.k == 4


def test_a_prediction_does_not_depend_on_the_other_rows(two_classes):
    sequences, target = two_classes
    baseline = fit_kmer_baseline(sequences[:200], target[:200], sequences[200:240], target[200:240], ks=(2,))
    # another number of rows lets the matrix product add in another order
    np.testing.assert_allclose(baseline.predict(sequences[240:])[:1], baseline.predict(sequences[240:241]), rtol=1e-12)


def test_canonical_counts_do_not_tell_the_strands_apart(two_classes):
    sequences, target = two_classes
    baseline = fit_kmer_baseline(sequences[:200], target[:200], sequences[200:240], target[200:240], foldings=(True,))
    other = [reverse_complement(row) for row in sequences[240:]]
    np.testing.assert_allclose(baseline.predict(sequences[240:]), baseline.predict(other), rtol=1e-12)


def test_columns_follow_the_class_numbers(two_classes):
    sequences, target = two_classes
    renamed = np.where(target == 1, 2, 7)
    baseline = fit_kmer_baseline(sequences[:200], renamed[:200], sequences[200:240], renamed[200:240])
    assert baseline.classes == (2, 7)
    assert (np.array(baseline.classes)[baseline.predict(sequences[240:]).argmax(1)] == renamed[240:]).mean() > 0.95


def test_no_rows_give_an_empty_table(two_classes):
    sequences, target = two_classes
    baseline = fit_kmer_baseline(sequences[:200], target[:200], sequences[200:240], target[200:240], ks=(1,))
    assert baseline.predict([]).shape == (0, 2)
    assert baseline.predict(np.zeros((0, 101), np.uint8)).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train": []}, InputError, "train: no sequences"),
        ({"valid_target": np.zeros(3, np.int64)}, InputError, "valid: 40 sequences but 3 class numbers"),
        ({"train_target": np.ones(200, np.int64)}, InputError, "at least two classes, all are of class 1"),
        ({"ks": ()}, ConfigError, "at least one value each"),
    ],
)
def test_wrong_rows_are_named(two_classes, change, error, message):
    sequences, target = two_classes
    rows = {
        "train": sequences[:200],
        "train_target": target[:200],
        "valid": sequences[200:240],
        "valid_target": target[200:240],
        **change,
    }
    with pytest.raises(error, match=message):
        fit_kmer_baseline(**rows)
