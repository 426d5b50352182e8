"""The selective state-space scan of Mamba, channels last."""

from typing import Literal, overload

import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops.dispatch import choose, load_backends

BACKENDS = load_backends(__name__)


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = False,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = False,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = False,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan s[t] = exp(dt[t] A) s[t-1] + dt[t] u[t] B[t], y[t] = (s[t] C[t] + D u[t]) silu(z[t]), in float32.

    dt = softplus(delta + delta_bias), or delta + delta_bias without `softplus`; absent D, z and delta_bias drop out.
    Everything has a gradient. Autocast changes nothing here: inputs are taken in the type they come in.

    Args:
        u, delta, z: [B, L, D] with L >= 1; any strides (slices of wider tensors are not copied).
        A: [D, N], negative, that is -exp(A_log).
        B, C: [B, L, N].
        D, delta_bias: [D].
        reverse: scan from the last position to the first.
        initial_state: [B, D, N], the state before the first position scanned; zero if absent.
        return_state: also give the state after the last position scanned (with `reverse`: the first of the sequence).
        backend: "auto", or the name of one; BackendError if it cannot take the call.

    Returns:
        [B, L, D] in u's type; with `return_state` also [B, D, N] in float32.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    args = (u, delta, A, B, C, D, z, delta_bias, softplus, reverse, initial_state, return_state)
    y, state = choose("selective_scan", BACKENDS, backend, args).run(*args)
    return (y, state) if return_state else y


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    x = torch.zeros(1, 1, 1, device=device)
    return (x, x, x[0], x, x, None, None, None, False, False, None, False)


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.dim() != 3 or u.shape[1] == 0 or A.dim() != 2:
        shapes = f"{tuple(u.shape)}, {tuple(A.shape)}"
        raise InputError(f"selective_scan: u must be [B, L >= 1, D] and A [D, N], got {shapes}")
    batch, length, width = u.shape
    states = A.shape[1]
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("delta", delta, (batch, length, width)),
        ("A", A, (width, states)),
        ("B", B, (batch, length, states)),
        ("C", C, (batch, length, states)),
        ("D", D, (width,)),
        ("z", z, (batch, length, width)),
        ("delta_bias", delta_bias, (width,)),
        ("initial_state", initial_state, (batch, width, states)),
    ]
    for name, tensor, shape in expected:
        if tensor is not None and tensor.shape != shape:
            raise InputError(f"selective_scan: {name} has shape {tuple(tensor.shape)}, expected {shape} to fit u and A")
