"""Where the outputs of a model sit on its input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """Where outputs sit on the input: bin j covers [offset + j*step, offset + (j+1)*step) bases."""

    offset_bp: int
    step_bp: int
    size: int
