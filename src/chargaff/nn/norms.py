"""Normalisation over the last axis."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.ops.add_norm import add_norm


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, in float32, returned in the weight's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, *, flip: bool = False) -> Tensor:
        """[..., D] -> [..., D]; `flip` applies the weights in reversed channel order."""
        weight = self.weight.flip(0) if flip else self.weight
        normed, _ = add_norm(x.float(), None, weight.float(), None, self.eps, kind="rms")
        return normed.to(weight.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias, biased variance, in float32, returned in the weight's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, *, flip: bool = False) -> Tensor:
        """[..., D] -> [..., D]; `flip` applies the weights in reversed channel order."""
        weight, bias = (self.weight.flip(0), self.bias.flip(0)) if flip else (self.weight, self.bias)
        return F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), self.eps).to(weight.dtype)


def make_norm(width: int, eps: float, *, is_rms: bool) -> nn.Module:
    """RMSNorm or LayerNorm."""
    return RMSNorm(width, eps) if is_rms else LayerNorm(width, eps)
