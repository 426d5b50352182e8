"""Softmax attention over padded or packed sequences, with linear distance biases (ALiBi, dnabert sheet 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops.attention.reference import probabilities
from chargaff.ops.dispatch import choose, load_backends

__all__ = ["BACKENDS", "alibi_slopes", "attention", "attention_weights", "example"]

BACKENDS = load_backends(__name__)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    lengths: Sequence[int] | None = None,
    mask: Tensor | None = None,
    slopes: Tensor | None = None,
    positions: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """softmax(scale query key^T - slope |i - j|) value, a head at a time; query, key and value have gradients.

    Two layouts. Padded: [B, T, ...], where `mask` may say which positions are real. Packed: [N, ...], the real tokens
    of all sequences one after another, with `lengths`; no work is spent on padding.

    Args:
        query: [B, T, H, K] or [N, H, K].
        key, value: [B, T, G, K] or [N, G, K]; G divides H, and H / G neighbouring query heads share one.
        lengths: of the packed sequences, on the host; they sum to N. None: the padded layout.
        mask: [B, T] True where a key counts, in any pattern; None: everywhere. The output is zero at the other
            positions. Reads the mask on the host: pack beforehand where many calls share one.
        slopes: [H], see `alibi_slopes`; constants, without gradient.
        positions: [B, T] or [N], between which distances are counted; None: the tokens are consecutive (with `mask`,
            the columns count).
        causal: a token sees none after it.
        scale: 1 / sqrt(K) if None.
        dropout: of the probabilities.
        backend: "auto", or the name of one; BackendError if it cannot take the call.

    Returns:
        As `query`.
    """
    _check(query, key, lengths, mask, slopes, positions)
    if value.shape != key.shape:
        raise InputError(f"attention: value has shape {tuple(value.shape)}, expected that of key, {tuple(key.shape)}")
    args = (query, key, value, lengths, mask, slopes, positions, causal, scale, dropout)
    y: Tensor = choose("attention", BACKENDS, backend, args).run(*args)
    return y


def attention_weights(
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None = None,
    slopes: Tensor | None = None,
    positions: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The probabilities `attention` averages values with; quadratic in memory, for looking at.

    Args: as `attention`, padded layout. For single maps pass slices of the heads, those of `slopes` too.

    Returns:
        [B, H, T, T] (query, key) float32; zero for and at positions that do not count.
    """
    _check(query, key, None, mask, slopes, positions)
    return probabilities(query, key, mask, slopes, positions, causal, scale)


def alibi_slopes(heads: int) -> Tensor:
    """[heads] float32, for any number of heads.

    A power of two, n: r, r^2, ..., r^n with r = 2^(-8 / n). Otherwise those of the next lower power of two p, then
    every second one of those of 2p.
    """
    if heads < 1:
        raise InputError(f"attention: expected at least one head, got {heads}")
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * k / power) for k in range(1, power + 1)]
    between = [2.0 ** (-4 * k / power) for k in range(1, 2 * power, 2)]
    return torch.tensor((slopes + between)[:heads], dtype=torch.float32)


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    x = torch.zeros(1, 1, 1, 1, device=device)
    return (x, x, x, None, None, None, None, False, None, 0.0)


def _check(
    query: Tensor,
    key: Tensor,
    lengths: Sequence[int] | None,
    mask: Tensor | None,
    slopes: Tensor | None,
    positions: Tensor | None,
) -> None:
    layout = "[B, T, H, K]" if lengths is None else "[N, H, K]"
    if query.dim() != layout.count(",") + 1:
        raise InputError(f"attention: query must be {layout}, got {tuple(query.shape)}")
    *places, heads, width = query.shape
    if list(key.shape) != [*places, key.shape[-2], width] or heads % key.shape[-2]:
        raise InputError(f"attention: key has shape {tuple(key.shape)}, which does not go with {tuple(query.shape)}")
    if lengths is not None and sum(lengths) != places[0]:
        raise InputError(f"attention: lengths sum to {sum(lengths):,}, but there are {places[0]:,} tokens")
    if lengths is not None and mask is not None:
        raise InputError("attention: packed tokens are all real; give either lengths or a mask")
    for name, tensor, shape in (("mask", mask, places), ("slopes", slopes, [heads]), ("positions", positions, places)):
        if tensor is not None and list(tensor.shape) != shape:
            raise InputError(f"attention: {name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
