"""From the sums that a backend computes to the output of the cell, in differentiable torch."""

from collections.abc import Callable

import torch
from torch import Tensor

from chargaff.ops.mlstm.reference import EPSILON

LOWEST_EXPONENT = -80.0
"""exp(-m) is computed with m at least this, so that it stays finite; outputs differ by less than 1e-34 below."""

Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Numerator [B, L, H, K], norm [B, L, H] and exponent m [B, L, H] of each step, the first two divided by exp(m); then
C, n, m after the last step."""

SumsFunction = Callable[..., Sums]
"""(q, k, v, igate, fgate, C, n, m, reverse, chunk_tokens) -> Sums, with a gradient."""


def combine(
    sums: SumsFunction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    bidirectional: bool,
    reverse: bool,
    C: Tensor,
    n: Tensor,
    m: Tensor,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h [B, L, H, K] and the state after the last step."""
    if bidirectional:
        m = torch.full_like(m, float("-inf"))
        ahead, behind = (sums(q, k, v, igate, fgate, C, n, m, back, chunk_tokens) for back in (False, True))
        return _normalised(*_both_ways(ahead, behind, q, k, v, igate)), C, n, m
    numerator, norm, exponent, C, n, m = sums(q, k, v, igate, fgate, C, n, m, reverse, chunk_tokens)
    return _normalised(numerator, norm, exponent), C, n, m


def _both_ways(
    ahead: Sums, behind: Sums, q: Tensor, k: Tensor, v: Tensor, igate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over all positions from those up to each and those from each on, which both hold the position itself."""
    m = torch.maximum(ahead[2], behind[2])
    first, second = (ahead[2] - m).exp(), (behind[2] - m).exp()
    own = (q * k).sum(-1) * k.shape[-1] ** -0.5 * (igate - m).exp()
    norm = ahead[1] * first + behind[1] * second - own
    numerator = ahead[0] * first.unsqueeze(-1) + behind[0] * second.unsqueeze(-1) - v * own.unsqueeze(-1)
    return numerator, norm, m


def _normalised(numerator: Tensor, norm: Tensor, m: Tensor) -> Tensor:
    floor = (-m.clamp_min(LOWEST_EXPONENT)).exp()
    return numerator * (torch.maximum(norm.abs(), floor) + EPSILON).reciprocal().unsqueeze(-1)
