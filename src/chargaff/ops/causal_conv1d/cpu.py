"""The convolution on the CPU, by Numba kernels."""

from importlib.util import find_spec

import torch
from torch import Tensor

from chargaff.ops.causal_conv1d.differentiable import Kernels, build

missing = None if find_spec("numba") else "the package numba is not installed"


def unsupported(x: Tensor, *others: object) -> str | None:
    """It computes in float32, on the CPU."""
    if x.device.type != "cpu":
        return f"x is on {x.device}"
    if x.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


def _kernels() -> Kernels:
    from chargaff.ops.causal_conv1d import cpu_kernels

    return cpu_kernels


run = build("causal_conv1d_cpu", "cpu", _kernels)
