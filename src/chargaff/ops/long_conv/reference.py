"""The definition: one product with a triangular Toeplitz matrix a channel."""

import torch
from torch import Tensor

missing = None


def unsupported(
    u: Tensor, kernel: Tensor | None, skip: Tensor, gate: Tensor | None, spectrum: Tensor | None
) -> str | None:
    return "needs the kernel itself, not its spectrum" if kernel is None else None


def run(u: Tensor, kernel: Tensor, skip: Tensor, gate: Tensor | None, spectrum: Tensor | None) -> Tensor:
    """Quadratic in L; float64 inputs stay float64."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    length = u.shape[2]
    lag = torch.arange(length, device=u.device)
    lag = lag.unsqueeze(1) - lag  # [t, s]
    matrix = kernel.to(dtype)[:, lag.clamp_min(0)] * (lag >= 0)  # [D, t, s]
    y = torch.einsum("dts,bds->bdt", matrix, u.to(dtype)) + skip.to(dtype).unsqueeze(1) * u.to(dtype)
    return (y if gate is None else y * gate.to(dtype)).to(u.dtype)
