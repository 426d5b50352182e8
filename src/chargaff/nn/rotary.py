"""Rotary positions."""

import torch
from torch import Tensor


def rotary_angles(
    length: int, width: int, theta: float, *, start: int = 0, device: torch.device | None = None
) -> Tensor:
    """[length, width / 2] float32 angles of positions start, start + 1, ...: t theta^(-2 j / width)."""
    rates = theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    return torch.arange(start, start + length, device=device, dtype=torch.float32).unsqueeze(1) * rates


def rotate_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Turns the interleaved pairs (2j, 2j + 1) of the last axis; in float32, returned in x's type.

    Args:
        x: [..., T, P]; angles: [T, P / 2].
    """
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


def half_turns(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, [..., width / 2] float32 each, of the angles t theta^(-2 j / width) at [...] positions t."""
    rates = theta ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angles = positions.float().unsqueeze(-1) * rates
    return angles.cos(), angles.sin()


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (j, j + K / 2) of the last axis, all heads alike; in float32, returned in x's type.

    Args:
        x: [..., T, H, K]; cos, sin: [T, K / 2] (`half_turns`).
    """
    first, second = x.float().chunk(2, -1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
