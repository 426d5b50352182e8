"""Draws docs/assets/ from the newest figures in benchmarks/results/: long sequences, and steps of generation.

python benchmarks/plots.py
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from chargaff.report.pictures import MARKERS, SERIES, STYLE

FOLDER = Path(__file__).resolve().parent
ASSETS = FOLDER.parent / "docs" / "assets"


def main() -> None:
    ASSETS.mkdir(exist_ok=True)
    reports = [json.loads(path.read_text())["benchmarks"] for path in sorted((FOLDER / "results").glob("*.json"))]
    newest = {name: result["rows"] for report in reports for name, result in report.items()}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "chargaff"}):
        if "hyenadna" in newest:
            plot_long_sequences(newest["hyenadna"])
        if "generation" in newest:
            plot_generation(newest["generation"])


def plot_long_sequences(rows: list[Mapping[str, Any]]) -> None:
    """Seconds and GiB against bases; ours in both precisions, and the peer."""
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {"seconds": {}, "peak memory (GiB)": {}}
    for row in rows:
        found = re.search(r"(\d+) bases, (\w+)", row["case"])
        assert found is not None
        length, dtype = int(found[1]), found[2]
        lines["seconds"].setdefault(f"chargaff, {dtype}", []).append((length, row["ours s"]))
        lines["peak memory (GiB)"].setdefault(f"chargaff, {dtype}", []).append((length, row["ours GiB"]))
        if dtype == "float32" and "peer s" in row:
            lines["seconds"].setdefault("multimolecule, float32", []).append((length, row["peer s"]))
            lines["peak memory (GiB)"].setdefault("multimolecule, float32", []).append((length, row["peer GiB"]))
    _draw(ASSETS / "long-sequences.svg", lines, x_label="bases")


def plot_generation(rows: list[Mapping[str, Any]]) -> None:
    """Milliseconds a base against the bases before it."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        found = re.fullmatch(r"(\w+), after (\d+) bases", row["case"])
        assert found is not None
        lines.setdefault(found[1], []).append((int(found[2]), row["ms a base"]))
    _draw(ASSETS / "generation.svg", {"milliseconds a base": lines}, x_label="bases of context")


def _draw(path: Path, panels: Mapping[str, Mapping[str, list[tuple[int, float]]]], *, x_label: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for place, (label, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for name, points in lines.items():
            number = names.index(name)
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker=MARKERS[number], color=SERIES[number], label=name)
        axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=label)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
