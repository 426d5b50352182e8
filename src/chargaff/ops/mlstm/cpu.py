"""The cell on the CPU: Numba kernels behind torch operators with a hand-written gradient."""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.ops.mlstm.combine import Sums, combine
from chargaff.ops.operators import operator

missing = None if find_spec("numba") else "the package numba is not installed"


def unsupported(q: Tensor, *others: object) -> str | None:
    """It computes in float32, on the CPU."""
    if q.device.type != "cpu":
        return f"q is on {q.device}"
    if q.dtype == torch.float64:
        return "float64 is left to the others"
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
    """h [B, L, H, K] and the state after the last step; inputs of other types than float32 are copied."""
    dtype = q.dtype
    q, k, v, igate, fgate, C, n, m = (x.float() for x in (q, k, v, igate, fgate, C, n, m))
    h, C, n, m = combine(_sums, q, k, v, igate, fgate, bidirectional, reverse, C, n, m, chunk_tokens)
    return h.to(dtype), C, n, m


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
) -> Sums:
    """See `combine.SumsFunction`."""
    rows = [_adjacent(x) for x in (q, k, v)]
    inputs = (*rows, igate, fgate, C, n, m)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    numerator, norm, exponent, C, n, m, *_ = sums(*inputs, reverse, chunk_tokens, keep)
    return numerator, norm, exponent, C, n, m


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _forward(
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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The sums, then with `keep` the states between chunks, else three times nothing."""
    from chargaff.ops.mlstm.cpu_forward import forward

    width = q.shape[3]
    kept = _room(q, keep, chunk_tokens)
    state = (_wide(C, 2), _wide(n), m.clone())
    numerator, norm, exponent = forward(
        (q, k, v, igate, fgate), state, kept, reverse, chunk_tokens
    )  # fmt: skip
    last = _cut(state[0], width), state[1][..., :width].contiguous()
    return numerator, norm, exponent, *last, state[2], *kept


def _room(q: Tensor, keep: bool, chunk_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised memory for C, n, m between the chunks."""
    from chargaff.ops.mlstm.cpu_tiles import padded_width

    batch, length, heads, width = q.shape
    wide, size = padded_width(width), min(chunk_tokens, length)
    points = (length + size - 1) // size + 1
    if not keep:
        return q.new_empty(0, 0, 0, 0, 0), q.new_empty(0, 0, 0, 0), q.new_empty(0, 0, 0)
    first = (batch, heads, points)
    return q.new_empty(*first, wide, wide), q.new_empty(*first, wide), q.new_empty(first)


def _wide(x: Tensor, axes: int = 1) -> Tensor:
    """A dense copy, padded in its last `axes` axes of one width to whole tiles."""
    from chargaff.ops.mlstm.cpu_tiles import padded_width

    missing = padded_width(x.shape[-1]) - x.shape[-1]
    return F.pad(x, (0, missing) * axes).contiguous()


def _cut(C: Tensor, width: int) -> Tensor:
    return C[..., :width, :width].contiguous()


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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gates = (q.new_empty(igate.shape), q.new_empty(igate.shape))
    state = (q.new_empty(C.shape), q.new_empty(n.shape), q.new_empty(m.shape))
    return q.new_empty(q.shape), *gates, *state, *_room(q, keep, chunk_tokens)


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    reverse: bool,
    chunk_tokens: int,
    kept_C: Tensor,
    kept_n: Tensor,
    kept_m: Tensor,
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
    from chargaff.ops.mlstm.cpu_backward import backward

    width = q.shape[3]
    state = (_wide(dC, 2), _wide(dn), dm.clone())
    found = backward(
        (q, k, v, igate, fgate), (kept_C, kept_n, kept_m), (numerator, norm), (dnumerator, dnorm, dexponent), state,
        reverse, chunk_tokens,
    )  # fmt: skip
    return *found, _cut(state[0], width), state[1][..., :width].contiguous(), state[2]


def _allocate_slopes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    reverse: bool,
    chunk_tokens: int,
    kept_C: Tensor,
    kept_n: Tensor,
    kept_m: Tensor,
    numerator: Tensor,
    norm: Tensor,
    dnumerator: Tensor,
    dnorm: Tensor,
    dexponent: Tensor,
    dC: Tensor,
    dn: Tensor,
    dm: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = (q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape))
    gates = (q.new_empty(igate.shape), q.new_empty(igate.shape))
    return *rows, *gates, q.new_empty(dC.shape), q.new_empty(dn.shape), q.new_empty(dm.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, igate, fgate, *_, ctx.reverse, ctx.chunk_tokens, _keep = inputs
    numerator, norm, *_, kept_C, kept_n, kept_m = output
    ctx.save_for_backward(q, k, v, igate, fgate, kept_C, kept_n, kept_m, numerator, norm)


def _differentiate(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, igate, fgate, *more = ctx.saved_tensors
    slopes = (_adjacent(given[0]), *given[1:6])
    found = slopes_of_sums(q, k, v, igate, fgate, ctx.reverse, ctx.chunk_tokens, *more, *slopes)
    return (*found, None, None, None)


sums = operator("mlstm_cpu", "cpu", _forward, _allocate, _remember, _differentiate)
slopes_of_sums = operator("mlstm_cpu_backward", "cpu", _backward, _allocate_slopes)
