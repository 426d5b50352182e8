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
