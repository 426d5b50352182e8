"""Softmax attention with learned relative positions, as Enformer and Borzoi have it (enformer sheet 3.3)."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.nn.conv_rows import is_applicable, linear, row_product

_QUERIES, _QUERIES_ON_CPU = 1024, 512
"""Queries whose logits exist at a time."""


def relative_shift(x: Tensor) -> Tensor:
    """Logits by distance -> logits by key.

    Args:
        x: [..., b, n + b - 1], for b queries in a row: column c of the last query is distance c from its first key,
            and each query before it begins one column later.

    Returns:
        [..., b, n], a view where `x` is contiguous.
    """
    queries, columns = x.shape[-2:]
    if queries == 1:
        return x
    flat = x.flatten(-2)[..., queries - 1 : queries - 1 + queries * (columns - 1)]
    return flat.view(*x.shape[:-2], queries, columns - 1)[..., : columns - queries + 1]


def relative_attention(
    content_query: Tensor, position_query: Tensor, key: Tensor, value: Tensor, position_key: Tensor, dropout: float = 0
) -> Tensor:
    """softmax(content_query key^T + shift(position_query position_key^T)) value, a block of queries at a time.

    Args:
        content_query, position_query, key: [B, H, n, K].
        value: [B, H, n, P].
        position_key: [H, 2n - 1, K] for distances key - query = -(n - 1) .. n - 1.
        dropout: of the attention weights.

    Returns:
        [B, H, n, P].
    """
    length = key.shape[2]
    if is_applicable(key) and not dropout:
        return _attend_rows(content_query, position_query, key, value, position_key)
    parts = []
    for begin in range(0, length, _QUERIES):
        stop = min(begin + _QUERIES, length)
        within_reach = position_key[:, length - stop : 2 * length - 1 - begin]  # [H, n + stop - begin - 1, K]
        positions = relative_shift(position_query[:, :, begin:stop] @ within_reach.transpose(-1, -2))
        logits = content_query[:, :, begin:stop] @ key.transpose(-1, -2)  # [B, H, b, n]
        weights = logits.add_(positions).softmax(-1)
        parts.append(F.dropout(weights, dropout, training=dropout > 0) @ value)
    return torch.cat(parts, 2)


def _attend_rows(
    content_query: Tensor, position_query: Tensor, key: Tensor, value: Tensor, position_key: Tensor
) -> Tensor:
    """`relative_attention` for inference on the CPU, one head at a time."""
    batch, heads, length, _ = key.shape
    out = value.new_empty(batch, length, heads, value.shape[3])
    for b, h in product(range(batch), range(heads)):
        values = value[b, h].t().contiguous()
        for begin in range(0, length, _QUERIES_ON_CPU):
            stop = min(begin + _QUERIES_ON_CPU, length)
            within_reach = position_key[h, length - stop : 2 * length - 1 - begin]
            logits = row_product(content_query[b, h, begin:stop], key[b, h])
            logits += relative_shift(row_product(position_query[b, h, begin:stop], within_reach))
            out[b, begin:stop, h] = row_product(logits.softmax(-1), values)
    return out.transpose(1, 2)


class RelativeAttention(nn.Module):
    """Queries, keys, values, and keys of the distances."""

    def __init__(
        self,
        width: int,
        heads: int,
        key_width: int,
        value_width: int,
        num_features: int,
        *,
        dropout: float,
        feature_dropout: float,
    ) -> None:
        super().__init__()
        self.heads, self.key_width = heads, key_width
        self.dropout, self.feature_dropout = dropout, feature_dropout
        self.to_q = nn.Linear(width, heads * key_width, bias=False)
        self.to_k = nn.Linear(width, heads * key_width, bias=False)
        self.to_v = nn.Linear(width, heads * value_width, bias=False)
        self.to_out = nn.Linear(heads * value_width, width)
        self.to_rel_k = nn.Linear(num_features, heads * key_width, bias=False)
        self.rel_content_bias = nn.Parameter(torch.empty(1, heads, 1, key_width))
        self.rel_pos_bias = nn.Parameter(torch.empty(1, heads, 1, key_width))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """[B, n, D] and the [2n - 1, F] features of the distances -> [B, n, D]."""
        query = self._by_head(linear(self.to_q, x)) * self.key_width**-0.5
        features = F.dropout(features.to(x.dtype), self.feature_dropout, self.training)
        mixed = relative_attention(
            query + self.rel_content_bias.to(query.dtype),
            query + self.rel_pos_bias.to(query.dtype),
            self._by_head(linear(self.to_k, x)),
            self._by_head(linear(self.to_v, x)),
            self.to_rel_k(features).view(-1, self.heads, self.key_width).transpose(0, 1),
            self.dropout if self.training else 0.0,
        )
        return linear(self.to_out, mixed.transpose(1, 2).flatten(2))

    def _by_head(self, x: Tensor) -> Tensor:
        """[B, n, heads P] -> [B, heads, n, P]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Matrices as torch has them, biases of the positions normal(0, 1), what goes out zero."""
        for layer in (self.to_q, self.to_k, self.to_v, self.to_rel_k):
            layer.reset_parameters()
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)
        nn.init.normal_(self.rel_content_bias)
        nn.init.normal_(self.rel_pos_bias)
