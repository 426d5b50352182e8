"""k-mer counts against a naive count, and distances against their definitions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, jensenshannon

from chargaff.errors import ConfigError
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.seq.kmers import distances, kmer_counts, kmer_names, kmer_table

dna = st.text("ACGTacgtNR", max_size=60)


def naive_counts(text: str, k: int, canonical: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    for i in range(len(text) - k + 1):
        kmer = text[i : i + k].upper()
        if set(kmer) <= set("ACGT"):
            rc = to_string(reverse_complement(to_array(kmer)))
            counts[min(kmer, rc) if canonical else kmer] += 1
    return counts


@given(dna, st.integers(1, 5), st.booleans())
def test_counts_agree_with_a_naive_count(text, k, canonical):
    names = kmer_names(k, canonical=canonical)
    counts = kmer_counts(to_array(text), k, canonical=canonical)
    assert counts.shape == (len(names),)
    assert {name: n for name, n in zip(names, counts.tolist(), strict=True) if n} == naive_counts(text, k, canonical)


@given(dna, st.integers(1, 5))
def test_canonical_counts_are_the_same_for_both_strands(text, k):
    seq = to_array(text)
    assert np.array_equal(kmer_counts(seq, k), kmer_counts(reverse_complement(seq), k))


@pytest.mark.parametrize(("k", "columns"), [(1, 2), (2, 10), (3, 32), (4, 136), (5, 512)])
def test_number_of_canonical_kmers(k, columns):
    assert len(kmer_names(k)) == columns


def test_frequencies_sum_to_one_and_empty_rows_to_zero():
    table = kmer_table([to_array("ACGTTGCA"), to_array("NN"), to_array("")], 2)
    assert table.sum(1).tolist() == [1, 0, 0]
    assert kmer_table([], 2).shape == (0, 10)


@pytest.mark.parametrize(("metric", "scipy_name"), [("euclidean", "euclidean"), ("cosine", "cosine")])
def test_distances_agree_with_scipy(metric, scipy_name):
    rng = np.random.default_rng(0)
    a, b = rng.random((7, 10)), rng.random((3, 10))
    # both are float64; the euclidean form used here loses half the digits near zero
    np.testing.assert_allclose(distances(a, b, metric), cdist(a, b, scipy_name), atol=1e-7)


def test_jensen_shannon_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 6)), rng.random((5, 6))
    a[0, :3] = 0
    np.testing.assert_allclose(distances(a, b, "jensen-shannon"), cdist(a, b, lambda p, q: _jsd(p, q)), atol=1e-12)


def _jsd(p: np.ndarray, q: np.ndarray) -> float:
    return float(jensenshannon(p, q, base=2))


def test_distance_edges():
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert distances(zero, one, "cosine").item() == 1
    assert distances(one, one, "euclidean").item() == 0
    assert distances(np.zeros((0, 3)), one).shape == (0, 1)
    with pytest.raises(ConfigError, match="expected euclidean"):
        distances(one, one, "manhattan")
    with pytest.raises(ConfigError, match="1 to 12, got 13"):
        kmer_counts(to_array("ACGT"), 13)
