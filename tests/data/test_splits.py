"""Splits are the published ones, disjoint and complete."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import random_split

from chargaff.data.splits import block_split, contig_split, hub_split, region_split, torch_split
from chargaff.errors import ConfigError
from chargaff.seq.interval import Interval

CASES = json.loads(
    (Path(__file__).parents[1] / "goldens/data/caduceus/training_cases.json").read_text(encoding="utf-8")
)["genomic_benchmark_split"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["n"]))
def test_genomic_benchmark_split_is_the_published_one(case):
    valid, train = torch_split(case["n"], case["seed"])
    assert (len(valid), len(train)) == (case["n_val"], case["n_train"])
    assert valid[: len(case["val_indices"])].tolist() == case["val_indices"]
    assert train[: len(case["train_head"])].tolist() == case["train_head"]


@given(st.integers(2, 400), st.integers(0, 5), st.sampled_from([0.1, 0.25, 0.5, 1 / 3]))
def test_torch_split_equals_random_split(num_rows, seed, fraction):
    expected = random_split(range(num_rows), [fraction, 1 - fraction], torch.Generator().manual_seed(seed))
    valid, train = torch_split(num_rows, seed, fraction)
    assert valid.tolist() == list(expected[0].indices)
    assert train.tolist() == list(expected[1].indices)


@given(st.integers(2, 400), st.integers(0, 5))
def test_hub_split_is_complete_and_rounds_the_validation_part_up(num_rows, seed):
    valid, train = hub_split(num_rows, seed)
    assert len(valid) == -(-num_rows // 10)
    assert sorted([*valid, *train]) == list(range(num_rows))


def test_hub_split_of_ten_rows_is_numpys_default_permutation():
    valid, train = hub_split(10, 42)
    assert [*valid, *train] == np.random.default_rng(42).permutation(10).tolist()


def test_contig_split_names_unknown_contigs():
    held_out, rest = contig_split(["1", "2", "1", "3"], {"1"})
    assert (held_out.tolist(), rest.tolist()) == ([0, 2], [1, 3])
    with pytest.raises(ConfigError, match=r"chr1.*contigs are \['1', '2'\]"):
        contig_split(["1", "2"], {"chr1"})


@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 50), st.integers(1, 20)), max_size=30))
def test_rows_that_straddle_a_region_are_on_neither_side(rows):
    contigs, starts = [c for c, _, _ in rows], np.array([s for _, s, _ in rows], dtype=np.int64)
    ends = starts + np.array([n for _, _, n in rows], dtype=np.int64)
    inside, outside = region_split(contigs, starts, ends, [Interval("A", 10, 30)])
    for i, (contig, start, length) in enumerate(rows):
        bases = {(contig, b) for b in range(start, start + length)}
        held = {("A", b) for b in range(10, 30)}
        assert (i in inside) == (bases <= held)
        assert (i in outside) == (not bases & held)


def test_block_split_keeps_blocks_together():
    starts = np.arange(0, 20_000, 10, dtype=np.int64)
    contigs = ["1"] * 1000 + ["2"] * 1000
    valid, train = block_split(contigs, starts, starts + 10, seed=1, valid_fraction=0.1, block_bp=500)
    assert sorted([*valid, *train]) == list(range(2000))
    assert 200 <= len(valid) < 250
    assert not {(contigs[i], starts[i] // 500) for i in valid} & {(contigs[i], starts[i] // 500) for i in train}
    again, _ = block_split(contigs, starts, starts + 10, seed=1, valid_fraction=0.1, block_bp=500)
    assert np.array_equal(valid, again)


def test_rows_that_straddle_a_block_border_are_on_neither_side():
    starts = np.arange(0, 2000, 7, dtype=np.int64)
    valid, train = block_split(["1"] * len(starts), starts, starts + 30, seed=0, valid_fraction=0.3, block_bp=100)
    bases = [set(range(starts[i], starts[i] + 30)) for i in range(len(starts))]
    assert not set().union(*(bases[i] for i in valid)) & set().union(*(bases[i] for i in train))
    assert len(valid)
    assert len(train)


@pytest.mark.parametrize(("num_rows", "fraction"), [(1, 0.1), (10, 0.0), (10, 1.0)])
def test_impossible_splits_are_refused(num_rows, fraction):
    with pytest.raises(ConfigError):
        torch_split(num_rows, 0, fraction)
