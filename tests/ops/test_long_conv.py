"""The long convolution: FFT gives what the triangular product defines, at any length, in blocks, and in place."""

import pytest
import torch
from torch import Tensor

from chargaff.errors import BackendError, InputError
from chargaff.ops import long_conv as op
from chargaff.ops.long_conv import fft, fft_size, kernel_spectrum, long_conv, long_conv_
from tests.ops.kernels import assert_close, fast_backends

BACKENDS = fast_backends(op)


def inputs_of(length: int, *, width: int = 5, batch: int = 2, has_gate: bool = True, device="cpu") -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(length)
    shapes = {"u": (batch, width, length), "kernel": (width, length), "skip": (width,)}
    if has_gate:
        shapes["gate"] = (batch, width, length)
    return {name: torch.randn(shape, generator=rng).to(device) for name, shape in shapes.items()}


def results(inputs: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """The output, and the gradient of a weighted sum of it for every input."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    y = long_conv(**leaves, backend=backend)
    rng = torch.Generator().manual_seed(0)
    loss = (y * torch.randn(y.shape, generator=rng).to(y)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"y": y.detach(), **{f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}}


def truth(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return results({name: x.double() for name, x in inputs.items()}, "reference")


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("has_gate", [True, False])
@pytest.mark.parametrize("length", [1, 2, 63, 100, 257])
def test_equals_the_reference_at_any_length(backend, device, length, has_gate):
    inputs = inputs_of(length, has_gate=has_gate, device=device)
    assert_close(results(inputs, backend), truth(inputs), 1e-5)


@pytest.mark.parametrize("length", [1, 100])
def test_blocks_of_channels_change_nothing(monkeypatch, length):
    inputs = inputs_of(length)
    whole = results(inputs, "fft")
    monkeypatch.setattr(fft, "BLOCK_VALUES", 1)
    assert_close(results(inputs, "fft"), whole, 1e-6)


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("has_spectrum", [True, False])
@pytest.mark.parametrize("length", [1, 63, 100])
def test_in_place_is_the_same(monkeypatch, length, has_spectrum, block):
    monkeypatch.setattr(fft, "IN_PLACE_VALUES", block)
    inputs = inputs_of(length, has_gate=False)
    u = inputs["u"].clone()
    spectrum = kernel_spectrum(inputs["kernel"]) if has_spectrum else None
    long_conv_(u, lambda channels: inputs["kernel"][channels], inputs["skip"], spectrum=spectrum)
    assert_close({"y": u}, {"y": truth(inputs)["y"]}, 1e-5)


def test_a_spectrum_stands_for_its_kernel():
    inputs = inputs_of(77)
    kernel = inputs.pop("kernel")
    with torch.no_grad():
        found = long_conv(kernel=None, spectrum=kernel_spectrum(kernel), **inputs)
    assert_close({"y": found}, {"y": truth({**inputs, "kernel": kernel})["y"]}, 1e-5)


def test_bfloat16_is_computed_in_float32():
    inputs = {name: x.bfloat16() for name, x in inputs_of(100).items()}
    found = results(inputs, "fft")
    assert found["y"].dtype == found["du"].dtype == torch.bfloat16
    assert_close(found, truth(inputs), 1e-2)


def test_the_reference_has_the_gradients_of_its_outputs():
    inputs = {name: x.double().requires_grad_() for name, x in inputs_of(6, width=2).items()}

    def function(*tensors: Tensor) -> Tensor:
        return long_conv(**dict(zip(inputs, tensors, strict=True)), backend="reference")

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


@pytest.mark.parametrize("least", [1, 2, 3, 7, 100, 1999, 65535, 1_999_999])
def test_transforms_have_small_factors_and_waste_little(least):
    size = fft_size(least)
    assert least <= size <= max(4, 1.2 * least)
    assert size % 2 == 0
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    assert size == 1


def test_wrong_shapes_and_missing_kernels_are_named():
    inputs = inputs_of(10)
    with pytest.raises(InputError, match="kernel has shape"):
        long_conv(inputs["u"], inputs["kernel"][:, :-1], inputs["skip"])
    with pytest.raises(InputError, match="give the kernel or its spectrum"):
        long_conv(inputs["u"], None, inputs["skip"])
    with pytest.raises(InputError, match="u must be"):
        long_conv(inputs["u"][0], inputs["kernel"], inputs["skip"])
    spectrum = kernel_spectrum(inputs["kernel"])
    with pytest.raises(BackendError, match="needs the kernel itself"):
        long_conv(inputs["u"], None, inputs["skip"], spectrum=spectrum, backend="reference")
