"""Windows of a genome with the elements at each base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from chargaff.data.annotation import Annotation
from chargaff.data.batch import NOT_LABELLED, Example
from chargaff.data.sources import GenomeWindows


class AnnotatedWindows:
    """Examples of a genome's windows; the target is [window_bp, elements] uint8: 0, 1, or NOT_LABELLED."""

    def __init__(self, windows: GenomeWindows, annotation: Annotation) -> None:
        self.windows = windows
        self.annotation = annotation

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """The examples at these rows, read at once."""
        contig, start = self.windows.places(indices)
        found = []
        for example, number, first in zip(
            self.windows.__getitems__(indices), contig.tolist(), start.tolist(), strict=True
        ):
            assert example.interval is not None
            labels = self.annotation.labels(number, first, example.interval.end)
            missing = self.windows.window_bp - len(labels)  # a contig shorter than the window is filled up on the left
            if missing:
                labels = np.pad(labels, ((missing, 0), (0, 0)), constant_values=NOT_LABELLED)
            found.append(replace(example, target=labels))
        return found
