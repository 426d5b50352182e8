"""The order of an epoch is a keyed permutation, and a step's place in it is arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargaff.data.order import _SORTED_UP_TO, EpochOrder, StepPlan
from chargaff.errors import ConfigError

SIZES = [1, 2, 3, 17, 1000, _SORTED_UP_TO, _SORTED_UP_TO + 1, 70_003, 2**18 - 1]
RECORDED = {5: [0, 2, 4, 1, 3], 100_000: [14325, 15593, 78957]}
"""Another value would break the resuming of every run made so far."""


@pytest.mark.parametrize("size", SIZES)
def test_every_sample_occurs_once(size):
    order = EpochOrder(size, seed=5, epoch=1)[:]
    assert order.dtype == np.int64
    assert (np.sort(order) == np.arange(size)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(_SORTED_UP_TO + 1, 2**40), st.integers(0, 10**6), st.data())
def test_large_orders_map_different_positions_to_different_samples(size, seed, data):
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=200, unique=True))
    samples = EpochOrder(size, seed, epoch=2)[np.array(positions)]
    assert len(set(samples.tolist())) == len(positions)
    assert samples.min() >= 0
    assert samples.max() < size


@pytest.mark.parametrize("size", [1000, 100_000])
def test_seed_and_epoch_give_unrelated_orders_that_never_change(size):
    order = EpochOrder(size, 1, 0)[:]
    assert (order == EpochOrder(size, 1, 0)[:]).all()
    for other in (EpochOrder(size, 2, 0)[:], EpochOrder(size, 1, 1)[:], np.arange(size)):
        assert (order == other).sum() < 12  # one expected
        assert abs(np.corrcoef(order, other)[0, 1]) < 6 / size**0.5
    assert EpochOrder(5, 1, 0)[:].tolist() == RECORDED[5]
    assert EpochOrder(100_000, 1, 0)[np.arange(3)].tolist() == RECORDED[100_000]


def test_positions_of_a_large_order_spread_evenly():
    """Samples of consecutive positions fall into tenths of the data as dice would."""
    size = 1_000_003
    samples = EpochOrder(size, 9, 4)[np.arange(50_000)]
    counts = np.bincount(samples * 10 // size, minlength=10)
    assert ((counts - 5000) ** 2 / 5000).sum() < 40  # 9 degrees of freedom
    gaps = np.diff(samples)
    assert abs((gaps > 0).mean() - 0.5) < 0.02


@given(st.integers(1, 4), st.data())
@settings(max_examples=40, deadline=None)
def test_ranks_share_each_step_and_steps_share_each_epoch(num_ranks, data):
    rows = data.draw(st.integers(1, 5))
    batch = rows * num_ranks
    size = data.draw(st.integers(batch, 60))
    plan = StepPlan((size,), (batch,), (1,), seed=3)
    steps = plan.steps_per_epoch()
    for epoch in range(2):
        order = EpochOrder(size, 3, epoch)
        seen = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            whole = order[plan.share(step)[1]]
            parts = [order[plan.share(step, rank, num_ranks)[1]] for rank in range(num_ranks)]
            assert np.concatenate(parts).tolist() == whole.tolist()
            assert plan.place(step).epoch == epoch
            seen += whole.tolist()
        assert len(set(seen)) == len(seen) == steps * batch > size - batch


def test_stages_follow_each_other_and_never_share_an_epoch():
    plan = StepPlan(num_samples=(10, 40), batch=(4, 8), steps=(3, 1), seed=0)
    places = [plan.place(step) for step in range(10)]
    assert [place.stage for place in places] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert [place.epoch for place in places] == [0, 0, 1, 2, 2, 2, 2, 2, 3, 3]
    assert [place.first for place in places] == [0, 4, 0, 0, 8, 16, 24, 32, 0, 8]
    assert [plan.samples_before(step) for step in (0, 1, 3, 4, 10)] == [0, 4, 12, 20, 68]


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch: 9 sequences a step, but the training data has only 8"):
        StepPlan((8,), (9,), (1,), seed=0)
    with pytest.raises(ConfigError, match="6 sequences cannot be shared equally by 4 devices"):
        StepPlan((8,), (6,), (1,), seed=0).share(0, 0, 4)
