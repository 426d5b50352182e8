"""Where a pair of sequences differs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def variant_index(ref: NDArray[Any], alt: NDArray[Any], *, is_reverse: bool = False) -> int:
    """Position of the variant, by the rule of the published variant-effect protocol (caduceus sheet 3.7).

    The middle, L // 2, if the two differ there; otherwise the last position at which they differ; -1 if they are equal.

    Args:
        ref, alt: [L] bases or tokens.
        is_reverse: both are reverse complements, so that the middle of the forward strand is at L // 2 - 1.
    """
    differs = ref != alt
    middle = len(ref) // 2 - is_reverse
    if differs[middle]:
        return middle
    positions = np.flatnonzero(differs)
    return int(positions[-1]) if len(positions) else -1
