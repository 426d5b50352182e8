"""What the tests of kernels share: which backends to test, and how results are compared."""

import os
from collections.abc import Callable, Mapping
from types import ModuleType

import pytest
import torch
from torch import Tensor

from chargaff.ops.dispatch import refusal

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter stands in for a GPU here; it is slow, and cuts bfloat16 off where a GPU rounds."""


def fast_backends(op: ModuleType) -> list[object]:
    """pytest parameters (backend, device): each backend but the reference, on each device here that it takes."""
    params = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for backend in op.BACKENDS:
            if (
                backend.name != "reference"
                and (backend.name == "triton") >= INTERPRETED
                and refusal(backend, op.example(device)) is None
            ):
                marks = [pytest.mark.gpu] if device == "cuda" else []
                params.append(pytest.param(backend.name, device, marks=marks, id=f"{backend.name}-{device}"))
    return params


def with_gradients(call: Callable[..., dict[str, Tensor]], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of `call(inputs)`, and as "d" + name the gradient of a weighted sum of them for every input."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    found = call(leaves)
    rng = torch.Generator().manual_seed(0)
    loss = sum((x * torch.randn(x.shape, generator=rng).bfloat16().to(x)).sum() for x in found.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    found.update({f"d{name}": g for name, g in zip(leaves, gradients, strict=True)})
    return {name: x.detach() for name, x in found.items()}


def tolerance(dtype: torch.dtype, float32: float) -> float:
    """For relative errors; bfloat16 has 8 bits."""
    return float32 if dtype == torch.float32 else 1e-2 if INTERPRETED else 5e-3


def strided(x: Tensor) -> Tensor:
    """The same values as a slice of a wider tensor, as the projections of a mixer give them."""
    wider = x.new_full((*x.shape[:-1], x.shape[-1] + 5), float("nan"))
    wider[..., 3:-2] = x
    return wider[..., 3:-2]


def assert_close(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Every tensor: largest error at most `tolerance` times the largest expected value."""
    assert actual.keys() == expected.keys()
    errors = {}
    for name, wanted in expected.items():
        assert actual[name].shape == wanted.shape, name
        if wanted.numel() > 0:
            difference = (actual[name].double().cpu() - wanted.double().cpu()).abs().max().item()
            errors[name] = difference / max(wanted.abs().max().item(), 1e-6)
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not wrong, f"relative errors above {tolerance}: {wrong}"
