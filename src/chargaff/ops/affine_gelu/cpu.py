"""One pass over the memory as a Numba kernel, for calls without gradient."""

from importlib.util import find_spec

import torch
from torch import Tensor

missing = None if find_spec("numba") else "the package numba is not installed"


def unsupported(x: Tensor, scale: Tensor, shift: Tensor, form: str) -> str | None:
    """It has no gradient and is not traced."""
    if x.device.type != "cpu":
        return f"x is on {x.device}"
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"x is {x.dtype}"
    if scale.dtype != torch.float32 or shift.dtype != torch.float32:
        return f"scale is {scale.dtype} and shift {shift.dtype}, not float32"
    if torch.compiler.is_compiling():
        return "the call is being traced"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, scale, shift)):
        return "an argument needs a gradient"
    return None


def run(x: Tensor, scale: Tensor, shift: Tensor, form: str) -> Tensor:
    """[l, C]"""
    from chargaff.ops.affine_gelu import cpu_kernels

    return cpu_kernels.forward(x, scale, shift, form)
