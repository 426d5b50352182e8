"""Reverse complement, shift and point mutation, on the device (tokens) or on the host (bytes).

Every decision comes from `SampleRng`, so both versions decide alike and no batch, worker or rank changes a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.batch import Example
from chargaff.data.rng import SampleRng
from chargaff.seq.alphabet import reverse_complement as reverse_complement_bytes
from chargaff.seq.interval import Interval

RC_STREAM, SHIFT_STREAM, MUTATION_STREAM, BASE_STREAM = "reverse-complement", "shift", "mutation", "mutation-base"


def mirror(values: Tensor, mask: Tensor | None) -> Tensor:
    """Every row read from its end; padding stays where it is.

    Args:
        values: [B, T].
        mask: [B, T], True where real, one run a row; None: all real.
    """
    if mask is None:
        return values.flip(1)
    column = torch.arange(values.shape[1], device=values.device)
    first = mask.int().argmax(1, keepdim=True)  # [B, 1]
    last = first + mask.sum(1, keepdim=True) - 1
    return values.gather(1, torch.where(mask, first + last - column, column))


def reverse_complement(tokens: Tensor, complement: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens of the other strand in its own reading direction, padding left in place; [B, T] -> [B, T], same dtype.

    Args:
        complement: [V] id of each id's complement.
    """
    return mirror(complement.to(tokens.dtype)[tokens.int()], mask)


def random_reverse_complement(
    tokens: Tensor, index: Tensor, complement: Tensor, rng: SampleRng, probability: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(tokens with some rows replaced by their other strand [B, T], which rows [B] bool).

    Args:
        index: [B] row of each sample in its source.
    """
    is_flipped = rng.coins(index, RC_STREAM, probability=probability)
    return torch.where(is_flipped.unsqueeze(1), reverse_complement(tokens, complement, mask), tokens), is_flipped


def random_shift(tokens: Tensor, index: Tensor, rng: SampleRng, max_shift: int, fill_id: int) -> Tensor:
    """Every row moved by -max_shift..max_shift positions (to the right if positive); freed positions hold `fill_id`.

    [B, T] -> [B, T].
    """
    offset = rng.integers(index, 1, SHIFT_STREAM, high=2 * max_shift + 1) - max_shift  # [B, 1]
    source = torch.arange(tokens.shape[1], device=tokens.device) - offset  # [B, T]
    inside = (source >= 0) & (source < tokens.shape[1])
    moved = tokens.gather(1, source.clamp(0, tokens.shape[1] - 1))
    return moved.masked_fill(~inside, fill_id)


def random_mutation(tokens: Tensor, index: Tensor, rng: SampleRng, probability: float, base_ids: Tensor) -> Tensor:
    """Each base becomes one of the three others with that probability; other tokens stay. [B, T] -> [B, T].

    Args:
        base_ids: [4] ids of A, C, G, T.
    """
    is_hit = rng.uniform(index, tokens.shape[1], MUTATION_STREAM) < probability
    step = rng.integers(index, tokens.shape[1], BASE_STREAM, high=3) + 1
    matches = tokens.unsqueeze(-1) == base_ids.to(tokens.dtype)  # [B, T, 4]
    changed = base_ids.to(tokens.dtype)[(matches.int().argmax(-1) + step) % 4]
    return torch.where(is_hit & matches.any(-1), changed, tokens)


@dataclass(frozen=True, slots=True)
class HostAugment:
    """The same changes on bytes, for tokenizers whose tokens are not single bases."""

    rc_probability: float = 0.0
    mutation_probability: float = 0.0

    def __call__(self, examples: list[Example], index: NDArray[np.int64], rng: SampleRng) -> list[Example]:
        """The examples, changed where the random numbers of their row say so; targets stay."""
        rows = torch.from_numpy(index)
        if self.rc_probability > 0:
            flips = rng.coins(rows, RC_STREAM, probability=self.rc_probability).tolist()
            examples = [_other_strand(item) if flip else item for item, flip in zip(examples, flips, strict=True)]
        if self.mutation_probability > 0:
            examples = [
                replace(item, views=tuple(self._mutate(view, rows[row : row + 1], rng) for view in item.views))
                for row, item in enumerate(examples)
            ]
        return examples

    def _mutate(self, seq: NDArray[np.uint8], row: Tensor, rng: SampleRng) -> NDArray[np.uint8]:
        bases = torch.tensor(list(b"ACGT"), dtype=torch.uint8)
        tokens = torch.from_numpy(seq.copy()).unsqueeze(0)
        return random_mutation(tokens, row, rng, self.mutation_probability, bases)[0].numpy()


def _other_strand(item: Example) -> Example:
    interval = item.interval
    flipped = interval and Interval(interval.contig, interval.start, interval.end, interval.strand.flip())
    return replace(item, views=tuple(reverse_complement_bytes(view) for view in item.views), interval=flipped)
