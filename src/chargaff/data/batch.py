"""What travels between sources, tasks and models (DESIGN 2.7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.seq.grid import Grid
from chargaff.seq.interval import Interval

__all__ = ["NOT_LABELLED", "Batch", "Example", "Grid", "Source"]

NOT_LABELLED = 255
"""Label of a base that does not count, such as what fills up a short contig."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a source."""

    views: tuple[NDArray[np.uint8], ...]
    """Sequences as uint8 ASCII [L]: one, or two for pairs and ref/alt."""
    target: Any = None
    """int class, float value, float array [outputs], int array [L], or None."""
    interval: Interval | None = None
    id: str = ""
    weight: float = 1.0
    """In the training loss of tasks that know weights."""


class Source(Protocol):
    """A random-access collection of examples; picklable, safe in any number of loader workers."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...


@dataclass(slots=True)
class Batch:
    """Model input. With several views per example they are stacked view-major: rows 0..B-1 are view 0."""

    tokens: Tensor
    """[V*B, T], smallest integer dtype until it is on the device."""
    mask: Tensor | None
    """[V*B, T] True where real; None if nothing is padded."""
    target: Tensor | None
    index: Tensor
    """[B] int64 row in the source, so that results can be written in source order."""
    weight: Tensor | None = None
    """[B] of each example in the loss; None: all alike."""

    def to(self, device: torch.device | str) -> Batch:
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            mask=move(self.mask),
            target=move(self.target),
            index=self.index.to(device, non_blocking=True),
            weight=move(self.weight),
        )
