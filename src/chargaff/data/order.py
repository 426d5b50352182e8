"""Which sample is read when: a keyed permutation per epoch, and the step's place in it, all by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from chargaff.data.rng import key64
from chargaff.errors import ConfigError

Indices = NDArray[np.int64]

_ROUNDS = 8
_SORTED_UP_TO = 1 << 16
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    x = x + np.uint64(key & (1 << 64) - 1)
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


class EpochOrder:
    """A pseudo-random permutation of 0..size-1, the same for the same (size, seed, epoch) on any machine.

    Up to 65,536 samples are sorted by a 64-bit hash of their number. Above, no table is made: positions are mapped one
    by one through a Feistel network over a grid of about the square root of `size` on each side, walking on until the
    result is below `size` (Black and Rogaway 2002); the grid has hardly more cells than samples, so walks are rare.
    """

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        self._keys = [key64("order", seed, epoch, part) for part in range(_ROUNDS)]
        self._rows = max(1, isqrt(max(0, size - 1)) + 1)
        self._columns = max(1, -(-size // self._rows))
        self._sorted: Indices | None = None
        if size <= _SORTED_UP_TO:
            self._sorted = np.argsort(
                _mix(_mix(np.arange(size, dtype=np.uint64), self._keys[0]), self._keys[1]), kind="stable"
            )

    def __getitem__(self, positions: Indices | slice) -> Indices:
        """[K] samples at positions [K] of the epoch, each 0..size-1."""
        if self._sorted is not None:
            return self._sorted[positions]
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(self.size), dtype=np.int64)
        result = self._permute(positions.astype(np.uint64))
        while (outside := result >= np.uint64(self.size)).any():
            result[outside] = self._permute(result[outside])
        return result.astype(np.int64)

    def _permute(self, cell: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows, columns = np.uint64(self._rows), np.uint64(self._columns)
        row, column = cell // columns, cell % columns
        for step, key in enumerate(self._keys):
            if step % 2:
                row = (row + _mix(column, key) % rows) % rows
            else:
                column = (column + _mix(row, key) % columns) % columns
        return row * columns + column


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step reads."""

    stage: int
    epoch: int
    """Numbered through all stages, so that no two epochs of a run share their random numbers."""
    first: int
    """Position of the step's first sample in the epoch's order."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The samples of every optimizer step, known before training starts.

    A step's global batch is a slice of its epoch's order; what is left at the end of an epoch and does not fill a
    batch is dropped (another remainder each epoch). The last stage goes on for as long as steps are asked for.
    """

    num_samples: tuple[int, ...]
    """Per stage: size of its source."""
    batch: tuple[int, ...]
    """Per stage: sequences in a step, all ranks together."""
    steps: tuple[int, ...]
    """Per stage: optimizer steps; that of the last stage is not a limit."""
    seed: int

    def __post_init__(self) -> None:
        for stage, (size, batch) in enumerate(zip(self.num_samples, self.batch, strict=True)):
            if batch > size:
                where = f"train.stages.{stage}.batch" if len(self.batch) > 1 else "train.batch"
                raise ConfigError(f"{where}: {batch} sequences a step, but the training data has only {size}; lower it")

    def steps_per_epoch(self, stage: int = 0) -> int:
        return self.num_samples[stage] // self.batch[stage]

    def place(self, step: int) -> Place:
        """Stage, epoch and position of an optimizer step, counted from 0."""
        ends = list(accumulate(self.steps))
        stage = next((stage for stage, end in enumerate(ends) if step < end), len(ends) - 1)
        begin = ends[stage] - self.steps[stage]
        epochs_before = sum(-(-self.steps[past] // self.steps_per_epoch(past)) for past in range(stage))
        epoch, within = divmod(step - begin, self.steps_per_epoch(stage))
        return Place(stage, epochs_before + epoch, within * self.batch[stage])

    def samples_before(self, step: int) -> int:
        """Sequences read by all steps before this one."""
        total, left = 0, step
        for stage, (steps, batch) in enumerate(zip(self.steps, self.batch, strict=True)):
            here = left if stage == len(self.steps) - 1 else min(left, steps)
            total, left = total + here * batch, left - here
        return total

    def share(self, step: int, rank: int = 0, num_ranks: int = 1) -> tuple[Place, slice]:
        """The step's place and the slice of the epoch's order that one rank reads."""
        place = self.place(step)
        rows = rows_per_rank(self.batch[place.stage], num_ranks)
        begin = place.first + rank * rows
        return place, slice(begin, begin + rows)


def rows_per_rank(batch: int, num_ranks: int) -> int:
    if batch % num_ranks:
        raise ConfigError(f"train.batch: {batch} sequences cannot be shared equally by {num_ranks} devices")
    return batch // num_ranks
