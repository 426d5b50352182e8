"""The mLSTM cell: a matrix memory with exponential gates, channels last."""

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops.dispatch import choose, load_backends

__all__ = ["BACKENDS", "Form", "MlstmState", "example", "mlstm", "start_state"]

BACKENDS = load_backends(__name__)

Form = Literal["parallel", "recurrent"]


class MlstmState(NamedTuple):
    """What the cell carries from step to step, in float32 and divided by exp(m)."""

    C: Tensor
    """[B, H, K (key), K (value)], the sum of gated k v^T / sqrt(K)."""
    n: Tensor
    """[B, H, K], the sum of gated k / sqrt(K)."""
    m: Tensor
    """[B, H], the largest exponent so far."""


@overload
def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    *,
    form: Form = "recurrent",
    bidirectional: bool = False,
    reverse: bool = False,
    initial_state: MlstmState | None = None,
    return_state: Literal[False] = False,
    chunk_tokens: int = 64,
    backend: str = "auto",
) -> Tensor: ...


@overload
def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    *,
    form: Form = "recurrent",
    bidirectional: bool = False,
    reverse: bool = False,
    initial_state: MlstmState | None = None,
    return_state: Literal[True],
    chunk_tokens: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, MlstmState]: ...


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    *,
    form: Form = "recurrent",
    bidirectional: bool = False,
    reverse: bool = False,
    initial_state: MlstmState | None = None,
    return_state: bool = False,
    chunk_tokens: int = 64,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, MlstmState]:
    """h[t] = C[t]^T q[t] / max(|n[t] q[t]|, 1), where C[t] = f[t] C[t-1] + i[t] k[t] v[t]^T / sqrt(K), n alike.

    f = sigmoid(fgate), i = exp(igate). Computed in float32 with everything divided by exp(m[t]), m[t] the largest
    exponent, and 1e-6 added to the denominator then; what m[t] is thus shows in the sixth digit, see `form`. Everything
    has a gradient. Autocast changes nothing here: inputs are taken in the type they come in.

    Args:
        q, k, v: [B, L, H, K] with L >= 1, any strides.
        igate, fgate: [B, L, H], before exp and sigmoid, finite.
        form: "recurrent" counts the exponent 0 of the empty start among those that m is the largest of, as the
            published recurrent and chunkwise forms do; "parallel" does not, like the published parallel form.
        bidirectional: every position reads all others, decayed by the forget gates between, with one denominator (the
            published native bidirectional form); takes no state, and `form` and `reverse` do not matter.
        reverse: go from the last position to the first.
        initial_state: the state before the first step; `start_state` if absent.
        return_state: also give the state after the last step (with `reverse`: after the first position).
        chunk_tokens: positions that backends take together; changes rounding and speed.
        backend: "auto", or the name of one; BackendError if it cannot take the call.

    Returns:
        [B, L, H, K] in q's type; with `return_state` also the state.
    """
    _check(q, k, v, igate, fgate, form, initial_state, chunk_tokens)
    if bidirectional and (initial_state is not None or return_state):
        raise InputError("mlstm: the bidirectional form has no state")
    state = start_state(q, form) if initial_state is None else initial_state
    args = (q, k, v, igate, fgate, bidirectional, reverse, *state, chunk_tokens)
    with torch.autocast(q.device.type, enabled=False):
        h, *last = choose("mlstm", BACKENDS, backend, args).run(*args)
    return (h, MlstmState(*last)) if return_state else h


def start_state(q: Tensor, form: Form) -> MlstmState:
    """The empty state for inputs like q [B, L, H, K]."""
    batch, _, heads, width = q.shape
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    zeros = q.new_zeros(batch, heads, width, width, dtype=exact)
    m = zeros.new_full((batch, heads), float("-inf") if form == "parallel" else 0.0)
    return MlstmState(zeros, zeros[..., 0], m)


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    q = torch.zeros(1, 1, 1, 1, device=device)
    return (q, q, q, q[..., 0], q[..., 0], False, False, *start_state(q, "recurrent"), 64)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    form: str,
    initial_state: MlstmState | None,
    chunk_tokens: int,
) -> None:
    if q.dim() != 4 or q.shape[1] == 0:
        raise InputError(f"mlstm: q must be [B, L >= 1, H, K], got {tuple(q.shape)}")
    if form not in ("parallel", "recurrent"):
        raise InputError(f"mlstm: form must be 'parallel' or 'recurrent', got {form!r}")
    if chunk_tokens < 1:
        raise InputError(f"mlstm: chunk_tokens must be positive, got {chunk_tokens}")
    batch, length, heads, width = q.shape
    expected: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("k", k, (batch, length, heads, width)),
        ("v", v, (batch, length, heads, width)),
        ("igate", igate, (batch, length, heads)),
        ("fgate", fgate, (batch, length, heads)),
    ]
    if initial_state is not None:
        expected += [
            ("initial_state.C", initial_state.C, (batch, heads, width, width)),
            ("initial_state.n", initial_state.n, (batch, heads, width)),
            ("initial_state.m", initial_state.m, (batch, heads)),
        ]
    for name, tensor, shape in expected:
        if tensor.shape != shape:
            raise InputError(f"mlstm: {name} has shape {tuple(tensor.shape)}, expected {shape} to fit q")
