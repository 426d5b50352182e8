"""Windows cover every base, batches hold every row: properties against plain loops."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargaff.data.batch import Grid
from chargaff.data.windows import (
    SHORTEST_ROW,
    Padding,
    bins_inside,
    grid_span,
    overlap_weights,
    plan_batches,
    plan_windows,
)
from chargaff.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    padding: Padding


sizes = st.integers(1, 40).flatmap(lambda window: st.tuples(st.just(window), st.integers(0, window - 1)))
records = st.lists(st.integers(0, 200), min_size=0, max_size=8)


def naive_windows(length: int, window: int, overlap: int) -> list[tuple[int, int]]:
    if length == 0:
        return []
    if length <= window:
        return [(0, length)]
    found, start = [], 0
    while start + window < length:
        found.append((start, window))
        start += window - overlap
    return [*found, (length - window, window)]


@given(records, sizes)
def test_windows_are_those_of_a_plain_loop(lengths, size):
    plan = plan_windows(lengths, *size)
    expected = [(row, *w) for row, length in enumerate(lengths) for w in naive_windows(length, *size)]
    rows = zip(plan.record.tolist(), plan.start_bp.tolist(), plan.length_bp.tolist(), strict=True)
    assert list(rows) == expected


@given(records, sizes)
def test_each_base_is_kept_by_exactly_one_window(lengths, size):
    plan = plan_windows(lengths, *size)
    for row, length in enumerate(lengths):
        kept = np.zeros(length, dtype=int)
        for w in np.flatnonzero(plan.record == row):
            assert 0 <= plan.keep_start_bp[w] < plan.keep_stop_bp[w] <= plan.length_bp[w]
            kept[plan.start_bp[w] + plan.keep_start_bp[w] : plan.start_bp[w] + plan.keep_stop_bp[w]] += 1
        assert (kept == 1).all()
        assert plan.weight_bp[plan.record == row].sum() == length


@given(records, sizes)
def test_overlap_weights_average_to_one_per_base(lengths, size):
    plan = plan_windows(lengths, *size)
    for row, length in enumerate(lengths):
        total, covered = np.zeros(length), np.zeros(length)
        for w in np.flatnonzero(plan.record == row):
            inside = slice(plan.start_bp[w], plan.start_bp[w] + plan.length_bp[w])
            total[inside] += overlap_weights(plan, w)
            covered[inside] += 1
        np.testing.assert_allclose(total, 1, atol=1e-5)  # float32 sum of up to 40 terms
        assert (covered > 0).all()


@pytest.mark.parametrize(
    ("window", "overlap", "message"), [(0, 0, "window_bp"), (10, 10, "overlap_bp"), (10, -1, "overlap_bp")]
)
def test_impossible_window_sizes_are_refused(window, overlap, message):
    with pytest.raises(ConfigError, match=message):
        plan_windows([100], window, overlap)


@given(
    st.lists(st.integers(0, 60), max_size=60),
    st.sampled_from(["masked", "causal", "never"]),
    st.integers(1, 300),
)
def test_batches_obey_budget_rule_and_hold_each_row_once(lengths, padding, batch_tokens):
    batches = plan_batches(lengths, Rule(padding), batch_tokens)
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    longest_of_each = []
    for batch in batches:
        rows = [lengths[i] for i in batch]
        assert len(rows) == 1 or max(rows) * len(rows) <= batch_tokens or max(rows) == 0
        assert padding != "never" or len(set(rows)) == 1
        assert min(rows) >= SHORTEST_ROW * max(rows)
        longest_of_each.append(max(rows))
    assert longest_of_each == sorted(longest_of_each, reverse=True)


def test_equal_rows_share_batches_in_source_order():
    batches = plan_batches([5, 9, 5, 9, 5], Rule("never"), 10)
    assert [batch.tolist() for batch in batches] == [[1], [3], [0, 2], [4]]


@given(st.integers(-5, 5), st.integers(1, 4), st.integers(0, 8), st.integers(-10, 40), st.integers(-10, 40))
def test_bins_inside_are_those_of_a_plain_loop(offset, step, size, begin, end):
    grid = Grid(offset, step, size)
    expected = [j for j in range(size) if begin <= offset + j * step and offset + (j + 1) * step <= end]
    found = bins_inside(grid, begin, end)
    assert list(range(size))[found] == expected
    assert grid_span(grid, 100) == (100 + offset, 100 + offset + size * step)
