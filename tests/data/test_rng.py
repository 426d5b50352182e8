"""Random numbers are a function of (seed, epoch, sample, position, purpose)."""

import numpy as np
import pytest
import torch

from chargaff.data.rng import SampleRng, key64, mix64

RNG = SampleRng(seed=2222, epoch=3)
RECORDED_KEY = -616156068048128755


def splitmix64(x: int) -> int:
    """The published finaliser in unbounded integers."""
    mask = (1 << 64) - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)


def test_mixing_is_splitmix64_for_any_word():
    words = [0, 1, 2**63 - 1, -1, -(2**63), 0x123456789ABCDEF, -987654321]
    expected = [splitmix64(word & (1 << 64) - 1) for word in words]
    assert [word & (1 << 64) - 1 for word in mix64(torch.tensor(words)).tolist()] == expected


def test_bits_are_the_outputs_of_splitmix64_from_a_start_per_sample():
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15
    for sample in (0, 5, 1 << 40):
        start = splitmix64((splitmix64((sample + key64(2222, 3, "x")) & mask) + golden) & mask)
        expected = [splitmix64((start + k * golden) & mask) for k in (1, 2, 3)]
        assert [word & mask for word in RNG.bits(torch.tensor([sample]), 3, "x")[0].tolist()] == expected


def test_numbers_never_change():
    """Recorded once; another value would break the resuming and repeating of every run made so far."""
    assert key64(1, "a") == RECORDED_KEY
    index = torch.tensor([0, 5, 1 << 40])
    assert RNG.integers(index, 3, "x", high=1000).tolist() == [[656, 358, 331], [150, 429, 284], [651, 159, 623]]


@pytest.mark.parametrize("draw", [lambda r, i: r.uniform(i, 9, "s"), lambda r, i: r.integers(i, 9, "s", high=12)])
def test_sample_does_not_depend_on_its_batch_or_on_the_columns_asked_for(draw):
    index = torch.tensor([7, 3, 900, 0])
    together = draw(RNG, index)
    alone = torch.cat([draw(RNG, row.reshape(1)) for row in index])
    assert torch.equal(together, alone)
    assert torch.equal(RNG.bits(index, 20, "s")[:, :9], RNG.bits(index, 9, "s"))


def test_seed_epoch_stream_sample_and_position_all_matter():
    index = torch.arange(100)
    base = RNG.bits(index, 50, "s")
    for other in (
        SampleRng(2223, 3).bits(index, 50, "s"),
        SampleRng(2222, 4).bits(index, 50, "s"),
        RNG.bits(index, 50, "t"),
        RNG.bits(index + 100, 50, "s"),
    ):
        assert not (base == other).any()
    assert len(base.unique()) == base.numel()


def test_uniform_is_uniform_and_below_one():
    values = RNG.uniform(torch.arange(400), 1000, "u")
    assert values.dtype == torch.float32
    assert 0 <= values.min() < 1e-4
    assert 0.9999 < values.max() < 1
    counts = torch.histc(values, bins=100, min=0, max=1)
    chi2 = float(((counts - 4000) ** 2 / 4000).sum())
    assert 50 < chi2 < 160  # 99 degrees of freedom: 99 +- 14, five deviations
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize("high", [1, 2, 12, 1000, 2**31])
def test_integers_cover_their_range_evenly(high):
    values = RNG.integers(torch.arange(200), 500, "i", high=high)
    assert values.min() >= 0
    assert values.max() < high
    if high <= 12:
        counts = torch.bincount(values.ravel(), minlength=high).double()
        assert ((counts / 100_000 - 1 / high).abs() < 5 * (1 / high / 100_000) ** 0.5).all()
    else:
        assert abs(float(values.double().mean()) / high - 0.5) < 0.005


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_coins_have_their_probability(probability):
    coins = RNG.coins(torch.arange(20_000), "flip", probability=probability)
    assert coins.dtype == torch.bool
    assert abs(float(coins.float().mean()) - probability) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_and_cpu_agree_to_the_bit():
    index = torch.arange(1000)
    for draw in (lambda i: RNG.bits(i, 333, "s"), lambda i: RNG.uniform(i, 333, "s")):
        assert torch.equal(draw(index), draw(index.cuda()).cpu())
