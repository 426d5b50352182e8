"""The definitions of the mLSTM cell in plain torch (xlstm sheet 3.5): step by step, and as one matrix."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

missing = None

EPSILON = 1e-6
"""Added to the stabilised denominator."""


def unsupported(*args: object) -> str | None:
    """Takes every call."""
    return None


def run(
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
    """h [B, L, H, K] and the state after the last step; float64 in float64, all else in float32."""
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    dtype = q.dtype
    q, k, v, igate, fgate = (x.to(exact).transpose(1, 2) for x in (q, k, v, igate, fgate))  # [B, H, L, ...]
    C, n, m = C.to(exact), n.to(exact), m.to(exact)
    if bidirectional:
        h = bidirectional_form(q, k, v, igate, fgate)
    else:
        if reverse:
            q, k, v, igate, fgate = (x.flip(2) for x in (q, k, v, igate, fgate))
        h, C, n, m = recurrent_form(q, k, v, igate, fgate, C, n, m)
        h = h.flip(2) if reverse else h
    return h.transpose(1, 2).to(dtype), C, n, m


def recurrent_form(
    q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, C: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(h [B, H, L, K], C [B, H, K, K], n [B, H, K], m [B, H]); q, k, v [B, H, L, K], gates [B, H, L]."""
    k = k * k.shape[-1] ** -0.5
    steps = [x.unbind(2) for x in (q, k, v, igate, logsigmoid(fgate))]
    rows = []
    for q_t, k_t, v_t, i_t, decay in zip(*steps, strict=True):
        kept = decay + m
        m = torch.maximum(kept, i_t)
        f, i = (kept - m).exp(), (i_t - m).exp()
        C = f[..., None, None] * C + i[..., None, None] * k_t[..., :, None] * v_t[..., None, :]
        n = f[..., None] * n + i[..., None] * k_t
        numerator = torch.einsum("bhk,bhkj->bhj", q_t, C)
        norm = torch.einsum("bhk,bhk->bh", q_t, n)
        rows.append(_normalised(numerator, norm, m))
    return torch.stack(rows, 2), C, n, m


def parallel_form(q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor) -> Tensor:
    """h [B, H, L, K], at quadratic cost; equal to the recurrent form started from m = -inf."""
    passed = logsigmoid(fgate).cumsum(-1)
    exponent = passed.unsqueeze(-1) - passed.unsqueeze(-2) + igate.unsqueeze(-2)  # [B, H, L (to), L (from)]
    future = torch.ones_like(exponent[0, 0], dtype=torch.bool).triu(1)
    return _from_matrix(q, k, v, exponent.masked_fill(future, float("-inf")))


def bidirectional_form(q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor) -> Tensor:
    """h [B, H, L, K] where every position reads all others, decayed by the forget gates between (sheet 3.5.4)."""
    passed = logsigmoid(fgate).cumsum(-1)
    before = passed - logsigmoid(fgate)  # up to, but without, the gate of the position itself
    ahead = before.unsqueeze(-2) - before.unsqueeze(-1) + igate.unsqueeze(-2)
    behind = passed.unsqueeze(-1) - passed.unsqueeze(-2) + igate.unsqueeze(-2)
    future = torch.ones_like(behind[0, 0], dtype=torch.bool).triu(1)
    return _from_matrix(q, k, v, torch.where(future, ahead, behind))


def _from_matrix(q: Tensor, k: Tensor, v: Tensor, exponent: Tensor) -> Tensor:
    m = exponent.amax(-1)
    weights = q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5 * (exponent - m.unsqueeze(-1)).exp()
    return _normalised(weights @ v, weights.sum(-1), m)


def _normalised(numerator: Tensor, norm: Tensor, m: Tensor) -> Tensor:
    return numerator / (torch.maximum(norm.abs(), (-m).exp()) + EPSILON).unsqueeze(-1)
