"""Through torch's fused attention; a distance bias is a view on one vector a head, never a stored [T, T] matrix."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

missing = None

BLOCK_VALUES = 1 << 24
"""Bias values that are stored at once where distances follow no pattern, or a device cannot read a view."""
READS_VIEWS = ("cpu",)
"""Devices whose fused attention reads a bias where it lies; others copy what is not aligned."""


def unsupported(*args: object) -> str | None:
    """Takes every call."""
    return None


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int] | None,
    mask: Tensor | None,
    slopes: Tensor | None,
    positions: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    options = causal, scale, dropout
    if lengths is not None:
        return _packed(query, key, value, lengths, slopes, positions, *options)
    if mask is not None:
        return _masked(query, key, value, mask, slopes, positions, *options)
    if slopes is None:
        return _fused(query, key, value, None, *options)
    if positions is not None:
        every = [query.shape[1]] * query.shape[0]
        q, k, v = (x.flatten(0, 1) for x in (query, key, value))
        return _packed(q, k, v, every, slopes, positions.flatten(), *options).view(query.shape)
    return _biased(query, key, value, _bias_vector(slopes, query.shape[1], causal, query), scale, dropout)


def _masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    slopes: Tensor | None,
    positions: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """The real tokens packed, and their results put back among zeros."""
    real = mask.bool()
    index = real.flatten().nonzero().squeeze(1)
    has_holes = bool((real[:, 1:] & ~real[:, :-1]).sum(1).add(real[:, 0]).gt(1).any())
    if positions is not None:
        positions = positions.flatten()[index]
    elif has_holes:
        positions = index % mask.shape[1]
    q, k, v = (x.flatten(0, 1)[index] for x in (query, key, value))
    found = _packed(q, k, v, real.sum(1).tolist(), slopes, positions, causal, scale, dropout)
    return query.new_zeros(query.shape).flatten(0, 1).index_copy(0, index, found).view(query.shape)


def _packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    slopes: Tensor | None,
    positions: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """One call for each run of equally long sequences."""
    vector = None
    if slopes is not None and positions is None:
        vector = _bias_vector(slopes, max(lengths, default=1), causal, query)
    pieces = []
    for part, count, length in _runs(lengths):
        q, k, v = (x[part].view(count, length, *x.shape[1:]) for x in (query, key, value))
        if slopes is None:
            found = _fused(q, k, v, None, causal, scale, dropout)
        elif vector is not None:
            found = _biased(q, k, v, vector, scale, dropout)
        else:
            assert positions is not None
            found = _by_position(q, k, v, slopes, positions[part].view(count, length), causal, scale, dropout)
        pieces.append(found.flatten(0, 1))
    return torch.cat(pieces) if pieces else query.new_empty(query.shape)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[slice, int, int]]:
    """(tokens, sequences, length) of each run of equal lengths; empty sequences are left out."""
    start = 0
    for length, run_ in groupby(lengths):
        count = sum(1 for _ in run_)
        if length:
            yield slice(start, start + count * length), count, length
        start += count * length


def _bias_vector(slopes: Tensor, longest: int, causal: bool, query: Tensor) -> Tensor:
    """[H, 2 longest - 1]: the bias at distance -(longest - 1) to longest - 1; keys after the query come first."""
    distance = torch.arange(1 - longest, longest, device=query.device)
    exact = torch.promote_types(query.dtype, torch.float32)
    vector = -slopes.detach().to(query.device, exact).unsqueeze(1) * distance.abs().to(exact)
    return vector.masked_fill(distance < 0, float("-inf")) if causal else vector


def _biased(query: Tensor, key: Tensor, value: Tensor, vector: Tensor, scale: float | None, dropout: float) -> Tensor:
    """With keys and values in reverse order, which the softmax does not mind, the bias of query i and key j is a
    function of i + j: a matrix whose row i is the vector from its i-th value on, and so a view with strides (1, 1)."""
    length, surplus = query.shape[1], vector.shape[1] // 2 + 1 - query.shape[1]
    bias = vector[:, surplus : surplus + 2 * length - 1].unfold(1, length, 1).unsqueeze(0)  # [1, H, T, T]
    key, value = key.flip(1), value.flip(1)
    is_stored = query.device.type not in READS_VIEWS
    step = max(1, BLOCK_VALUES // (len(vector) * length)) if is_stored else length
    pieces = [
        _fused(query[:, start : start + step], key, value, bias[:, :, start : start + step], False, scale, dropout)
        for start in range(0, length, step)
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def _by_position(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    slopes: Tensor,
    positions: Tensor,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """A block of queries at a time, its bias stored."""
    batch, length, heads, _ = query.shape
    step = max(1, BLOCK_VALUES // (batch * heads * length))
    exact = torch.promote_types(query.dtype, torch.float32)
    place, steepness = positions.to(exact), slopes.detach().to(query.device, exact).view(1, -1, 1, 1)
    order = torch.arange(length, device=query.device)
    pieces = []
    for start in range(0, length, step):
        rows = slice(start, start + step)
        bias = -steepness * (place[:, rows, None] - place[:, None]).abs().unsqueeze(1)  # [B, H, rows, T]
        if causal:
            bias = bias.masked_fill(order[rows, None] < order, float("-inf"))
        pieces.append(_fused(query[:, rows], key, value, bias, False, scale, dropout))
    return torch.cat(pieces, 1)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """[B, T, H, K]; bias broadcasts to [B, H, T, T]."""
    if bias is not None and query.device.type != "cpu":
        bias = bias.to(query.dtype)  # the fused kernels of GPUs want one type
    found = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=bias,
        dropout_p=dropout,
        is_causal=causal,
        scale=scale,
        enable_gqa=key.shape[2] != query.shape[2],
    )
    return found.transpose(1, 2)
