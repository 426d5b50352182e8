"""The transformer between the convolutions of Enformer and Borzoi, under their published names, and the crop."""

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.nn.conv_rows import linear
from chargaff.nn.stack import run_block


class AttentionBranch(nn.Module):
    """x + dropout(attention(norm(x)))."""

    def __init__(self, norm: nn.Module, attention: nn.Module, dropout: float) -> None:
        super().__init__()
        self.fn = nn.ModuleList([norm, attention])
        self.dropout = dropout

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """[B, n, D] -> [B, n, D]; positions: what the attention wants to know about them."""
        norm, attention = self.fn
        return x + F.dropout(attention(norm(x), positions), self.dropout, self.training)


class FeedForwardBranch(nn.Module):
    """x + dropout(linear(relu(dropout(linear(norm(x))))))."""

    def __init__(self, width: int, eps: float, dropout: float) -> None:
        super().__init__()
        up, down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.fn = nn.ModuleList([nn.LayerNorm(width, eps), up, nn.Dropout(dropout), nn.ReLU(inplace=True), down])
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, D] -> [B, n, D]."""
        norm, up, dropout, relu, down = self.fn
        branch = linear(down, relu(dropout(linear(up, norm(x)))))
        return x + F.dropout(branch, self.dropout, self.training)


class Block(nn.ModuleList):
    """Attention, then the feed-forward part: submodules 0 and 1."""

    def __init__(self, attention: nn.Module, width: int, eps: float, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.append(AttentionBranch(nn.LayerNorm(width, eps), attention, attention_dropout))
        self.append(FeedForwardBranch(width, eps, dropout))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """[B, n, D] -> [B, n, D]."""
        x = self[0](x, positions)
        out: Tensor = self[1](x)
        return out


def run_tower(
    blocks: nn.ModuleList, x: Tensor, positions: Tensor, taps: Collection[str], *, recompute: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The states after all blocks, and those asked for: "layer.k" after block k, "layer.0" before the first."""
    found = {"layer.0": x} if "layer.0" in taps else {}
    for depth, block in enumerate(blocks, start=1):
        x = run_block(block, x, positions, recompute=recompute)
        if f"layer.{depth}" in taps:
            found[f"layer.{depth}"] = x
    return x, found


def exponential_widths(start: int, end: int, num: int, divisor: int) -> list[int]:
    """Widths from `start` to `end` in `num` steps of one ratio, each rounded to a multiple (half to even)."""
    ratio = (end / start) ** (1 / (num - 1)) if num > 1 else 1.0
    return [int(round(start * ratio**step / divisor) * divisor) for step in range(num)]


def centre(size: int, target: int) -> tuple[int, int]:
    """First and end of the bins left when `size` are cut to the central `target`; -1 keeps all.

    An odd difference takes one bin more: the published models floor the half of it.

    Raises:
        InputError: there are fewer than `target`, or none is left.
    """
    if target == -1:
        return 0, size
    cut = -((target - size) // 2)
    if target > size or 2 * cut >= size:
        raise InputError(
            f"the sequence has {size} bins, too few to return the central {target}: give a longer sequence, or load "
            "the model with its number of returned bins set to -1"
        )
    return cut, size - cut
