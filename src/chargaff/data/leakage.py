"""Sequences that occur more than once, on either strand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from chargaff.seq.alphabet import reverse_complement


def strandless_keys(sequences: Iterable[NDArray[np.uint8]]) -> list[bytes]:
    """The alphabetically smaller of each sequence [L] and its reverse complement: equal for both strands."""
    return [min(sequence.tobytes(), reverse_complement(sequence).tobytes()) for sequence in sequences]


def first_occurrence(keys: Sequence[bytes]) -> NDArray[np.int64]:
    """[n] the row where each key occurs first: its own row if nowhere before."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], dtype=np.int64)


def seen_in(keys: Sequence[bytes], others: Iterable[bytes]) -> NDArray[np.bool_]:
    """[n] whether each key is one of `others`."""
    known = set(others)
    return np.array([key in known for key in keys], dtype=bool)
