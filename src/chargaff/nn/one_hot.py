"""Bases as four channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

CHANNELS = "ACGT"
UNKNOWN = (".", "[PAD]")
"""What stands for bases outside a chromosome: a quarter in each channel."""


def base_rows(vocab: Sequence[str], device: torch.device | None = None) -> Tensor:
    """[V, 4] float32: row of each token: a 1 for a base, quarters outside a chromosome, zeros for N."""
    rows = [
        [0.25] * 4 if token in UNKNOWN else [float(token.upper() == channel) for channel in CHANNELS] for token in vocab
    ]
    return torch.tensor(rows, device=device)


def one_hot(tokens: Tensor, rows: Tensor) -> Tensor:
    """[B, L] ids to [B, L, 4] in the type of `rows`; a float [B, L, 4] is taken as it is."""
    return tokens.to(rows.dtype) if tokens.is_floating_point() else rows[tokens.int()]
