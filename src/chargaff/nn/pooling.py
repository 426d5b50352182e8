"""Pooling of token states into one vector a sequence."""

from typing import Literal, get_args

import torch
from torch import Tensor

from chargaff.errors import ConfigError
from chargaff.nn.encoded import Encoded

Pooling = Literal["mean", "mean-all", "max", "first", "last", "centre", "cls", "none"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(hidden: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """One vector a row.

    Args:
        hidden: [B, T, D].
        mask: [B, T], True (or a positive weight, such as the bases a token covers) where a position counts; None: all.
        how: "mean" and "mean-all" average in float32 (they differ in the mask the caller passes), "max", "first" and
            "last" position that counts, "centre" the middle one or the mean of the two middle ones, "cls" the first
            column whatever the mask, "none" leaves [B, T, D].

    Returns:
        [B, D] in the dtype of `hidden`; a row without any counting position gives zeros.
    """
    if how == "none":
        return hidden
    if how == "cls":
        return hidden[:, 0]
    if how in ("mean", "mean-all"):
        if mask is None:
            return hidden.mean(1, dtype=torch.float32).to(hidden.dtype)
        weight = mask.to(torch.float32)  # [B, T]
        total = torch.einsum("btd,bt->bd", hidden.float(), weight)
        return (total / weight.sum(1, keepdim=True).clamp_min(1)).to(hidden.dtype)
    if how == "max":
        if mask is None:
            return hidden.amax(1)
        counts = mask > 0
        best = hidden.masked_fill(~counts.unsqueeze(-1), float("-inf")).amax(1)
        return best.masked_fill(~counts.any(1, keepdim=True), 0)
    if how in ("first", "last"):
        return _edge(hidden, mask, is_last=how == "last")
    if how == "centre":
        return _centre(hidden, mask)
    raise ConfigError(f"pooling: expected one of {', '.join(POOLINGS)}, got {how!r}")


def _edge(hidden: Tensor, mask: Tensor | None, *, is_last: bool) -> Tensor:
    if mask is None:
        return hidden[:, -1 if is_last else 0]
    counts = mask > 0
    order = torch.arange(1, counts.shape[1] + 1, device=hidden.device)
    order = order if is_last else order.flip(0)
    column = (counts * order).argmax(1)  # [B]
    row = hidden.gather(1, column.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])).squeeze(1)
    return row.masked_fill(~counts.any(1, keepdim=True), 0)


def _centre(hidden: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        tokens = hidden.shape[1]
        return (hidden[:, (tokens - 1) // 2] + hidden[:, tokens // 2]) / 2
    counts = mask > 0
    num, rank = counts.sum(1, keepdim=True), counts.cumsum(1)
    columns = torch.cat([(rank <= k).sum(1, keepdim=True) for k in ((num - 1) // 2, num // 2)], 1)  # [B, 2]
    columns = columns.clamp_max(hidden.shape[1] - 1)
    middle = hidden.gather(1, columns.unsqueeze(-1).expand(-1, -1, hidden.shape[2])).sum(1) / 2
    return middle.masked_fill(num == 0, 0)


def pool_strands(encoded: Encoded, mask: Tensor | None, how: str) -> tuple[Tensor, ...]:
    """Pooled vectors of the strands that `encoded` holds: one or two of [B, D] ([B, T, D] for "none").

    The other strand is pooled in its own reading direction, so its "first" position is the last base of the forward
    strand (caduceus sheet 2.6). With "none" it stays in forward coordinates.
    """
    forward = pool(encoded.hidden, mask, how)
    if encoded.hidden_rc is None:
        return (forward,)
    if how in ("first", "last", "cls"):
        return forward, pool(encoded.hidden_rc.flip(1), None if mask is None else mask.flip(1), how)
    return forward, pool(encoded.hidden_rc, mask, how)


def window_mean(hidden: Tensor, centre: Tensor, window_tokens: int) -> Tensor:
    """Mean state around one position, as the variant-effect protocol takes it (caduceus sheet 3.7).

    Args:
        hidden: [B, T, D].
        centre: [B] token index.
        window_tokens: W; positions centre - ceil(W/2) .. centre + W//2 count, that is W + 1 or W + 2 of them. Those
            outside the sequence repeat the edge token.

    Returns:
        [B, D].
    """
    offsets = torch.arange(-((window_tokens + 1) // 2), window_tokens // 2 + 1, device=hidden.device)
    positions = (centre.unsqueeze(1) + offsets).clamp(0, hidden.shape[1] - 1)  # [B, W']
    rows = torch.arange(hidden.shape[0], device=hidden.device).unsqueeze(1)
    return hidden[rows, positions].mean(1, dtype=torch.float32).to(hidden.dtype)
