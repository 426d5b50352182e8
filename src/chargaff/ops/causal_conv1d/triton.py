"""The convolution on NVIDIA and AMD GPUs, by Triton kernels; on the CPU only in Triton's interpreter, for tests."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from chargaff.ops.causal_conv1d.differentiable import Kernels, build

missing = None if find_spec("triton") else "the package triton is not installed"

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def unsupported(x: Tensor, *others: object) -> str | None:
    """It computes in float32, on the GPU."""
    if x.device.type != DEVICE:
        return f"x is on {x.device}, not on {DEVICE}"
    if x.dtype == torch.float64:
        return "float64 is left to the reference"
    return None


def _kernels() -> Kernels:
    from chargaff.ops.causal_conv1d import triton_kernels

    return triton_kernels


run = build("causal_conv1d_triton", DEVICE, _kernels)
