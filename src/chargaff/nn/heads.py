"""Heads that any backbone can carry: `head(encoded, mask) -> Tensor`, averaging the strands that are there."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chargaff.nn.encoded import Encoded
from chargaff.nn.pooling import pool_strands


def _strand_mean(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)


class SequenceHead(nn.Module):
    """Pool, then one linear layer: class logits or regression values of a sequence."""

    def __init__(
        self, width: int, num_outputs: int, *, pooling: str = "mean", bias: bool = True, is_oriented: bool = False
    ) -> None:
        """
        Args:
            is_oriented: weights of their own for the two strands' views, which must both be there: the answer for a
                sequence and for its reverse complement may differ.
        """
        super().__init__()
        self.pooling = pooling
        self.is_oriented = is_oriented
        self.linear = nn.Linear(2 * width if is_oriented else width, num_outputs, bias=bias)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, num_outputs]; with two strands the mean of both outputs, unless the head is oriented."""
        parts = pool_strands(encoded, mask, self.pooling)
        if self.is_oriented:
            pooled: Tensor = self.linear(torch.cat(parts, -1))
            return pooled
        return _strand_mean(tuple(self.linear(part) for part in parts))


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
