"""The parts of a report that judge an annotator: scores of each element, precision and recall, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from chargaff.data.annotation import Element
from chargaff.errors import InputError
from chargaff.io.tables import read_table
from chargaff.report import panels
from chargaff.report.page import Block, Cell, Column, Gallery, Note, Section, Table, Tile
from chargaff.report.pictures import Picture, file_stem
from chargaff.report.statistics import Calibration, Curve, Floats
from chargaff.tasks.segmentation import BINS
from chargaff.workflows.report_scores import capital, in_words, number
from chargaff.workflows.run_folder import RunFolder

TABLE, COUNTS = "elements.parquet", "counts.parquet"
NOT_SCORES = ("seed", "split", "element", "bases")
WORDS = {"test": "test windows", "valid": "validation windows"}


@dataclass(frozen=True, slots=True, eq=False)
class Elements:
    """What an annotator's run has recorded of each element."""

    split: str
    """"test", or "valid" in a run without test windows."""
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    """Element -> a row for each seed."""
    chosen_seed: int
    counts: Mapping[str, tuple[Floats, Floats, Floats]]
    """Element -> (least probability of each step, ascending; bases inside; bases outside) of the chosen seed. Empty if
    the run has not kept them."""

    @property
    def scores(self) -> list[str]:
        return [name for name in next(iter(self.rows.values()))[0] if name not in NOT_SCORES]

    @property
    def num_seeds(self) -> int:
        return len(next(iter(self.rows.values())))

    def mean(self, element: str, score: str) -> float:
        """Over seeds."""
        return float(np.mean([row[score] for row in self.rows[element]]))

    def over_elements(self, score: str) -> float:
        """Mean over the elements for which it is defined."""
        known = [value for name in self.rows if isfinite(value := self.mean(name, score))]
        return float(np.mean(known)) if known else float("nan")

    def describe(self) -> dict[str, dict[str, float]]:
        """Element -> score -> mean over seeds."""
        return {name: {score: self.mean(name, score) for score in self.scores} for name in self.rows}

    def share(self, element: str) -> float:
        """Of the bases that are inside; NaN if the counts were not kept."""
        if element not in self.counts:
            return float("nan")
        _, inside, outside = self.counts[element]
        return float(inside.sum() / (inside.sum() + outside.sum()))


def read_elements(run: RunFolder) -> Elements | None:
    """None of a run that labels no single bases, or has not come so far.

    Raises:
        InputError: a table of the run lacks a column.
    """
    path = run.folder / TABLE
    if not run.is_annotator or not path.is_file():
        return None
    table = read_table(path).to_pylist()
    missing = {"seed", "split", "element", "mcc", "auprc", "bases"} - set(table[0] if table else ())
    if missing:
        raise InputError(f"{path}: has no column {', '.join(sorted(missing))}; was it written by `chargaff finetune`?")
    split = "test" if any(row["split"] == "test" for row in table) else "valid"
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        if row["split"] == split:
            rows.setdefault(row["element"], []).append(row)
    return Elements(split, rows, run.chosen_seed, _read_counts(run, split))


def _read_counts(run: RunFolder, split: str) -> dict[str, tuple[Floats, Floats, Floats]]:
    path = run.folder / COUNTS
    if not path.is_file():
        return {}
    table = read_table(path)
    seed, part, element = (np.asarray(table[name].to_pylist()) for name in ("seed", "split", "element"))
    columns = [table[name].to_numpy().astype(np.float64) for name in ("probability", "inside", "outside")]
    chosen = (seed == run.chosen_seed) & (part == split)
    names = dict.fromkeys(element[chosen].tolist())
    found = {}
    for name in names:
        probability, inside, outside = (column[chosen & (element == name)] for column in columns)
        found[name] = probability, inside, outside
    return found


def element_tiles(found: Elements) -> list[Tile]:
    """The numbers that matter most."""
    where = capital("test" if found.split == "test" else "validation")
    tiles = [Tile(f"{where} {in_words(name)}", number(found.over_elements(name)), "mean over elements")
             for name in ("mcc", "auprc")]  # fmt: skip
    best = max(found.rows, key=lambda name: found.mean(name, "mcc"))
    tiles.append(Tile(f"{where} MCC of {best}", number(found.mean(best, "mcc")), "the best element"))
    return [*tiles, Tile("Elements", str(len(found.rows)))]


def element_sections(found: Elements, prefix: str) -> list[Section]:
    """Table, precision-recall curves, calibration."""
    where = WORDS[found.split]
    scores = Section(f"{prefix}-elements", "Elements", [_table(found)], f"Every base of the {where} is judged.")
    if not found.counts:
        text = "This run has not kept how its probabilities are distributed, so that no curves can be drawn."
        return [scores, Section(f"{prefix}-curves", "Precision and recall", [Note(text)])]
    kinds: dict[str, list[str]] = {}
    for name in found.counts:
        kinds.setdefault(_without_strand(name), []).append(name)
    drawn = "" if found.num_seeds == 1 else f"Shown: repetition {found.chosen_seed}, the model that the run has kept."
    stems = {kind: f"{place + 1}-{file_stem(kind)}" for place, kind in enumerate(kinds)}
    curves = [
        _precision_recall(found, kind, names, f"{prefix}-pr-{stems[kind]}")
        for kind, names in kinds.items()
        if all(found.counts[name][1].sum() > 0 for name in names)
    ]
    calibrations = [
        panels.draw_calibration(f"{prefix}-calibration-{stems[kind]}", kind, _calibration(found, names), "bases")
        for kind, names in kinds.items()
    ]
    note = "Dotted: the share of bases inside, the precision of guessing. Numbers: area under the curve."
    blocks: list[Block] = [Gallery(curves, note)] if curves else [Note(f"No element is in the {where}.")]
    how = (
        "Ten bins of equal width, strands together; bars: Wilson's 95 % interval of a share, as if bases were "
        "independent. ECE: the gap between stated and observed, averaged over bases."
    )
    return [
        scores,
        Section(f"{prefix}-curves", "Precision and recall", blocks, drawn),
        Section(f"{prefix}-calibration", "Calibration", [Gallery(calibrations, how)], drawn),
    ]


def _table(found: Elements) -> Table:
    shown = found.scores
    columns = [Column("Element"), Column("Bases inside", is_number=True)]
    columns += [Column(capital(in_words(name)), is_number=True) for name in shown]
    rows: list[list[Cell]] = []
    for name, seeds in found.rows.items():
        bases, share = f"{int(seeds[0]['bases']):,}", found.share(name)
        first: list[Cell] = [name, (bases, f"{100 * share:.2g} % of all") if isfinite(share) else bases]
        rows.append([*first, *(_cell([row[score] for row in seeds], score) for score in shown)])
    rows.append(["Mean", "", *(_text(found.over_elements(score), score) for score in shown)])
    note = (
        "MCC, F1 and Jaccard index: of the bases with a probability of at least 0.5. AUPRC: area under precision and "
        "recall. SOV: overlap of whole stretches, from 0 to 100."
    )
    if found.num_seeds > 1:
        note += f" Means over {found.num_seeds} repetitions; after ±: standard deviation over them."
    return Table(f"Scores of each element on the {WORDS[found.split]}", columns, rows, note, frozenset({len(rows) - 1}))


def _cell(values: Sequence[float], score: str) -> str:
    text = _text(float(np.mean(values)), score)
    return text if len(values) == 1 else f"{text} ± {_text(float(np.std(values, ddof=1)), score)}"


def _text(value: float, score: str) -> str:
    """SOV has one decimal, others three."""
    return f"{value:.1f}" if score == "sov" and isfinite(value) else number(value)


def _without_strand(name: str) -> str:
    element = Element.parse(name)
    return name if element.opposite == name else name[:-1]


def _precision_recall(found: Elements, kind: str, names: Sequence[str], stem: str) -> Picture:
    """A line for each strand."""
    bands = []
    for name in names:
        _, inside, outside = found.counts[name]
        label = {"+": "forward", "-": "reverse"}[name[-1]] if name != kind else name
        bands.append(panels.Band(label, Curve(np.cumsum(inside[::-1]), np.cumsum(outside[::-1]))))
    return panels.draw_precision_recall(stem, kind, bands, float(np.mean([found.share(name) for name in names])))


def _calibration(found: Elements, names: Sequence[str]) -> Calibration:
    step, inside, outside = (np.concatenate(parts) for parts in zip(*(found.counts[n] for n in names), strict=True))
    middle = step + 0.5 / BINS
    is_inside = np.repeat([True, False], len(step))
    return Calibration.of(np.tile(middle, 2), is_inside, weight=np.concatenate([inside, outside]))
