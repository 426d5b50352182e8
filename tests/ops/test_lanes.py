"""The vector arithmetic that CPU kernels are made of."""

import numpy as np
import pytest
import torch
from numba import prange, types

from chargaff.ops.lanes import exp, exp2, kernel, launch, load, sigmoid, softplus, store, total, view


def _evaluate(x, results):
    for block in prange((x.shape[0] + 15) // 16):
        i = 16 * block
        count = x.shape[0] - i
        values = load(x, (i,), count)
        store(results, (0, i), count, exp2(values))
        store(results, (1, i), count, exp(values))
        store(results, (2, i), count, softplus(values))
        store(results, (3, i), count, sigmoid(values))


def _copy(source, target):
    for block in prange((source.shape[0] + 15) // 16):
        i = 16 * block
        store(target, (i,), source.shape[0] - i, load(source, (i,), source.shape[0] - i))


def _sums(x, sums):
    for i in prange(x.shape[0]):
        sums[i] = total(load(x, (i, 0), x.shape[1]))


def array(kind, dims):
    return types.Array(kind, dims, "A")


@pytest.fixture(scope="module")
def evaluate():
    compiled = kernel(types.void(array(types.float32, 1), array(types.float32, 2)), _evaluate)

    def run(x):
        results = np.full((4, x.shape[0]), np.nan, np.float32)
        launch(compiled, x, results)
        return dict(zip(("exp2", "exp", "softplus", "sigmoid"), results, strict=True))

    return run


# half a unit in the last place is 6e-8; softplus and sigmoid add the errors of a division and a sum to that of exp
@pytest.mark.parametrize(
    ("name", "exact", "tolerance"),
    [
        ("exp2", np.exp2, 8e-8),
        ("exp", np.exp, 1e-7),
        ("softplus", lambda x: np.logaddexp(0, x), 3e-7),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 2e-7),
    ],
)
def test_functions_are_exact_to_float32(evaluate, name, exact, tolerance):
    rng = np.random.default_rng(0)
    for limit in (1e-3, 0.5, 5, 80):
        x = rng.uniform(-limit, limit, 300_007).astype(np.float32)
        wanted = exact(x.astype(np.float64))
        assert np.abs(evaluate(x)[name] / wanted - 1).max() < tolerance, limit


def test_functions_at_the_ends_of_the_number_line(evaluate):
    x = np.array([np.nan, np.inf, -np.inf, 0, 1e30, -1e30, 128, -127, 1, -1], np.float32)
    results = evaluate(x)
    assert all(np.isnan(values[0]) for values in results.values())
    assert results["exp2"][1:].tolist() == [np.inf, 0, 1, np.inf, 0, np.inf, 0, 2, 0.5]
    assert results["exp"][1:8].tolist() == [np.inf, 0, 1, np.inf, 0, np.inf, 0]
    assert results["softplus"][[1, 2, 4, 5, 6]].tolist() == [np.inf, 0, np.float32(1e30), 0, 128]
    assert results["sigmoid"][[1, 2, 3, 4, 5]].tolist() == [1, 0, 0.5, 1, 0]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 1003])
def test_bfloat16_is_widened_exactly_and_rounded_to_nearest_even(length):
    values = torch.randn(length) * torch.exp(20 * torch.randn(length))
    values[0] = float("nan")
    rounded = torch.full((length + 1,), 7.0, dtype=torch.bfloat16)
    narrow = kernel(types.void(array(types.float32, 1), array(types.uint16, 1)), _copy)
    launch(narrow, view(values), view(rounded[:-1]))
    torch.testing.assert_close(rounded[:-1], values.bfloat16(), rtol=0, atol=0, equal_nan=True)
    assert rounded[-1] == 7
    wide = torch.full((length + 1,), 7.0)
    widen = kernel(types.void(array(types.uint16, 1), array(types.float32, 1)), _copy)
    launch(widen, view(rounded[:-1]), view(wide[:-1]))
    torch.testing.assert_close(wide[:-1], rounded[:-1].float(), rtol=0, atol=0, equal_nan=True)
    assert wide[-1] == 7


def test_lanes_are_summed():
    x = torch.randn(50, 16)
    sums = torch.full((50,), float("nan"))
    launch(kernel(types.void(array(types.float32, 2), array(types.float32, 1)), _sums), view(x), view(sums))
    torch.testing.assert_close(sums, x.sum(1), rtol=1e-5, atol=1e-5)
