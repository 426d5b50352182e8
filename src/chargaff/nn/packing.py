"""Padded batches as their real tokens alone, so that no work is spent on padding."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packing:
    """Which places of a padded batch are real; N of them, row by row."""

    index: Tensor
    """[N] place of each token in the flattened batch."""
    lengths: tuple[int, ...]
    """[B] real tokens of each row."""
    positions: Tensor
    """[N] column of each token."""
    shape: tuple[int, int]
    """(B, T) of the padded batch."""
    has_holes: bool
    """Whether the real tokens of some row are not consecutive, so that distances have to be told by `positions`."""


def packing_of(mask: Tensor) -> Packing:
    """Of a [B, T] mask, True (or not 0) where a token is real, in any pattern. Reads it on the host once."""
    real = mask.bool()
    index = real.flatten().nonzero().squeeze(1)
    starts = (real[:, 1:] & ~real[:, :-1]).sum(1) + real[:, 0]  # runs of real tokens in each row
    counts, runs = real.sum(1).tolist(), starts.tolist()
    batch, length = mask.shape
    return Packing(index, tuple(counts), index % length, (batch, length), max(runs, default=0) > 1)


def pack(x: Tensor, packing: Packing) -> Tensor:
    """[B, T, ...] -> [N, ...]."""
    return x.flatten(0, 1).index_select(0, packing.index)


def unpack(x: Tensor, packing: Packing) -> Tensor:
    """[N, ...] -> [B, T, ...], zero where there is no token."""
    batch, length = packing.shape
    padded = x.new_zeros(batch * length, *x.shape[1:]).index_copy(0, packing.index, x)
    return padded.view(batch, length, *x.shape[1:])
