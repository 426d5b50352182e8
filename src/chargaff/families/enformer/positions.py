"""Features of the distance between two positions (enformer sheet 3.4)."""

import math

import torch
from torch import Tensor

_LEAST_DENSITY = 1e-8
"""Added to the gamma densities before they are normalised."""


def position_features(
    length: int, num_features: int, *, by_feature: bool, device: torch.device | None = None
) -> Tensor:
    """[2 length - 1, num_features] float32 for the distances -(length - 1) .. length - 1.

    Three families of num_features / 6 each, exponential, central mask and gamma, then the same times the sign of the
    distance. Computed in float64.

    Args:
        by_feature: divide each gamma feature by its maximum over all distances, as the original weights want it;
            otherwise all gamma features of a distance by their maximum.
    """
    distance = torch.arange(1 - length, length, device=device, dtype=torch.float64).unsqueeze(1)  # [2n - 1, 1]
    count = num_features // 6
    far = distance.abs()
    one_sided = torch.cat([_exponential(far, length, count), _central_mask(far, count)], 1)
    one_sided = torch.cat([one_sided, _gamma(far, length, count, by_feature)], 1)
    return torch.cat([one_sided, distance.sign() * one_sided], 1).float()


def _exponential(far: Tensor, length: int, count: int) -> Tensor:
    """Halved every 8 to `length` positions."""
    half_life = 2 ** torch.linspace(3, math.log2(length), count, device=far.device, dtype=far.dtype)
    return torch.exp(-math.log(2) / half_life * far)


def _central_mask(far: Tensor, count: int) -> Tensor:
    """1 within 2^i - 1 positions."""
    widths = 2 ** torch.arange(1, count + 1, device=far.device, dtype=far.dtype) - 1
    return (widths > far).to(far.dtype)


def _gamma(far: Tensor, length: int, count: int, by_feature: bool) -> Tensor:
    """Densities of gamma distributions with means up to `length`."""
    deviation = length / (2 * count)
    mean = torch.linspace(length / count, length, count, device=far.device, dtype=far.dtype)
    concentration, rate = (mean / deviation) ** 2, mean / deviation**2
    log_density = (
        torch.xlogy(concentration - 1, far) - rate * far - (torch.lgamma(concentration) - concentration * rate.log())
    )
    density = log_density.exp() + _LEAST_DENSITY
    return density / density.amax(0 if by_feature else 1, keepdim=True)
