"""The definition of the sum and the norm, in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

missing = None


def unsupported(*args: object) -> str | None:
    """Takes every call."""
    return None


def run(
    branch: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, kind: str
) -> tuple[Tensor, Tensor]:
    """(normed, sum); float64 inputs are computed in float64, all others in float32."""
    exact = torch.float64 if branch.dtype == torch.float64 else torch.float32
    x = branch.to(exact) if residual is None else branch.to(exact) + residual.to(exact)
    weight, bias = weight.to(exact), None if bias is None else bias.to(exact)
    if kind == "rms":
        normed = F.rms_norm(x, weight.shape, weight, eps)
    else:
        normed = F.layer_norm(x, weight.shape, weight, bias, eps)
    return normed.to(branch.dtype), branch if residual is None else x.to(residual.dtype)
