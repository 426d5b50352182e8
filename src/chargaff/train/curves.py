"""Picture of a run's log."""

from __future__ import annotations

from pathlib import Path

from chargaff.io.atomic import publish
from chargaff.train.log import TRAIN, VALID, read_log


def draw_curves(folder: Path) -> Path | None:
    """`curves.png` in the run's folder: training and validation loss, other validation metrics, learning rate.

    None if nothing has been logged yet.
    """
    train, valid = read_log(folder / TRAIN), read_log(folder / VALID)
    if not train:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    others = [name for name in valid if name not in ("step", "loss", "perplexity")]
    panels = 3 if others else 2
    figure = Figure(figsize=(4.5 * panels, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    axes[0].plot(train["step"], train["loss"], color="tab:blue", linewidth=1, label="training")
    if valid:
        axes[0].plot(valid["step"], valid["loss"], color="tab:orange", marker="o", markersize=3, label="validation")
    axes[0].set(xlabel="step", ylabel="loss")
    axes[0].legend()
    for name in others:
        axes[1].plot(valid["step"], valid[name], marker="o", markersize=3, label=name)
    if others:
        axes[1].set(xlabel="step", ylabel="validation")
        axes[1].legend(fontsize="small")
    axes[-1].plot(train["step"], train["lr"], color="tab:green")
    axes[-1].set(xlabel="step", ylabel="learning rate")
    path = folder / "curves.png"
    with publish(path, overwrite=True) as part:
        figure.savefig(part, format="png", dpi=120)
    return path
