"""The definition of the convolution: one shifted product per tap in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional

missing = None


def unsupported(*args: object) -> str | None:
    """Takes every call."""
    return None


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> Tensor:
    """y [B, L, D]; float64 inputs are computed in float64, all others in float32."""
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    batch, length, width = x.shape
    taps = weight.shape[1]
    past = x.new_zeros(batch, taps - 1, width) if initial_state is None else initial_state
    parts = [x.to(exact), past.to(exact)] if reverse else [past.to(exact), x.to(exact)]
    padded = torch.cat(parts, 1)  # [B, L + K - 1, D]
    y = x.new_zeros(batch, length, width, dtype=exact)
    for j in range(taps):
        start = taps - 1 - j if reverse else j
        y = y + padded[:, start : start + length] * weight[:, j].to(exact)
    if bias is not None:
        y = y + bias.to(exact)
    if activation == "silu":
        y = functional.silu(y)
    return y.to(x.dtype)
