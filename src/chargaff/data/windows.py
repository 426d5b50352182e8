"""Windows over long records and batches of a token budget, planned before any work starts.

Everything here is arithmetic on lengths: the same lengths always give the same windows and the same batches,
whatever the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chargaff.data.batch import Grid
from chargaff.errors import ConfigError

Padding = Literal["masked", "causal", "never"]

SHORTEST_ROW = 0.75
"""In a padded batch every row has at least this fraction of the longest row's tokens."""


class PaddingRule(Protocol):
    """The part of a backbone's input rule that batches depend on."""

    @property
    def padding(self) -> Padding: ...


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows over records, ordered by record, then start; all arrays are int64 [W].

    Every base of a record lies in exactly one window's kept part: where windows overlap, each keeps the half that
    lies deeper inside it. `keep_stop_bp - keep_start_bp` is thus a window's weight in an average over its record.
    """

    record: NDArray[np.int64]
    """Row of the record."""
    start_bp: NDArray[np.int64]
    """First base of the window in its record."""
    length_bp: NDArray[np.int64]
    """window_bp, or the record's length if that is shorter."""
    keep_start_bp: NDArray[np.int64]
    """First kept base, counted from the window's start."""
    keep_stop_bp: NDArray[np.int64]
    """End (exclusive) of the kept bases, counted from the window's start."""

    def __len__(self) -> int:
        return len(self.record)

    @property
    def weight_bp(self) -> NDArray[np.int64]:
        """[W] kept bases; they add up to the length of each record."""
        return self.keep_stop_bp - self.keep_start_bp

    def middle_only(self, length_bp: NDArray[np.int64]) -> WindowPlan:
        """The windows that keep the middle base of their record (one of the two middle ones), and nothing else kept.

        Args:
            length_bp: [R].
        """
        length = length_bp[self.record]
        first, stop = (length - 1) // 2 - self.start_bp, length // 2 + 1 - self.start_bp
        keep_start, keep_stop = np.maximum(self.keep_start_bp, first), np.minimum(self.keep_stop_bp, stop)
        ours = keep_start < keep_stop
        return WindowPlan(
            self.record[ours], self.start_bp[ours], self.length_bp[ours], keep_start[ours], keep_stop[ours]
        )

    def halved(self, which: NDArray[np.bool_]) -> WindowPlan:
        """With two windows of half the length in place of each of `which` [W], which keep what it kept of them."""
        parts = np.repeat(np.arange(len(self)), 1 + which)
        is_second = np.concatenate([[False], parts[1:] == parts[:-1]])
        is_half = which[parts]
        length = self.length_bp[parts]
        middle = length // 2
        begin, end = np.where(is_second, middle, 0), np.where(is_half & ~is_second, middle, length)
        keep_start = np.clip(self.keep_start_bp[parts], begin, end) - begin
        keep_stop = np.clip(self.keep_stop_bp[parts], begin, end) - begin
        halves = WindowPlan(self.record[parts], self.start_bp[parts] + begin, end - begin, keep_start, keep_stop)
        return halves.only(~is_half | (keep_start < keep_stop))

    def only(self, which: NDArray[np.bool_]) -> WindowPlan:
        """The windows of `which` [W]."""
        return WindowPlan(
            self.record[which],
            self.start_bp[which],
            self.length_bp[which],
            self.keep_start_bp[which],
            self.keep_stop_bp[which],
        )


def plan_windows(length_bp: ArrayLike, window_bp: int, overlap_bp: int = 0) -> WindowPlan:
    """Windows of `window_bp` that cover each record, neighbours sharing `overlap_bp`.

    The last window ends at the end of its record and therefore may overlap its neighbour by more. A record up to
    `window_bp` is one window of its own length; a record of length 0 has none.

    Args:
        length_bp: [R], or a single length.
    """
    lengths = np.atleast_1d(np.asarray(length_bp, dtype=np.int64))
    if lengths.size and lengths.min() < 0:
        raise ConfigError(f"length_bp: expected lengths of at least 0, got {lengths.min()}")
    if window_bp < 1:
        raise ConfigError(f"window_bp: expected at least 1, got {window_bp}")
    if not 0 <= overlap_bp < window_bp:
        raise ConfigError(f"overlap_bp: expected 0 to {window_bp - 1} (less than window_bp), got {overlap_bp}")
    step_bp = window_bp - overlap_bp
    count = np.where(lengths > window_bp, -(-(lengths - window_bp) // step_bp) + 1, np.minimum(lengths, 1))
    record = np.repeat(np.arange(len(lengths)), count)
    first_window = np.cumsum(count) - count
    number = np.arange(len(record)) - first_window[record]
    window_length = np.minimum(lengths, window_bp)[record]
    start = np.minimum(number * step_bp, lengths[record] - window_length)

    has_left_neighbour = number > 0
    shared_left = np.zeros_like(start)
    shared_left[1:] = np.where(has_left_neighbour[1:], start[:-1] + window_length[:-1] - start[1:], 0)
    keep_start = shared_left - shared_left // 2
    keep_stop = window_length.copy()
    keep_stop[:-1] -= np.where(has_left_neighbour[1:], shared_left[1:] // 2, 0)
    return WindowPlan(record, start, window_length, keep_start, keep_stop)


def overlap_weights(plan: WindowPlan, window: int) -> NDArray[np.float32]:
    """[length of the window] one over the number of windows that cover each base: the weights of a plain average."""
    first, stop = np.searchsorted(plan.record, [plan.record[window], plan.record[window] + 1])
    same = slice(int(first), int(stop))
    offset = plan.start_bp[same] - plan.start_bp[window]
    length = int(plan.length_bp[window])
    change = np.zeros(length + 1, dtype=np.int64)
    np.add.at(change, np.clip(offset, 0, length), 1)
    np.add.at(change, np.clip(offset + plan.length_bp[same], 0, length), -1)
    return (1.0 / np.cumsum(change[:-1])).astype(np.float32)


def plan_batches(lengths: ArrayLike, rule: PaddingRule, batch_tokens: int) -> list[NDArray[np.int64]]:
    """Row numbers of each batch, longest rows first; every row occurs once.

    A batch holds at most `batch_tokens` tokens, padding included, but at least one row. Where the rule is "never",
    all rows of a batch are equally long; otherwise rows are at least `SHORTEST_ROW` of the longest of their batch.

    Args:
        lengths: [R] tokens per row.
    """
    tokens = np.atleast_1d(np.asarray(lengths, dtype=np.int64))
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens: expected at least 1, got {batch_tokens}")
    order = np.argsort(-tokens, kind="stable")
    ordered = tokens[order]
    batches: list[NDArray[np.int64]] = []
    begin = 0
    while begin < len(order):
        longest = int(ordered[begin])
        shortest = longest if rule.padding == "never" else SHORTEST_ROW * longest
        long_enough = int(np.searchsorted(-ordered, -shortest, side="right"))
        stop = min(long_enough, begin + max(1, batch_tokens // max(longest, 1)))
        batches.append(order[begin:stop])
        begin = stop
    return batches


def grid_span(grid: Grid, start_bp: int = 0) -> tuple[int, int]:
    """Start and end (exclusive) of the bases that a grid covers, for an input window that begins at `start_bp`."""
    begin = start_bp + grid.offset_bp
    return begin, begin + grid.size * grid.step_bp


def bins_inside(grid: Grid, begin_bp: int, end_bp: int) -> slice:
    """The bins that lie wholly in [begin_bp, end_bp), counted from the window's start; may be empty."""
    first = -(-(begin_bp - grid.offset_bp) // grid.step_bp)
    stop = (end_bp - grid.offset_bp) // grid.step_bp
    first = min(max(first, 0), grid.size)
    return slice(first, min(max(stop, first), grid.size))
