"""Loss and metric of track prediction (enformer sheet 4)."""

import torch
from torch import Tensor


def poisson_loss(predicted: Tensor, target: Tensor, least: float = 1e-20) -> Tensor:
    """Mean Poisson negative log likelihood, up to a constant: predicted - target log(max(predicted, least))."""
    return (predicted - target * predicted.clamp_min(least).log()).mean()


def pearson_per_row(predicted: Tensor, target: Tensor) -> Tensor:
    """[B] correlation along the positions, a mean over tracks.

    Args:
        predicted, target: [B, T, tracks].
    """
    centred = [x - x.mean(1, keepdim=True) for x in (predicted, target)]
    return torch.nn.functional.cosine_similarity(*centred, dim=1).mean(-1)
