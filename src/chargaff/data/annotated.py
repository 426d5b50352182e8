"""Windows of a genome with the elements at each base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from chargaff.data.annotation import Annotation
from chargaff.data.batch import NOT_LABELLED, Example
from chargaff.data.sources import GenomeWindows
from chargaff.errors import ConfigError


class AnnotatedWindows:
    """Examples of a genome's windows; the target is [window_bp, elements] uint8: 0, 1, or NOT_LABELLED."""

    def __init__(
        self, windows: GenomeWindows, annotation: Annotation, weights: NDArray[np.float32] | None = None
    ) -> None:
        """
        Args:
            weights: [windows] of each in the training loss; None: all alike.
        """
        self.windows = windows
        self.annotation = annotation
        self._weights = weights

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """The examples at these rows, read at once."""
        contig, start = self.windows.places(indices)
        found = []
        weights = np.ones(len(indices)) if self._weights is None else self._weights[np.asarray(indices)]
        for example, number, first, weight in zip(
            self.windows.__getitems__(indices), contig.tolist(), start.tolist(), weights.tolist(), strict=True
        ):
            assert example.interval is not None
            labels = self.annotation.labels(number, first, example.interval.end)
            missing = self.windows.window_bp - len(labels)  # a contig shorter than the window is filled up on the left
            if missing:
                labels = np.pad(labels, ((missing, 0), (0, 0)), constant_values=NOT_LABELLED)
            found.append(replace(example, target=labels, weight=weight))
        return found


def focused(
    windows: GenomeWindows, annotation: Annotation, elements: Sequence[str], background: float
) -> AnnotatedWindows:
    """The windows that hold a base of one of these elements, and a share `background` of the others, drawn once.

    Each of the latter weighs 1 / background times as much, so that what is learnt stays a probability over all windows;
    the mean weight is 1.

    Raises:
        ConfigError: no window holds any of the elements.
    """
    contig, start = windows.places(np.arange(len(windows)))
    numbers = [annotation.elements.index(name) for name in elements]
    holds = np.zeros(len(windows), np.bool_)
    for place in np.unique(contig):
        rows = np.flatnonzero(contig == place)
        for number in numbers:
            holds[rows] |= annotation.is_in(number, int(place), start[rows], start[rows] + windows.window_bp)
    if not holds.any():
        raise ConfigError(f"data.focus: no training window holds any of {', '.join(elements)}")
    kept = holds | (np.random.default_rng(0).random(len(windows)) < background)
    weights = np.where(holds[kept], 1.0, 1 / background)
    ours = GenomeWindows(windows.genome, contig[kept], start[kept], window_bp=windows.window_bp)
    return AnnotatedWindows(ours, annotation, (weights / weights.mean()).astype(np.float32))
