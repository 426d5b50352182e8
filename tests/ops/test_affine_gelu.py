"""Scale, shift and GELU: every backend gives what the reference defines, and gradients are the reference's."""

import pytest
import torch

from chargaff.errors import BackendError
from chargaff.ops import affine_gelu as op
from chargaff.ops.affine_gelu import affine_gelu
from tests.ops.kernels import fast_backends, tolerance

BACKENDS = fast_backends(op)
FORMS = ["tanh", "sigmoid"]


def arguments(rows: int, channels: int, dtype: torch.dtype = torch.float32, device: str = "cpu"):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, channels, generator=generator) * 3
    scale, shift = torch.randn(2, channels, generator=generator)
    return x.to(device, dtype), scale.to(device), shift.to(device)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (7, 63), (100, 16), (33, 609)])
def test_equals_the_definition(backend, device, rows, channels, form, dtype):
    x, scale, shift = arguments(rows, channels, dtype, device)
    with torch.no_grad():
        found = affine_gelu(x, scale, shift, form, backend=backend)
        expected = affine_gelu(x.double(), scale.double(), shift.double(), form, backend="reference")
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= tolerance(dtype, 2e-6) * expected.abs().max()


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_a_view_of_columns_is_read_right(backend, device):
    x, scale, shift = arguments(20, 40, device=device)
    whole = affine_gelu(x, scale, shift, "tanh", backend=backend)
    columns = affine_gelu(x[:, 3:25], scale[3:25], shift[3:25], "tanh", backend=backend)
    torch.testing.assert_close(columns, whole[:, 3:25])


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_extremes_are_those_of_the_definition(backend, device, form):
    x = torch.tensor([[-1e30, -100.0, -0.0, 0.0, 100.0, 1e30, float("inf"), float("nan")]], device=device)
    scale, shift = torch.ones(8, device=device), torch.zeros(8, device=device)
    got, expected = (affine_gelu(x, scale, shift, form, backend=name) for name in (backend, "reference"))
    torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_is_computed_by_the_reference(form):
    arguments_64 = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 3), (3,), (3,))]
    assert torch.autograd.gradcheck(lambda *args: affine_gelu(*args, form), arguments_64)
    x, scale, shift = arguments(2, 3)
    with pytest.raises(BackendError, match="needs a gradient"):
        affine_gelu(x.requires_grad_(), scale, shift, form, backend="cpu")
