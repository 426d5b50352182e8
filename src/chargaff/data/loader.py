"""From a source to batches: examples -> tokens, one item per optimizer step, any number of workers.

A loader's item k is the batch of step k, a pure function of (data, seed, k). Workers are handed step numbers and
nothing else, so their number cannot change a batch, and resuming means to start at another number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from chargaff.data.augment import HostAugment
from chargaff.data.batch import Batch, Example, Source
from chargaff.data.order import EpochOrder, StepPlan
from chargaff.data.rng import SampleRng
from chargaff.errors import InputError
from chargaff.tokenizers.protocol import Tokenizer

IGNORED_LABEL = -100
"""Padding of per-token labels."""


@dataclass(frozen=True, slots=True)
class TokenRule:
    """How sequences become rows of a batch."""

    max_tokens: int | None = None
    """Longer rows lose their last tokens; None keeps all. With `special`, so many letters are read and special tokens
    come on top."""
    padding: Literal["none", "left", "right"] = "none"
    """Side that is filled; "none" refuses rows of different lengths."""
    fixed: bool = False
    """Pad every row to max_tokens instead of to the longest row of the batch; not with `special`."""
    special: bool = False
    """Let the tokenizer add its special tokens."""
    multiple_of: int = 1
    """Padded length is rounded up to a multiple of this."""


class Collate:
    """Examples and their rows in the source -> Batch."""

    def __init__(self, tokenizer: Tokenizer, rule: TokenRule) -> None:
        self.tokenizer = tokenizer
        self.rule = rule

    def __call__(self, examples: Sequence[Example], index: NDArray[np.int64]) -> Batch:
        """Tokens [V*B, T] view-major; mask only if something was padded.

        Raises:
            InputError: rows of different lengths where padding is not allowed, or an empty row.
        """
        views = [example.views[view] for view in range(len(examples[0].views)) for example in examples]
        tokens, mask = self._stack(self._encode(views), examples)
        side = self.rule.padding
        return Batch(
            tokens,
            mask,
            _targets([item.target for item in examples], tokens.shape[1], side),
            torch.from_numpy(index.astype(np.int64)),
            torch.tensor([item.weight for item in examples]) if any(item.weight != 1 for item in examples) else None,
        )

    def _encode(self, views: list[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        limit, special = self.rule.max_tokens, self.rule.special
        is_aligned = not special and self.tokenizer.complement is not None and len({len(view) for view in views}) == 1
        if is_aligned:  # one token per base: one look-up for the whole batch
            return list(self.tokenizer.encode(np.stack(views), special=False)[:, :limit])
        if special:
            return [self.tokenizer.encode(view[:limit], special=True) for view in views]
        return [self.tokenizer.encode(view, special=False)[:limit] for view in views]

    def _stack(self, rows: list[NDArray[Any]], examples: Sequence[Example]) -> tuple[Tensor, Tensor | None]:
        lengths = np.array([len(row) for row in rows])
        if not lengths.all():
            empty = int(np.flatnonzero(lengths == 0)[0]) % len(examples)
            raise InputError(f"{examples[empty].id or f'row {empty}'}: the sequence is empty")
        width = self._width(lengths, rows, examples)
        if (lengths == width).all():
            return torch.from_numpy(np.stack(rows)), None
        tokens = np.full((len(rows), width), self.tokenizer.pad_id, dtype=rows[0].dtype)
        for target, row in zip(tokens, rows, strict=True):
            target[_place(len(row), width, self.rule.padding)] = row
        column = np.arange(width)
        mask = column >= width - lengths[:, None] if self.rule.padding == "left" else column < lengths[:, None]
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def _width(self, lengths: NDArray[np.int64], rows: list[NDArray[Any]], examples: Sequence[Example]) -> int:
        longest = int(lengths.max())
        if self.rule.padding == "none":
            if (lengths != longest).any():
                short = int(lengths.argmin())
                name = examples[short % len(examples)].id or "a row"
                raise InputError(
                    f"{name}: {lengths[short]} tokens beside a row of {longest}; rows must be equally long or padded: "
                    'set data.padding = "left" or "right" (without a mask, padding takes part in the computation), '
                    "cut the sequences to one length, or set train.batch = 1"
                )
            return longest
        if self.rule.fixed and not self.rule.special and self.rule.max_tokens is not None:
            return self.rule.max_tokens
        return -(-longest // self.rule.multiple_of) * self.rule.multiple_of


def _place(length: int, width: int, side: str) -> slice:
    return slice(width - length, width) if side == "left" else slice(0, length)


def _targets(values: list[Any], num_tokens: int, side: str) -> Tensor | None:
    """None, classes [B] int64, values [B] or [B, outputs] float32, per-token labels [B, T] int64, or per-base elements
    [B, L, elements] uint8 of rows that are equally long."""
    first = values[0]
    if first is None:
        return None
    if isinstance(first, int | np.integer) and not isinstance(first, bool):
        return torch.tensor(values, dtype=torch.int64)
    if np.ndim(first) == 0 or np.asarray(first).dtype.kind == "f":
        return torch.from_numpy(np.asarray(values, dtype=np.float32))
    if np.ndim(first) == 2:
        return torch.from_numpy(np.stack(values))
    labels = np.full((len(values), num_tokens), IGNORED_LABEL, dtype=np.int64)
    for target, row in zip(labels, values, strict=True):
        kept = np.asarray(row)[:num_tokens]
        target[_place(len(kept), num_tokens, side)] = kept
    return torch.from_numpy(labels)


def read_examples(source: Source, index: NDArray[np.int64]) -> list[Example]:
    """The examples at these rows, all at once where the source can do that."""
    at_once = getattr(source, "__getitems__", None)
    return list(at_once(index.tolist())) if at_once else [source[int(row)] for row in index]


class TrainSteps(Dataset[Batch]):
    """Item k: what one rank reads in optimizer step k. Picklable; has no length, training decides when to stop."""

    def __init__(
        self,
        sources: Sequence[Source],
        plan: StepPlan,
        collates: Sequence[Collate],
        *,
        rank: int = 0,
        num_ranks: int = 1,
        augment: HostAugment | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.plan = plan
        self.collates = tuple(collates)
        self.rank, self.num_ranks = rank, num_ranks
        self.augment = augment
        self._order: tuple[int, EpochOrder] | None = None

    def __getitem__(self, step: int) -> Batch:
        place, positions = self.plan.share(step, self.rank, self.num_ranks)
        index = self._epoch_order(place.stage, place.epoch)[positions]
        examples = read_examples(self.sources[place.stage], index)
        if self.augment is not None:
            examples = self.augment(examples, index, SampleRng(self.plan.seed, place.epoch))
        return self.collates[place.stage](examples, index)

    def _epoch_order(self, stage: int, epoch: int) -> EpochOrder:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, EpochOrder(self.plan.num_samples[stage], self.plan.seed, epoch)
        return self._order[1]


class EvalSteps(Dataset[Batch]):
    """The source in its own order, `batch` rows an item; each rank has every num_ranks-th item."""

    def __init__(
        self,
        source: Source,
        collate: Collate,
        batch: int,
        *,
        limit: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.source, self.collate, self.batch = source, collate, batch
        self.size = len(source) if limit is None else min(limit, len(source))
        self.rank, self.num_ranks = rank, num_ranks

    def __len__(self) -> int:
        num_items = -(-self.size // self.batch)
        return max(0, -(-(num_items - self.rank) // self.num_ranks))

    def __getitem__(self, item: int) -> Batch:
        first = (item * self.num_ranks + self.rank) * self.batch
        index = np.arange(first, min(first + self.batch, self.size), dtype=np.int64)
        return self.collate(read_examples(self.source, index), index)


class _From(Sampler[int]):
    """first, first + 1, ... up to `stop` (None: for ever)."""

    def __init__(self, first: int, stop: int | None) -> None:
        self.first, self.stop = first, stop

    def __iter__(self) -> Iterator[int]:
        return iter(count(self.first)) if self.stop is None else iter(range(self.first, self.stop))


def make_loader(
    steps: TrainSteps | EvalSteps, *, first: int = 0, stop: int | None = None, workers: int = 0
) -> DataLoader[Batch]:
    """Items first..stop-1 in order, read ahead by `workers` processes (0: in this one).

    Workers start by forkserver, never by fork: a forked copy of a process that has used a thread pool may hang or die.
    """
    stop = len(steps) if stop is None and isinstance(steps, EvalSteps) else stop
    return DataLoader(
        steps,
        batch_size=None,
        sampler=_From(first, stop),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
