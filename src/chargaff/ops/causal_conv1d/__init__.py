"""Depth-wise causal convolution, channels last."""

from typing import Literal, overload

import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops.dispatch import choose, load_backends

BACKENDS = load_backends(__name__)

Activation = Literal["silu"] | None


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """y[t] = act(bias + sum over j < K of weight[:, j] x[t - (K-1) + j]), summed in float32.

    With `reverse` the mirror image: tap j reads position t + (K-1) - j, so the last tap is still the current position.
    Everything has a gradient. Autocast changes nothing here: inputs are taken in the type they come in.

    Args:
        x: [B, L, D] with L >= 1; any strides (slices of wider tensors are not copied).
        weight: [D, K]; bias: [D].
        initial_state: [B, K-1, D], the inputs before the first position (with `reverse`: after the last), in sequence
            order; zero if absent.
        return_state: also give the K-1 inputs that the next call needs as its `initial_state`.
        backend: "auto", or the name of one; BackendError if it cannot take the call.

    Returns:
        [B, L, D] in x's type; with `return_state` also [B, K-1, D] in x's type.
    """
    _check(x, weight, bias, activation, initial_state)
    args = (x, weight, bias, activation, reverse, initial_state)
    y: Tensor = choose("causal_conv1d", BACKENDS, backend, args).run(*args)
    return (y, _next_state(x, weight.shape[1] - 1, reverse, initial_state)) if return_state else y


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    x = torch.zeros(1, 1, 1, device=device)
    return (x, x[0], None, None, False, None)


def _next_state(x: Tensor, size: int, reverse: bool, initial_state: Tensor | None) -> Tensor:
    """[B, size, D]: the last inputs of the sequence (with `reverse`: the first), preceded by the older state."""
    length = x.shape[1]
    if length >= size:
        return (x[:, :size] if reverse else x[:, length - size :]).clone()
    past = x.new_zeros(x.shape[0], size, x.shape[2]) if initial_state is None else initial_state.to(x.dtype)
    return torch.cat([x, past[:, : size - length]] if reverse else [past[:, length:], x], 1)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, initial_state: Tensor | None
) -> None:
    if x.dim() != 3 or x.shape[1] == 0 or weight.dim() != 2 or weight.shape[1] == 0:
        shapes = f"{tuple(x.shape)}, {tuple(weight.shape)}"
        raise InputError(f"causal_conv1d: x must be [B, L >= 1, D] and weight [D, K >= 1], got {shapes}")
    if activation not in (None, "silu"):
        raise InputError(f"causal_conv1d: activation must be 'silu' or None, got {activation!r}")
    batch, _, width = x.shape
    taps = weight.shape[1]
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("weight", weight, (width, taps)),
        ("bias", bias, (width,)),
        ("initial_state", initial_state, (batch, taps - 1, width)),
    ]
    for name, tensor, shape in expected:
        if tensor is not None and tensor.shape != shape:
            raise InputError(f"causal_conv1d: {name} has shape {tuple(tensor.shape)}, expected {shape}")
