"""Loss and metric of track prediction (enformer sheet 4)."""

import torch.nn.functional as F
from torch import Tensor


def poisson_loss(predicted: Tensor, target: Tensor, least: float = 1e-20) -> Tensor:
    """Mean Poisson negative log likelihood, up to a constant: predicted - target log(max(predicted, least))."""
    return (predicted - target * predicted.clamp_min(least).log()).mean()


def pearson_per_row(predicted: Tensor, target: Tensor) -> Tensor:
    """[B] correlation along the positions, a mean over tracks.

    Args:
        predicted, target: [B, T, tracks].
    """
    x, y = (values - values.mean(1, keepdim=True) for values in (predicted, target))
    return F.cosine_similarity(x, y, dim=1).mean(-1)
