"""The sLSTM cell: a scalar memory with exponential gates and recurrent weights, channels last."""

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops.dispatch import choose, load_backends

__all__ = ["BACKENDS", "SlstmState", "example", "slstm", "start_state"]

BACKENDS = load_backends(__name__)


class SlstmState(NamedTuple):
    """What the cell carries from step to step, each [B, H, K] in float32; c and n are divided by exp(m)."""

    y: Tensor
    """The last output."""
    c: Tensor
    """Memory."""
    n: Tensor
    """Sum of the gates; 0 marks the empty state, whose m does not count."""
    m: Tensor
    """The largest exponent so far."""


@overload
def slstm(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    *,
    reverse: bool = False,
    initial_state: SlstmState | None = None,
    return_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def slstm(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    *,
    reverse: bool = False,
    initial_state: SlstmState | None = None,
    return_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, SlstmState]: ...


def slstm(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    *,
    reverse: bool = False,
    initial_state: SlstmState | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, SlstmState]:
    """y[t] = sigmoid(o) c[t] / n[t], c[t] = sigmoid(f) c[t-1] + exp(i) tanh(z), n[t] = sigmoid(f) n[t-1] + exp(i).

    i, f, z, o are the given gates at t plus y[t-1] times the recurrent weights of the head, plus the bias. Computed in
    float32, with c and n divided by exp(m), m the largest exponent so far. Everything has a gradient. Autocast changes
    nothing here: inputs are taken in the type they come in.

    Args:
        igate, fgate, zgate, ogate: [B, L, H, K] with L >= 1; any strides (slices of wider tensors are not copied).
        recurrent: [H, K (of y), 4 (i, f, z, o), K].
        bias: [H, 4, K].
        reverse: go from the last position to the first.
        initial_state: the state before the first step; `start_state` if absent.
        return_state: also give the state after the last step (with `reverse`: after the first position).
        backend: "auto", or the name of one; BackendError if it cannot take the call.

    Returns:
        [B, L, H, K] in igate's type; with `return_state` also the state.
    """
    _check(igate, fgate, zgate, ogate, recurrent, bias, initial_state)
    state = start_state(igate) if initial_state is None else initial_state
    args = (igate, fgate, zgate, ogate, recurrent, bias, reverse, *state)
    with torch.autocast(igate.device.type, enabled=False):
        y, *last = choose("slstm", BACKENDS, backend, args).run(*args)
    return (y, SlstmState(*last)) if return_state else y


def start_state(gate: Tensor) -> SlstmState:
    """The empty state for inputs like gate [B, L, H, K]."""
    batch, _, heads, width = gate.shape
    exact = torch.float64 if gate.dtype == torch.float64 else torch.float32
    zeros = gate.new_zeros(batch, heads, width, dtype=exact)
    return SlstmState(zeros, zeros, zeros, zeros)


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    gate = torch.zeros(1, 1, 1, 1, device=device)
    weights = torch.zeros(1, 1, 4, 1, device=device)
    return (gate, gate, gate, gate, weights, weights[:, 0], False, *start_state(gate))


def _check(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    initial_state: SlstmState | None,
) -> None:
    if igate.dim() != 4 or igate.shape[1] == 0:
        raise InputError(f"slstm: igate must be [B, L >= 1, H, K], got {tuple(igate.shape)}")
    batch, length, heads, width = igate.shape
    given = (batch, length, heads, width)
    expected: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("fgate", fgate, given),
        ("zgate", zgate, given),
        ("ogate", ogate, given),
        ("recurrent", recurrent, (heads, width, 4, width)),
        ("bias", bias, (heads, 4, width)),
    ]
    if initial_state is not None:
        names = initial_state._fields
        expected += [
            (f"initial_state.{name}", x, (batch, heads, width)) for name, x in zip(names, initial_state, strict=True)
        ]
    for name, tensor, shape in expected:
        if tensor.shape != shape:
            raise InputError(f"slstm: {name} has shape {tuple(tensor.shape)}, expected {shape} to fit igate")
