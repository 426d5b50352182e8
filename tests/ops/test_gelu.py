"""GELU: every backend gives what the reference defines, and where there is no gradient the library takes over."""

import pytest
import torch

from chargaff.errors import BackendError
from chargaff.ops import gelu as op
from chargaff.ops.gelu import gelu
from tests.ops.kernels import fast_backends, strided, tolerance

BACKENDS = fast_backends(op)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (63,), (3, 100), (2, 5, 4097)])
def test_equals_the_definition(backend, device, shape, dtype):
    x = strided(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4).to(device, dtype)
    with torch.no_grad():
        found, expected = gelu(x, backend=backend), gelu(x.double(), backend="reference")
    assert found.dtype == dtype
    assert found.shape == x.shape
    assert (found.double() - expected).abs().max() <= tolerance(dtype, 1e-6) * expected.abs().max()


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_extremes_are_those_of_the_definition(backend, device):
    x = torch.tensor([-1e30, -100.0, -0.0, 0.0, 100.0, 1e30, float("inf"), float("nan")], device=device)
    torch.testing.assert_close(gelu(x, backend=backend), gelu(x, backend="reference"), equal_nan=True)


def test_a_gradient_is_computed_by_the_reference():
    x = torch.randn(10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gelu, x)
    with pytest.raises(BackendError, match="needs a gradient"):
        gelu(torch.randn(3, requires_grad=True), backend="cpu")
