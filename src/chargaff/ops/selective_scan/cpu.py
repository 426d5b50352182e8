"""The scan on the CPU, by Numba kernels."""

from importlib.util import find_spec

import torch
from torch import Tensor

from chargaff.ops.selective_scan.differentiable import Kernels, build

missing = None if find_spec("numba") else "the package numba is not installed"

BLOCK = 32
"""Steps between two states kept for the gradient, which recomputes the ones between: at N = 16 a block's states and
decays are 2 x 32 KiB, so they stay in the fastest caches, and all kept states together are half the size of u."""


def unsupported(u: Tensor, *others: object) -> str | None:
    """It computes in float32, on the CPU."""
    if u.device.type != "cpu":
        return f"u is on {u.device}"
    if u.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


def _kernels() -> Kernels:
    from chargaff.ops.selective_scan import cpu_kernels

    return cpu_kernels


run = build("selective_scan_cpu", "cpu", BLOCK, _kernels)
