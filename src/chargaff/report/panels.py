"""What a report draws: one picture per function."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chargaff.report.pictures import (
    GRID,
    INK,
    MUTED,
    SERIES,
    SURFACE,
    Picture,
    colour,
    dash,
    marker,
    paint,
)
from chargaff.report.statistics import Calibration, Curve, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 3000
"""Drawn in a scatter plot; of more, these many are picked at random."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One curve over the steps of a run."""

    x: Sequence[float]
    y: Sequence[float]
    group: int = 0
    """Lines of one group share colour, dash and legend entry."""
    label: str = ""
    best: float | None = None
    """Step to mark."""


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A curve with the interval around it on a grid, if that is known."""

    label: str
    curve: Curve
    grid: Floats | None = None
    """[g] from 0 to 1: false-positive rates, or recalls."""
    low: Floats | None = None
    high: Floats | None = None


def label_of(text: str, most: int = 34) -> str:
    """Text as matplotlib shows it letter by letter, cut after `most` characters."""
    line = " ".join(text.split())
    cut = line if len(line) <= most else f"{line[: most - 1]}…"
    # a leading underscore would keep it out of legends
    return ("\u2009" if cut.startswith("_") else "") + cut.replace("$", r"\$")


def draw_lines(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    y_label: str,
    alt: str,
    caption: str = "",
    references: Mapping[str, float] | None = None,
) -> Picture:
    """Curves over optimiser steps; noisy ones (over 60 points) are faint behind their running mean."""
    limits = _limits(lines, list((references or {}).values()))
    if any(isfinite(y) and y > limits[1] for line in lines for y in line.y):
        caption = f"{caption} The highest values lie above the frame.".strip()

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        seen: set[int] = set()
        for line in lines:
            x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
            style: dict[str, Any] = {"color": colour(line.group), "linestyle": dash(line.group)}
            style["label"] = label_of(line.label) if line.group not in seen else None
            seen.add(line.group)
            if len(x) > 60:
                axes.plot(x, y, color=colour(line.group), alpha=0.25, linewidth=0.8)
                axes.plot(*running_mean(x, y), **style)
            else:
                axes.plot(x, y, marker=marker(line.group), markersize=3.5 if len(x) > 1 else 6, **style)
            if line.best is not None and line.best in line.x:
                at = list(line.x).index(line.best)
                ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6, "zorder": 5}
                axes.plot(x[at], y[at], "o", color=INK, **ring)
        axes.set_ylim(limits)
        for text, height in (references or {}).items():
            axes.axhline(height, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(label_of(text), (1, height), (0, 2), ha="right", va="bottom", color=MUTED, **place)
        _set_title(axes, label_of(title))
        axes.set(xlabel="optimiser step", ylabel=y_label)
        axes.locator_params(axis="x", integer=True, nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        if len(seen) > 1:
            _legend_below(figure, axes, columns=len(seen))

    return paint(name, draw, alt=alt, caption=caption, size=(380, 310))


def running_mean(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Means over a fortieth of the points, at the mean step."""
    width = max(2, len(x) // 40)
    kernel = np.full(width, 1 / width)
    return np.convolve(x, kernel, "valid"), np.convolve(y, kernel, "valid")


def draw_roc(name: str, label: str, bands: Sequence[Band]) -> Picture:
    """ROC curves of one class, a line for each model."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        for number, band in enumerate(bands):
            x, y = _thin(*band.curve.roc())
            _draw_band(axes, number, band, x, y, band.curve.auroc())
        _unit_square(axes, f"ROC: {label_of(label)}", "false-positive rate", "true-positive rate")
        _legend_below(figure, axes)

    areas = ", ".join(f"{band.label} {band.curve.auroc():.3f}" for band in bands)
    alt = f"ROC curves of {label}. Area under the curve: {areas}."
    return paint(name, draw, alt=alt, size=(340, 345 + 17 * len(bands)))


def draw_precision_recall(name: str, label: str, bands: Sequence[Band], share: float) -> Picture:
    """Precision-recall curves of one class; `share` is its share of the rows, the precision of guessing."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(share, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        for number, band in enumerate(bands):
            x, y = _thin(*band.curve.precision_recall())
            _draw_band(axes, number, band, x, y, band.curve.auprc(), drawstyle="steps-pre")
        _unit_square(axes, f"Precision-recall: {label_of(label)}", "recall", "precision")
        _legend_below(figure, axes)

    areas = ", ".join(f"{band.label} {band.curve.auprc():.3f}" for band in bands)
    alt = f"Precision-recall curves of {label}. Average precision: {areas}; guessing gives {share:.3f}."
    return paint(name, draw, alt=alt, size=(340, 345 + 17 * len(bands)))


def draw_confusion(name: str, title: str, counts: NDArray[Any], classes: Sequence[str]) -> Picture:
    """Counts and shares of each true class; the deeper the colour, the larger the share.

    Args:
        counts: [C, C], rows are the true classes.
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(classes)
    labels = [label_of(text, 16) for text in classes]
    is_dense = size > 6
    font = 12 if size <= 4 else 10 if size <= 6 else 9

    def draw(figure: Figure) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(size, size):
            corner = (column - 0.48, row - 0.48)
            axes.add_patch(Rectangle(corner, 0.96, 0.96, facecolor=GRID, alpha=0.35, linewidth=0))
            fill: dict[str, Any] = {"facecolor": SERIES[0], "alpha": 0.55 * share[row, column], "linewidth": 0}
            axes.add_patch(Rectangle(corner, 0.96, 0.96, **fill))
            weight = "bold" if row == column else "normal"
            text = f"{100 * share[row, column]:.0f}" if is_dense else f"{100 * share[row, column]:.1f} %"
            lift = 0 if is_dense else -0.14
            axes.text(column, row + lift, text, ha="center", va="center", fontsize=font, weight=weight)
            if not is_dense:
                below = f"{int(counts[row, column]):,}"
                axes.text(column, row + 0.2, below, ha="center", va="center", fontsize=font - 1)
        is_long = max(map(len, labels)) > 40 / size
        turn: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
        axes.set_xticks(range(size), labels, **turn)
        axes.set_yticks(range(size), labels)
        axes.tick_params(length=0)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
        _set_title(axes, label_of(title))
        axes.set(xlabel="predicted", ylabel="true")

    right = ", ".join(f"{text} {100 * share[k, k]:.1f} %" for k, text in enumerate(classes))
    alt = f"Confusion matrix of {title}. Rows called as what they are: {right}."
    side = 380 if size <= 4 else min(640, 200 + 48 * size)
    return paint(name, draw, alt=alt, size=(side, 0.92 * side))


def draw_calibration(name: str, title: str, calibration: Calibration, unit: str = "rows") -> Picture:
    """Reliability diagram above, and below how many predictions lie in each bin.

    Args:
        unit: what is counted; "rows" are counted on a linear scale, others on a logarithmic one.
    """

    def draw(figure: Figure) -> None:
        axes, below = figure.subplots(2, 1, height_ratios=(3.4, 1), sharex=True)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        full = calibration.counts > 0
        x, y = calibration.stated[full], calibration.observed[full]
        spread = np.maximum([y - calibration.low[full], calibration.high[full] - y], 0)
        axes.errorbar(x, y, spread, color=SERIES[0], marker="o", markersize=5, capsize=2.5, elinewidth=1.2)
        _set_title(axes, f"{label_of(title)}: ECE {calibration.error:.3f}")
        axes.set(ylabel="observed share", xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
        width = np.diff(calibration.edges)
        below.bar(calibration.edges[:-1] + width / 2, calibration.counts, 0.9 * width, color=SERIES[0], alpha=0.45)
        below.set(xlabel="stated probability", ylabel=unit)
        if unit == "rows":
            below.locator_params(axis="y", nbins=3, integer=True)
        else:
            below.set_yscale("log")

    alt = f"Reliability diagram, {title}: expected calibration error {calibration.error:.3f}."
    return paint(name, draw, alt=alt, size=(360, 390))


def draw_map(
    name: str, title: str, points: Floats, labels: Sequence[str], axis_labels: tuple[str, str], *, alt: str
) -> Picture:
    """A scatter plot coloured by label, the legend below; labels beyond the seventh most frequent are "other".

    Args:
        points: [n, 2].
    """
    shown, order = _few_labels(labels)
    keep = _pick(len(shown))
    names = np.asarray(shown, dtype=object)[keep]
    small = 22 if len(keep) <= 300 else 12 if len(keep) <= 1000 else 6

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, text in enumerate(order):
            rows = points[keep][names == text]
            style: dict[str, Any] = {"color": colour(number), "marker": marker(number), "alpha": 0.75, "linewidths": 0}
            axes.scatter(rows[:, 0], rows[:, 1], s=small, label=label_of(text), **style)
        _set_title(axes, label_of(title))
        axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
        axes.margins(0.06)
        if len(order) > 1:
            columns = 2 if max(len(label_of(text)) for text in order) <= 26 else 1
            _legend_below(figure, axes, columns=columns, markerscale=1.4)

    lines = -(-len(order) // (2 if max(map(len, order)) <= 26 else 1)) if len(order) > 1 else 0
    caption = "" if len(keep) == len(shown) else f"{len(keep):,} of {len(shown):,} points are drawn."
    return paint(name, draw, alt=alt, caption=caption, size=(390, 350 + 17 * lines))


def draw_sites(
    name: str, title: str, position: Floats, score: Floats, is_true: NDArray[np.bool_], *, y_label: str, alt: str
) -> Picture:
    """Scores [n] of candidate positions [n] along a sequence; true ones [n] are coloured, others grey."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.vlines(position[~is_true], 0, score[~is_true], color=MUTED, linewidth=0.8, alpha=0.6, label="other")
        axes.vlines(position[is_true], 0, score[is_true], color=colour(0), linewidth=1.4)
        style: dict[str, Any] = {"color": colour(0), "marker": marker(0), "linestyle": "none", "markersize": 5}
        axes.plot(position[is_true], score[is_true], label="annotated", **style)
        _set_title(axes, label_of(title))
        axes.set(xlabel="position (bp)", ylabel=label_of(y_label), ylim=(0, 1.05))
        axes.locator_params(axis="x", nbins=5)
        _legend_below(figure, axes, columns=2)

    return paint(name, draw, alt=alt, size=(380, 290))


def draw_agreement(name: str, label: str, predicted: Floats, truth: Floats) -> Picture:
    """Predicted against true values [n], with the line where both are equal."""
    keep = _pick(len(truth))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        low, high = float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))
        axes.axline((low, low), slope=1, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axes.scatter(truth[keep], predicted[keep], s=_dot(len(keep)), color=SERIES[0], alpha=0.5, linewidths=0)
        margin = 0.04 * (high - low) or 1
        limits = (low - margin, high + margin)
        _set_title(axes, label_of(label))
        axes.set(xlabel="true", ylabel="predicted", xlim=limits, ylim=limits)

    alt = f"Scatter plot of predicted against true {label} for {len(truth):,} rows."
    return paint(name, draw, alt=alt, caption=_drawn(len(keep), len(truth)), size=(360, 350))


def draw_residuals(name: str, label: str, predicted: Floats, truth: Floats) -> Picture:
    """Residuals against predictions, their distribution at the side."""
    keep, residual = _pick(len(truth)), predicted - truth

    def draw(figure: Figure) -> None:
        axes, side = figure.subplots(1, 2, width_ratios=(3.2, 1), sharey=True)
        axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axes.scatter(predicted[keep], residual[keep], s=_dot(len(keep)), color=SERIES[0], alpha=0.5, linewidths=0)
        _set_title(axes, f"Residuals: {label_of(label)}")
        axes.set(xlabel="predicted", ylabel="predicted − true")
        side.hist(residual, bins=24, orientation="horizontal", color=SERIES[0], alpha=0.45)
        side.set_xlabel("rows")
        side.locator_params(axis="x", nbins=2, integer=True)

    spread = f"mean {residual.mean():.3g}, standard deviation {residual.std():.3g}"
    alt = f"Residuals of {label} against predictions: {spread}."
    return paint(name, draw, alt=alt, caption=_drawn(len(keep), len(truth)), size=(380, 350))


def draw_comparison(
    name: str, title: str, rows: Sequence[tuple[str, Sequence[float], float, float]], *, alt: str
) -> Picture:
    """One line a model: its repetitions as rings, their mean as a dot, the interval as a bar.

    Args:
        rows: (model, score of each repetition, low end, high end of the interval of the mean).
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (_, scores, low, high) in enumerate(rows):
            shade, mean = colour(place), float(np.mean(scores))
            axes.hlines(place, low, high, color=shade, linewidth=5, alpha=0.35)
            axes.plot(mean, place, marker=marker(place), color=shade, markersize=8, linestyle="none")
            if len(scores) > 1:
                ring: dict[str, Any] = {"markerfacecolor": SURFACE, "markeredgewidth": 1.2, "markersize": 5}
                axes.plot(scores, [place + 0.24] * len(scores), "o", color=shade, **ring)
            text = f"{mean:.3f}"
            axes.annotate(text, (mean, place), (0, 9), textcoords="offset points", ha="center", weight="bold")
        axes.set_yticks(range(len(rows)), [_in_two_lines(row[0]) for row in rows])
        axes.tick_params(axis="y", length=0)
        _set_title(axes, label_of(title))
        axes.set(ylim=(len(rows) - 0.5, -0.6))
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)

    return paint(name, draw, alt=alt, size=(380, 100 + 46 * len(rows)))


def _draw_band(axes: Axes, number: int, band: Band, x: Floats, y: Floats, area: float, **style: Any) -> None:
    if band.grid is not None and band.low is not None and band.high is not None:
        alpha = 0.08 if number else 0.18
        axes.fill_between(band.grid, band.low, band.high, color=colour(number), alpha=alpha, linewidth=0)
    text = f"{label_of(band.label)}  {area:.3f}"
    axes.plot(x, y, color=colour(number), linestyle=dash(number), label=text, zorder=3 - 0.1 * number, **style)


def _in_two_lines(text: str) -> str:
    return "\n".join(label_of(line) for line in textwrap.wrap(text, 20, max_lines=2, placeholder="…"))


def _set_title(axes: Axes, text: str) -> None:
    """As large as fits the width."""
    axes.set_title(text, fontsize=min(13.0, 13 * 36 / max(len(text), 1)))


def _unit_square(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    ticks = np.linspace(0, 1, 6)
    _set_title(axes, title)
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def _legend_below(figure: Figure, axes: Axes, *, columns: int = 1, **style: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, borderaxespad=0.2, **style)


def _limits(lines: Sequence[Line], heights: Sequence[float]) -> tuple[float, float]:
    """The vertical range; the first steps of a falling loss must not squeeze the rest, so of many points the highest
    2 % may lie outside."""
    values = np.concatenate([np.asarray(line.y, np.float64) for line in lines])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(np.quantile(values, 0.98) if len(values) > 60 else values.max())
    low, high = min([low, *heights]), max([high, *heights])
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _thin(x: Floats, y: Floats, most: int = 1500) -> tuple[Floats, Floats]:
    """At most about `most` of the points, first and last among them."""
    if len(x) <= most:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, most).astype(int))
    return x[chosen], y[chosen]


def _pick(count: int) -> NDArray[np.int64]:
    """Rows to draw, ascending."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST_POINTS, replace=False))


def _drawn(shown: int, count: int) -> str:
    return "" if shown == count else f"{shown:,} of {count:,} rows are drawn."


def _dot(count: int) -> int:
    return 20 if count <= 300 else 10 if count <= 1000 else 5


def _few_labels(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """(labels with the rare ones replaced by "other", the distinct ones in order of the legend)."""
    names, counts = np.unique(np.asarray(labels, dtype=str), return_counts=True)
    if len(names) <= len(SERIES):
        return list(labels), names.tolist()
    frequent = sorted(names[np.argsort(-counts, kind="stable")[: len(SERIES) - 1]].tolist())
    return [label if label in frequent else "other" for label in labels], [*frequent, "other"]
