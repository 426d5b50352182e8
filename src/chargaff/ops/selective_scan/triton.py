"""The scan on NVIDIA and AMD GPUs, by Triton kernels; on the CPU only in Triton's interpreter, for tests."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from chargaff.ops.selective_scan.differentiable import Kernels, build

missing = None if find_spec("triton") else "the package triton is not installed"

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

BLOCK = 16
"""Steps scanned together by one program, and between two states kept for the gradient."""


def unsupported(u: Tensor, *others: object) -> str | None:
    """It computes in float32, on the GPU."""
    if u.device.type != DEVICE:
        return f"u is on {u.device}, not on {DEVICE}"
    if u.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


def _kernels() -> Kernels:
    from chargaff.ops.selective_scan import triton_kernels

    return triton_kernels


run = build("selective_scan_triton", DEVICE, BLOCK, _kernels)
