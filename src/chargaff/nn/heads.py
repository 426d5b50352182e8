"""Heads that any backbone can carry: `head(encoded, mask) -> Tensor`, averaging the strands that are there."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chargaff.errors import ConfigError, InputError
from chargaff.nn.encoded import Encoded
from chargaff.nn.pooling import pool_strands


def _strand_mean(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)


class SequenceHead(nn.Module):
    """Pool, then one linear layer: class logits or regression values of a sequence."""

    def __init__(
        self,
        width: int,
        num_outputs: int,
        *,
        pooling: str = "mean",
        bias: bool = True,
        is_oriented: bool = False,
        positions: int | None = None,
    ) -> None:
        """
        Args:
            pooling: see `nn.pooling.pool`; "none" weighs every position apart.
            is_oriented: weights of their own for the two strands' views, which must both be there: the answer for a
                sequence and for its reverse complement may differ.
            positions: T of all inputs, for pooling "none".

        Raises:
            ConfigError: pooling "none" without `positions`.
        """
        super().__init__()
        if pooling == "none" and not positions:
            raise ConfigError('head: pooling "none" weighs every position apart and needs their number')
        self.positions = positions if pooling == "none" else None
        self.pooling = pooling
        self.is_oriented = is_oriented
        num_inputs = width * (2 if is_oriented else 1) * (self.positions or 1)
        self.linear = nn.Linear(num_inputs, num_outputs, bias=bias)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, num_outputs]; with two strands the mean of both outputs, unless the head is oriented.

        Raises:
            InputError: the head weighs positions apart, and the input has another number of them.
        """
        parts = pool_strands(encoded, mask, self.pooling)
        if self.positions is not None:
            parts = self._side_by_side(parts, mask)
        if self.is_oriented:
            pooled: Tensor = self.linear(torch.cat(parts, -1))
            return pooled
        return _strand_mean(tuple(self.linear(part) for part in parts))

    def _side_by_side(self, parts: tuple[Tensor, ...], mask: Tensor | None) -> tuple[Tensor, ...]:
        """[B, T, D] -> [B, T * D], zeros for padding; each strand in its own reading direction."""
        found = parts[0].shape[1]
        if found != self.positions:
            raise InputError(f"this model weighs {self.positions} positions apart; got a sequence of {found}")
        if mask is not None:
            parts = tuple(part * (mask > 0).unsqueeze(-1) for part in parts)
        return tuple((part.flip(1) if number else part).flatten(1) for number, part in enumerate(parts))


class TokenHead(nn.Module):
    """One linear layer on every position."""

    def __init__(self, width: int, num_outputs: int, *, bias: bool = True, opposite: Sequence[int] = ()) -> None:
        """
        Args:
            opposite: for each output the one that means the same on the other strand ("gene+" and "gene-"); (): itself.
        """
        super().__init__()
        self.linear = nn.Linear(width, num_outputs, bias=bias)
        self.opposite = list(opposite)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, num_outputs]; with two strands the mean of both outputs, each strand's own taken from its own view."""
        parts = tuple(self.linear(part) for part in pool_strands(encoded, mask, "none"))
        if len(parts) == 2 and self.opposite:
            parts = parts[0], parts[1][..., self.opposite]
        return _strand_mean(parts)
