"""The cell as matrix products over chunks of positions, for any device: linear time and memory.

Within a chunk let b be the running sum of logsigmoid(fgate), a = igate - b, and M[t] the largest of a[s], s <= t, and
of the exponent m that the state came with. Then m[t] = b[t] + M[t], position t weighs position s by exp(a[s] - M[t])
and the state by exp(m - M[t]), and the state after the chunk is that of its last position. b and a grow with the length
of a chunk and only their differences matter, so they are float64: a norm q . n near zero blows up every rounding.

The gradient is written out. Weights are recomputed. The slopes of the exponents need no matrices: those of position s
sum to k[s] . dk[s], those of row t to num[t] . dnum[t] + norm[t] dnorm[t]; what crosses the border of two chunks is one
inner product of a state with its gradient, so that rounding does not pile up along the sequence.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.ops.mlstm.combine import Sums, combine
from chargaff.ops.operators import operator

missing = None


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
    dtype = q.dtype
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    q, k, v, igate, fgate, C, n, m = (x.to(exact) for x in (q, k, v, igate, fgate, C, n, m))
    h, C, n, m = combine(sums, q, k, v, igate, fgate, bidirectional, reverse, C, n, m, chunk_tokens)
    return h.to(dtype), C, n, m


@dataclass(frozen=True)
class _Chunks:
    """The inputs in chunks [B, H, N, S, ...] in the order of the scan; what is missing in the last one is neutral."""

    q: Tensor
    k: Tensor
    """Divided by sqrt(K)."""
    v: Tensor
    exponent: Tensor
    """m of each position."""
    source: Tensor
    """a in float64; -inf where padded."""
    top: Tensor
    """M in float64."""
    winner: Tensor
    """Index in its chunk of the largest source so far."""
    is_old: Tensor
    """Whether the exponent that the state came with is larger than that."""
    entry: Tensor
    """[B, H, N + 1] exponent m of the state before each chunk, and after the last; float64."""

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, m: Tensor, reverse: bool, size: int
    ) -> "_Chunks":
        decay = F.logsigmoid(_chunked(fgate, reverse, size, pad=float("inf")))
        offset = _running_sum(decay.double())
        source = _chunked(igate, reverse, size, pad=float("-inf")) - offset
        largest, winner = source.cummax(-1)
        entries = [m.double()]
        for passed, highest in zip(offset[..., -1].unbind(-1), largest[..., -1].unbind(-1), strict=True):
            entries.append((passed + torch.maximum(entries[-1], highest)).to(m.dtype).double())
        entry = torch.stack(entries, -1)
        before = entry[..., :-1].unsqueeze(-1)
        exponent = (offset + torch.maximum(largest, before)).to(m.dtype)
        top = exponent.double() - offset  # what is left out of m by rounding stays in the weights
        k = _chunked(k, reverse, size) * k.shape[-1] ** -0.5
        rows = _chunked(q, reverse, size), k, _chunked(v, reverse, size)
        return cls(*rows, exponent, source, top, winner, before > largest, entry)

    @property
    def weights(self) -> Tensor:
        """[B, H, N, S (to), S (from)]."""
        size = self.source.shape[-1]
        exponent = (self.source.unsqueeze(-2) - self.top.unsqueeze(-1)).to(self.q.dtype)
        future = torch.ones(size, size, dtype=torch.bool, device=exponent.device).triu(1)
        return exponent.masked_fill_(future, float("-inf")).exp_()

    @property
    def from_state(self) -> Tensor:
        """[B, H, N, S] weight of the state before the chunk in each position."""
        return (self.entry[..., :-1].unsqueeze(-1) - self.top).to(self.q.dtype).exp()

    @property
    def into_state(self) -> Tensor:
        """[B, H, N, S] weight of each position in the state after the chunk."""
        return (self.source - self.top[..., -1:]).to(self.q.dtype).exp()

    @property
    def passing(self) -> Tensor:
        """[B, H, N] weight of the state before the chunk in the one after it."""
        return self.from_state[..., -1]


def _chunked(x: Tensor, reverse: bool, size: int, pad: float = 0.0) -> Tensor:
    """[B, L, H, ...] -> [B, H, N, S, ...]."""
    length = x.shape[1]
    missing_tokens = -length % size
    if reverse:
        x = x.flip(1)
    if missing_tokens:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing_tokens), value=pad)
    batch, length, *rest = x.shape
    return x.reshape(batch, length // size, size, *rest).movedim(3, 1).contiguous()


def _running_sum(x: Tensor) -> Tensor:
    """Over the last axis, as a product: CUDA's cumsum is not deterministic."""
    size = x.shape[-1]
    return x @ torch.ones(size, size, dtype=x.dtype, device=x.device).triu()


def _whole(x: Tensor, reverse: bool, length: int) -> Tensor:
    """Inverse of `_chunked`."""
    x = x.movedim(1, 3).flatten(1, 2)[:, :length]
    return x.flip(1) if reverse else x.contiguous()


def _sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    C: Tensor,
    n: Tensor,
    m: Tensor,
    reverse: bool,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The sums, then C and n before each chunk."""
    length = q.shape[1]
    chunks = _Chunks.of(q, k, v, igate, fgate, m, reverse, min(chunk_tokens, length))
    weighted = chunks.k * chunks.into_state.unsqueeze(-1)
    Cs, ns = _through_chunks(chunks, weighted.transpose(-1, -2) @ chunks.v, weighted.sum(-2), C, n)
    scores = (chunks.q @ chunks.k.transpose(-1, -2)).mul_(chunks.weights)
    r = chunks.from_state
    numerator = (scores @ chunks.v).addcmul_(chunks.q @ Cs[:, :, :-1], r.unsqueeze(-1))
    norm = scores.sum(-1).addcmul_((chunks.q @ ns[:, :, :-1].unsqueeze(-1)).squeeze(-1), r)
    whole = [_whole(x, reverse, length) for x in (numerator, norm, chunks.exponent)]
    last = [x[:, :, -1].to(m.dtype, copy=True) for x in (Cs, ns, chunks.entry)]
    return whole[0], whole[1], whole[2], last[0], last[1], last[2], Cs, ns


def _through_chunks(chunks: _Chunks, C_new: Tensor, n_new: Tensor, C: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """C and n before each chunk and after the last, from what each chunk adds."""
    decay = chunks.passing
    Cs = torch.cat([C.unsqueeze(2), C_new], 2)
    ns = torch.cat([n.unsqueeze(2), n_new], 2)
    for index in range(decay.shape[2]):
        kept = decay[:, :, index, None]
        Cs[:, :, index + 1].addcmul_(Cs[:, :, index], kept.unsqueeze(-1))
        ns[:, :, index + 1].addcmul_(ns[:, :, index], kept)
    return Cs, ns


def _allocate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    C: Tensor,
    n: Tensor,
    m: Tensor,
    reverse: bool,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, length, heads, width = q.shape
    size = min(chunk_tokens, length)
    points = (length + size - 1) // size + 1
    return (
        q.new_empty(q.shape), q.new_empty(batch, length, heads), q.new_empty(batch, length, heads),
        q.new_empty(C.shape), q.new_empty(n.shape), q.new_empty(m.shape),
        q.new_empty(batch, heads, points, width, width), q.new_empty(batch, heads, points, width),
    )  # fmt: skip


def _slopes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    m: Tensor,
    reverse: bool,
    chunk_tokens: int,
    Cs: Tensor,
    ns: Tensor,
    numerator: Tensor,
    norm: Tensor,
    dnumerator: Tensor,
    dnorm: Tensor,
    dexponent: Tensor,
    dC: Tensor,
    dn: Tensor,
    dm: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, igate, fgate, C, n, m."""
    length = q.shape[1]
    size = min(chunk_tokens, length)
    chunks = _Chunks.of(q, k, v, igate, fgate, m, reverse, size)
    dnum, dnrm, dexp = (_chunked(x, reverse, size) for x in (dnumerator, dnorm, dexponent))
    rows = (_chunked(numerator, reverse, size) * dnum).sum(-1) + _chunked(norm, reverse, size) * dnrm
    r, w = chunks.from_state.unsqueeze(-1), chunks.into_state.unsqueeze(-1)

    # the gradient of every state: from the positions of the chunk after it, and through the next state
    from_rows = chunks.q * r
    dCs, dns = _back_through_chunks(
        chunks, from_rows.transpose(-1, -2) @ dnum, (from_rows * dnrm.unsqueeze(-1)).sum(-2), dC, dn
    )

    weights = chunks.weights
    dscores = (dnum @ chunks.v.transpose(-1, -2)).add_(dnrm.unsqueeze(-1)).mul_(weights)
    scores = (chunks.q @ chunks.k.transpose(-1, -2)).mul_(weights)
    C_in, n_in = Cs[:, :, :-1], ns[:, :, :-1].unsqueeze(-2)
    dC_out, dn_out = dCs[:, :, 1:], dns[:, :, 1:].unsqueeze(-2)
    dq = (dscores @ chunks.k).addcmul_((dnum @ C_in.transpose(-1, -2)).addcmul_(dnrm.unsqueeze(-1), n_in), r)
    dk = (dscores.transpose(-1, -2) @ chunks.q).addcmul_((chunks.v @ dC_out.transpose(-1, -2)).add_(dn_out), w)
    dv = (scores.transpose(-1, -2) @ dnum).addcmul_(chunks.k @ dC_out, w)

    crossing = (Cs * dCs).sum((-1, -2)) + (ns * dns).sum(-1)  # [B, H, N + 1]
    columns = (chunks.k * dk).sum(-1)
    columns, through, dm_first = _route(chunks, columns, dexp - rows, dm - crossing[..., -1])
    ddecay = dexp - columns
    ddecay[..., -1] += crossing[..., 1:] + through[..., 1:]
    ddecay = _running_sum(ddecay.flip(-1)).flip(-1)
    dk = dk * k.shape[-1] ** -0.5
    whole = [_whole(x, reverse, length) for x in (dq, dk, dv, columns, ddecay)]
    dfgate = whole[4] * torch.sigmoid(-fgate)
    first = dCs[:, :, 0].clone(), dns[:, :, 0].clone(), crossing[..., 0] + dm_first
    return whole[0], whole[1], whole[2], whole[3], dfgate, *first


def _back_through_chunks(
    chunks: _Chunks, dC_new: Tensor, dn_new: Tensor, dC: Tensor, dn: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of C and n before each chunk and after the last, from what the positions of each chunk add."""
    decay = chunks.passing
    dCs = torch.cat([dC_new, dC.unsqueeze(2)], 2)
    dns = torch.cat([dn_new, dn.unsqueeze(2)], 2)
    for index in reversed(range(decay.shape[2])):
        kept = decay[:, :, index, None]
        dCs[:, :, index].addcmul_(dCs[:, :, index + 1], kept.unsqueeze(-1))
        dns[:, :, index].addcmul_(dns[:, :, index + 1], kept)
    return dCs, dns


def _route(chunks: _Chunks, columns: Tensor, dtop: Tensor, dlast: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sends the gradients of the maxima M to what they are the maximum of.

    Args:
        columns: [B, H, N, S] gradient of the sources so far.
        dtop: [B, H, N, S] of M.
        dlast: [B, H] of the last M as the exponent of the state after it.

    Returns:
        gradient of the sources, [B, H, N + 1] of the exponents between chunks so far as maxima pass them on, and the
        part of it that belongs to the first.
    """
    is_old = chunks.is_old
    to_old = (dtop * is_old).sum(-1)  # [B, H, N]
    through = torch.cat([to_old, dlast.unsqueeze(-1)], -1)
    for index in reversed(range(to_old.shape[2])):
        through[:, :, index] += through[:, :, index + 1] * is_old[:, :, index, -1]
    at_last = F.pad(through[..., 1:].unsqueeze(-1), (dtop.shape[-1] - 1, 0))
    columns = columns.scatter_add(-1, chunks.winner, (dtop + at_last) * ~is_old)
    return columns, through, through[..., 0]


def _allocate_slopes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    m: Tensor,
    reverse: bool,
    chunk_tokens: int,
    Cs: Tensor,
    ns: Tensor,
    numerator: Tensor,
    norm: Tensor,
    dnumerator: Tensor,
    dnorm: Tensor,
    dexponent: Tensor,
    dC: Tensor,
    dn: Tensor,
    dm: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(igate.shape),
        q.new_empty(igate.shape), q.new_empty(dC.shape), q.new_empty(dn.shape), q.new_empty(dm.shape),
    )  # fmt: skip


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, igate, fgate, _, _, m, ctx.reverse, ctx.chunk_tokens = inputs
    numerator, norm, *_, Cs, ns = output
    ctx.save_for_backward(q, k, v, igate, fgate, m, Cs, ns, numerator, norm)


def _differentiate(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, igate, fgate, m, Cs, ns, numerator, norm = ctx.saved_tensors
    with torch.autocast(q.device.type, enabled=False):
        found = slopes_of_sums(
            q, k, v, igate, fgate, m, ctx.reverse, ctx.chunk_tokens, Cs, ns, numerator, norm, *given[:6]
        )  # fmt: skip
    return (*found, None, None)


sums_and_states = operator("mlstm_chunkwise", "default", _sums, _allocate, _remember, _differentiate)
slopes_of_sums = operator("mlstm_chunkwise_backward", "default", _slopes, _allocate_slopes)


def sums(*args: Any) -> Sums:
    """See `combine.SumsFunction`."""
    numerator, norm, exponent, C, n, m, *_ = sums_and_states(*args)
    return numerator, norm, exponent, C, n, m
