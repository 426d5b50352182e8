"""Static figures of a stretch of the genome: a panel an element, the annotation below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chargaff.report.genome import Feature
from chargaff.report.panels import label_of
from chargaff.report.pictures import INK, MUTED, STYLE, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 2000
"""Drawn along a panel; of more bases the largest value of each step is shown."""
MOST_ROWS = 6
"""Of overlapping features."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Values of an output, from 0 on."""

    name: str
    values: NDArray[np.floating]
    """[L]; NaN where there is no answer."""
    highest: float = 1.0
    """End of the axis."""


def draw_tracks(
    title: str, contig: str, start: int, panels: Sequence[Panel], features: Sequence[Feature] = ()
) -> dict[str, bytes]:
    """File ending (png, pdf) -> content; equal input gives equal files.

    Args:
        start: first base of the values, from 0.
        features: drawn below, such as transcripts.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [rank for rank in _rows(features) if rank is not None]
    heights = [1.0] * len(panels) + ([0.35 * (max(rows) + 1) + 0.2] if rows else [])
    with rc_context({**STYLE, "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 8}):
        figure = Figure(figsize=(10, 0.75 * sum(heights) + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        figure.suptitle(label_of(title, 90), x=0.01, ha="left", weight="bold", fontsize=11)
        for number, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
            _draw_panel(axis, panel, start, colour(number))
        if rows:
            _draw_features(axes[-1], features)
        end = start + len(panels[0].values)
        axes[-1].set(xlim=(start, end))
        axes[-1].set_xlabel(f"position on {label_of(contig)} (bp)")
        axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value + 1:,.0f}")
        found = {}
        for ending, facts in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            stream = BytesIO()
            figure.savefig(stream, format=ending, metadata=facts)
            found[ending] = stream.getvalue()
    return found


def _draw_panel(axis: Axes, panel: Panel, start: int, shade: str) -> None:
    size = len(panel.values)
    step = -(-size // MOST_POINTS)
    padded = np.pad(panel.values.astype(np.float64), (0, -size % step), constant_values=np.nan).reshape(-1, step)
    highest = np.where(np.isnan(padded).all(1), np.nan, np.nanmax(np.where(np.isnan(padded), -1, padded), axis=1))
    x = start + np.arange(len(highest)) * step
    axis.fill_between(x, 0, highest, step="post", color=shade, alpha=0.85, linewidth=0)
    axis.set(ylim=(0, 1.02 * panel.highest), yticks=(0, panel.highest), yticklabels=("0", f"{panel.highest:.3g}"))
    axis.set_ylabel(label_of(panel.name, 18), rotation=0, ha="right", va="center")
    axis.grid(visible=False, axis="x")


def _rows(features: Sequence[Feature]) -> list[int | None]:
    """Row of each feature so that none overlap; None beyond the last row."""
    ends: list[int] = []
    found: list[int | None] = []
    for feature in features:
        row = next((number for number, end in enumerate(ends) if end <= feature.start), len(ends))
        if row == len(ends):
            if row == MOST_ROWS:
                found.append(None)
                continue
            ends.append(0)
        ends[row] = feature.end
        found.append(row)
    return found


def _draw_features(axis: Axes, features: Sequence[Feature]) -> None:
    for feature, row in zip(features, _rows(features), strict=True):
        if row is None:
            continue
        axis.hlines(-row, feature.start, feature.end, color=MUTED, linewidth=1)
        for begin, end in feature.blocks or ((feature.start, feature.end),):
            axis.hlines(-row, begin, end, color=INK, linewidth=6)
    axis.set(yticks=[], ylim=(-max(row or 0 for row in _rows(features)) - 0.6, 0.6))
    axis.set_ylabel("annotation", rotation=0, ha="right", va="center")
    axis.grid(visible=False)
