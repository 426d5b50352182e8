"""Figures of a run, each written to one file whose suffix names the format (.png, .svg, .pdf).

Colours are those of Okabe and Ito, which people with any colour vision tell apart; lines also differ in dash and points
in marker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.floating[Any]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 150,
    "svg.hashsalt": "chargaff",  # equal input gives an equal file
}

UNDATED: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""What keeps the time of writing out of the file, for each format that can be written."""


def plot_loss(
    path: Path,
    curves: Mapping[str, tuple[Floats, Floats]],
    *,
    title: str,
    y_label: str,
    x_label: str = "optimiser step",
    references: Mapping[str, float] | None = None,
) -> None:
    """One line for each curve; a short curve (up to 40 points) also shows its points.

    Args:
        curves: label -> (x [n], y [n]).
        references: label -> height of a horizontal line, e.g. the entropy of the base composition.
    """
    if not curves:
        raise InputError(f"{path}: no curve to draw")
    with _figure(path, 6.4, 4.0) as figure:
        axes = figure.subplots()
        for i, (label, (x, y)) in enumerate(curves.items()):
            marker = MARKERS[i % len(MARKERS)] if len(x) <= 40 else None
            axes.plot(x, y, color=_colour(i), linestyle=_dash(i), marker=marker, markersize=4, label=label)
        for label, height in (references or {}).items():
            axes.axhline(height, color="#666666", linewidth=1, linestyle=(0, (1, 2)))
            axes.annotate(
                label, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#444444"
            )
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        axes.legend()


def plot_roc_pr(
    path: Path, target: npt.NDArray[np.int64], scores: Mapping[str, Floats], classes: Sequence[str], *, title: str
) -> None:
    """ROC (above) and precision-recall (below), a column of panels for each class against the rest, a line a model.

    Args:
        target: [n] class numbers.
        scores: model -> [n, C] class scores, C = len(classes).
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    for model, score in scores.items():
        if score.shape != (len(target), len(classes)):
            raise InputError(f"{path}: scores of {model} are {score.shape}, expected {(len(target), len(classes))}")
    with _figure(path, 3.7 * len(classes), 7.8) as figure:
        figure.suptitle(title)
        panels = figure.subplots(2, len(classes), squeeze=False)
        for number, name in enumerate(classes):
            roc, pr = panels[:, number]
            is_class = target == number
            _require_both(path, name, is_class)
            for i, (model, score) in enumerate(scores.items()):
                style = {"color": _colour(i), "linestyle": _dash(i), "linewidth": 1.6}
                false_rate, true_rate, _ = roc_curve(is_class, score[:, number])
                area = roc_auc_score(is_class, score[:, number])
                roc.plot(false_rate, true_rate, label=f"{model}: {area:.3f}", **style)
                precision, recall, _ = precision_recall_curve(is_class, score[:, number])
                area = average_precision_score(is_class, score[:, number])
                # precision at recall 0 is 1 by convention, not a measurement
                pr.plot(recall[:-1], precision[:-1], drawstyle="steps-post", label=f"{model}: {area:.3f}", **style)
            _finish_roc(roc, name)
            _finish_pr(pr, name, float(is_class.mean()))


def plot_confusion(path: Path, counts: npt.NDArray[np.int64], classes: Sequence[str], *, title: str) -> None:
    """Counts and row percentages; colour follows the percentage.

    Args:
        counts: [C, C], rows are the true classes.
    """
    if counts.shape != (len(classes), len(classes)):
        raise InputError(f"{path}: counts are {counts.shape}, expected {(len(classes), len(classes))}")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.4 + 0.8 * len(classes)
    with _figure(path, side + 1.6, side) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        image = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if share[row, column] > 0.55 else "black"
            text = f"{counts[row, column]:,}\n{100 * share[row, column]:.1f} %"
            axes.text(column, row, text, ha="center", va="center", color=colour)
        labels = [f"{name}\n(n = {total:,})" for name, total in zip(classes, counts.sum(1), strict=True)]
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), labels)
        axes.set(title=title, xlabel="predicted", ylabel="true")
        figure.colorbar(image, ax=axes, label="of the true class, %", shrink=0.8)


def plot_points(path: Path, points: Floats, labels: Sequence[str], *, title: str, axis_labels: tuple[str, str]) -> None:
    """A scatter plot, coloured by label; labels appear in the legend in sorted order.

    Args:
        points: [n, 2].
        labels: [n].
    """
    if points.shape != (len(labels), 2):
        raise InputError(f"{path}: points are {points.shape}, expected {(len(labels), 2)}")
    names = np.asarray(labels)
    with _figure(path, 6.8, 4.6) as figure:
        axes = figure.subplots()
        for i, name in enumerate(sorted(set(labels))):
            x, y = points[names == name].T
            marker = MARKERS[i % len(MARKERS)]
            axes.scatter(x, y, s=26, color=_colour(i), marker=marker, alpha=0.8, linewidths=0, label=name)
        axes.set(title=title, xlabel=axis_labels[0], ylabel=axis_labels[1])
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def plot_sites(
    path: Path,
    panels: Mapping[str, tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.bool_]]],
    *,
    title: str,
    x_label: str,
) -> None:
    """Scores of candidate positions along a sequence, a panel for each kind; true ones are coloured, others grey.

    Args:
        panels: kind -> (position [n], probability [n], whether it is a true site [n]).
    """
    if not panels:
        raise InputError(f"{path}: no panel to draw")
    with _figure(path, 9.0, 2.3 * len(panels) + 0.6) as figure:
        figure.suptitle(title)
        rows = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for i, (axes, (kind, (position, score, is_true))) in enumerate(zip(rows, panels.items(), strict=True)):
            others, sites = ~is_true, is_true
            axes.vlines(position[others], 0, score[others], color="#999999", linewidth=1, label="other candidate")
            axes.vlines(position[sites], 0, score[sites], color=_colour(i), linewidth=1.4)
            style = {"color": _colour(i), "marker": MARKERS[i], "linestyle": "none", "markersize": 5}
            axes.plot(position[sites], score[sites], label=f"annotated {kind}", **style)
            axes.set(ylabel=f"p({kind})", ylim=(0, 1.05))
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        rows[-1].set_xlabel(x_label)


def principal_components(values: Floats, count: int = 2) -> tuple[Floats, Floats]:
    """(coordinates [n, count], share of the variance [count]) of the leading principal components.

    Columns are standardised first; a constant column counts nothing. The sign makes each component's largest loading
    positive.

    Args:
        values: [n, F], n and F at least `count`.
    """
    if min(values.shape) < count:
        raise InputError(
            f"principal components: {count} of them need at least {count} rows and columns, got {values.shape}"
        )
    centred = values - values.mean(0)
    spread = centred.std(0)
    scaled = centred / np.where(spread > 0, spread, 1)
    u, singular, loadings = np.linalg.svd(scaled, full_matrices=False)
    largest = np.abs(loadings).argmax(1)
    sign = np.sign(loadings[np.arange(len(loadings)), largest])
    share = singular**2 / max(float((singular**2).sum()), np.finfo(float).tiny)
    return (u * singular * sign)[:, :count], share[:count]


@contextmanager
def _figure(path: Path, width_inch: float, height_inch: float) -> Iterator[Figure]:
    """An empty figure in the style of this module; written to the path when the block ends without an error."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path.suffix not in UNDATED:
        raise InputError(f"{path}: figures are written as {', '.join(UNDATED)}")
    with rc_context(STYLE):
        figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        content = BytesIO()
        figure.savefig(content, format=path.suffix.removeprefix("."), metadata=UNDATED[path.suffix])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _dash(i: int) -> str:
    return DASHES[i % len(DASHES)]


def _require_both(path: Path, name: str, is_class: npt.NDArray[np.bool_]) -> None:
    if not 0 < is_class.sum() < len(is_class):
        raise InputError(
            f"{path}: ROC needs rows inside and outside of class {name}, {is_class.sum()} of {len(is_class)} are in it"
        )


def _finish_roc(axes: Axes, name: str) -> None:
    axes.plot([0, 1], [0, 1], color="#666666", linewidth=1, linestyle=(0, (1, 2)))
    axes.set(title=f"{name}: ROC", xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend(title="area under the curve", loc="lower right")


def _finish_pr(axes: Axes, name: str, share: float) -> None:
    axes.axhline(share, color="#666666", linewidth=1, linestyle=(0, (1, 2)))
    axes.set(title=f"{name}: precision and recall", xlabel="recall", ylabel="precision", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend(title="average precision", loc="lower left")
