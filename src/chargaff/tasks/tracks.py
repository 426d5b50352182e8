"""Loss, metric and scale of track prediction (enformer sheet 4, borzoi sheet 4)."""

import torch
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


def undo_squash(values: Tensor, scale: Tensor, clip_soft: Tensor, power: Tensor) -> Tensor:
    """Coverage as it was before Borzoi's training data were scaled, softly clipped and raised to a power.

    Args:
        values: [..., tracks].
        scale, clip_soft, power: [tracks]; power is 3/4 for tracks summed with a root, else 1.
    """
    x = values / scale
    excess = (x - clip_soft).clamp_min(0)
    x = torch.where(excess > 0, excess.square() + clip_soft, x)
    return x.pow(1 / power)
