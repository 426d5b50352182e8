"""The definition: all scores of a sequence, their softmax, and the weighted mean of the values."""

import torch
import torch.nn.functional as F
from torch import Tensor

missing = None


def unsupported(*args: object) -> str | None:
    """Takes every call."""
    return None


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int] | None,
    mask: Tensor | None,
    slopes: Tensor | None,
    positions: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """Quadratic in memory; float64 inputs stay float64, others are computed in float32."""
    if lengths is not None:
        places = torch.arange(len(query), device=query.device) if positions is None else positions
        sizes = list(lengths)
        pieces = zip(*(torch.split(x, sizes) for x in (query, key, value, places)), strict=True)
        each = [
            run(q[None], k[None], v[None], None, None, slopes, p[None], causal, scale, dropout)[0]
            for q, k, v, p in pieces
        ]
        return torch.cat(each)
    weights = F.dropout(probabilities(query, key, mask, slopes, positions, causal, scale), dropout)
    shared = query.shape[2] // value.shape[2]
    values = value.to(weights.dtype).repeat_interleave(shared, 2)
    return torch.einsum("bhts,bshk->bthk", weights, values).to(query.dtype)


def probabilities(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    slopes: Tensor | None,
    positions: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """[B, H, T, T]; zero for queries and at keys outside the mask."""
    exact = torch.promote_types(query.dtype, torch.float32)
    batch, length, heads, width = query.shape
    keys = key.to(exact).repeat_interleave(heads // key.shape[2], 2)
    scores = torch.einsum("bthk,bshk->bhts", query.to(exact), keys) * (width**-0.5 if scale is None else scale)
    order = torch.arange(length, device=query.device)
    if slopes is not None:
        place = (order.expand(batch, -1) if positions is None else positions).to(exact)
        distance = (place.unsqueeze(2) - place.unsqueeze(1)).abs().unsqueeze(1)  # [B, 1, T, T]
        scores = scores - slopes.detach().to(exact).view(1, -1, 1, 1) * distance
    least = torch.finfo(exact).min
    if causal:
        scores = scores.masked_fill(order.unsqueeze(1) < order, least)
    if mask is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~mask.bool()[:, None, None], least).softmax(-1)
    return weights.masked_fill(~mask.bool()[:, None, :, None], 0)
