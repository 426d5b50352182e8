"""Features of the distance between two positions (borzoi sheet 3.3)."""

import math

import torch
from torch import Tensor


def position_features(length: int, num_features: int, device: torch.device | None = None) -> Tensor:
    """[2 length - 1, num_features] float32 for the distances -(length - 1) .. length - 1.

    num_features / 2 central masks of growing width, then the same times the sign of the distance.
    """
    distance = torch.arange(1 - length, length, device=device, dtype=torch.float32).unsqueeze(1)  # [2n - 1, 1]
    count = num_features // 2
    rate = math.exp(math.log(length + 1) / count)
    widths = rate ** torch.arange(1, count + 1, device=device, dtype=torch.float32) - 1
    masks = (widths > distance.abs()).float()
    return torch.cat([masks, distance.sign() * masks], 1)
