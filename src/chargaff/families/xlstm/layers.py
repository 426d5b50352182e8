"""Small parts of both kinds of block (xlstm sheet 3.4)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.ops.causal_conv1d import causal_conv1d

NORM_EPSILON = 1e-5
TILE = 64
"""Width to which small diagonal blocks are joined into larger ones, whose products are faster."""


class Norm(nn.Module):
    """LayerNorm without bias whose stored weight is the scale minus 1; in float32, returned in the weight's type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        scale = 1 + self.weight.float()
        return F.layer_norm(x.float(), scale.shape, scale, eps=NORM_EPSILON).to(self.weight.dtype)


class HeadNorm(Norm):
    """The same with mean and variance of each head."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H, P] -> [B, T, H P]."""
        centred = F.layer_norm(x.float(), x.shape[-1:], eps=NORM_EPSILON).flatten(2)
        return (centred * (1 + self.weight.float())).to(self.weight.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, E] -> [B, T, H, E / H]."""
    return x.view(*x.shape[:2], heads, -1)


class Headwise(nn.Module):
    """A block-diagonal linear map."""

    def __init__(self, width: int, block: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width // block, block, block))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        weight = _joined(self.weight)
        y = torch.einsum("btgi,goi->btgo", split_heads(x, weight.shape[0]), weight).flatten(2)
        return y if self.bias is None else y + self.bias


def _joined(weight: Tensor) -> Tensor:
    """[G, o, i] -> [G / n, n o, n i], the same map with blocks of up to TILE."""
    blocks, out, width = weight.shape
    n = max(n for n in range(1, blocks + 1) if blocks % n == 0 and (n == 1 or n * width <= TILE))
    if n == 1:
        return weight
    apart = torch.eye(n, dtype=weight.dtype, device=weight.device).view(1, n, 1, n, 1)
    return (weight.view(-1, n, out, 1, width) * apart).reshape(blocks // n, n * out, n * width)


class Convolution(nn.Module):
    """Depth-wise convolution along the sequence."""

    def __init__(self, width: int, taps: int, *, causal: bool) -> None:
        super().__init__()
        self.taps = taps
        self.ahead = 0 if causal else taps // 2  # of the taps of "same" padding
        self.conv = nn.Conv1d(width, width, taps, groups=width)

    def forward(
        self, x: Tensor, tail: Tensor | None, *, reverse: bool = False, activation: Literal["silu"] | None = "silu"
    ) -> tuple[Tensor, Tensor]:
        """[B, T, E] -> [B, T, E], and the inputs [B, K-1, E] that the continuation needs as its `tail`.

        Args:
            reverse: read from the end.
        """
        if self.ahead:
            x = F.pad(x, (0, 0, self.ahead, 0) if reverse else (0, 0, 0, self.ahead))
        y, tail = causal_conv1d(
            x,
            self.conv.weight.squeeze(1),
            self.conv.bias,
            activation=activation,
            reverse=reverse,
            initial_state=tail,
            return_state=True,
        )
        if self.ahead:
            y = y[:, : -self.ahead] if reverse else y[:, self.ahead :]
        return y, tail


class FeedForward(nn.Module):
    """Gated by GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj_up = nn.Linear(width, 2 * inner, bias=False)
        self.proj_down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        gate, up = self.proj_up(x).chunk(2, -1)
        y: Tensor = self.proj_down(F.gelu(gate) * up)
        return y


class Positions(nn.Module):
    """Sinusoidal positions times a learned number (sheet 3.7)."""

    THETA = 100_000.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, self.width**-0.5)

    def forward(self, length: int, start: int) -> Tensor:
        """[length, D] for positions start, start + 1, ...: all sines, then all cosines."""
        half = self.width // 2
        device = self.scale.device
        rates = self.THETA ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
        angles = torch.arange(start, start + length, device=device, dtype=torch.float32).unsqueeze(1) * rates
        return torch.cat([angles.sin(), angles.cos()], -1) * self.scale
