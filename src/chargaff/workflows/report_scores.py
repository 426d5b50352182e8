"""The parts of a report that judge answers: scores, curves, confusion, calibration, residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.report import panels
from chargaff.report.page import Block, Cell, Column, Gallery, Note, Section, Table, Tile
from chargaff.report.pictures import Picture, file_stem
from chargaff.report.statistics import Curve, Floats, Judged, calibrations, interval, resample
from chargaff.train.config import is_rising
from chargaff.workflows.answers import Answers

TITLES = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "f1": "F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R²",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "jaccard": "Jaccard",
    "calibration_error": "calibration error (ECE)",
    "sov": "SOV",
    "loss": "loss",
    "perplexity": "perplexity",
}
OPEN_ENDED = ("mse", "mae", "loss", "perplexity")
"""Scores without an upper end."""
MAIN_SCORE = {"single-label": "mcc", "multi-label": "f1_macro", "regression": "pearson"}
MOST_CLASSES = 6
"""Drawn with curves of their own; the table has all."""
_GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """One model's answers and what the bootstrap says about them."""

    answers: Answers
    judged: Mapping[int, Judged]
    """Seed -> its answers."""
    scores: Mapping[str, Mapping[int, float]]
    """Score -> seed -> value."""
    replicates: Mapping[str, Floats]
    """Score -> mean over seeds in each replicate [repeats]."""
    roc: Mapping[int, tuple[Floats, Floats]]
    """Number of a class to draw -> (low, high) of the true-positive rate at `_GRID`."""
    precision: Mapping[int, tuple[Floats, Floats]]
    """The same of the precision where the recalls `_GRID` are reached."""

    @property
    def chosen(self) -> Judged:
        return self.judged.get(self.answers.chosen_seed) or next(iter(self.judged.values()))

    def mean(self, score: str) -> float:
        """Over seeds."""
        return float(np.mean(list(self.scores[score].values())))

    def spread(self, score: str) -> float:
        """Standard deviation over seeds (of a sample); NaN of a single one."""
        values = list(self.scores[score].values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def describe(self) -> dict[str, Any]:
        """JSON-ready scores."""
        return {
            name: {
                "mean": self.mean(name),
                "spread": self.spread(name),
                "interval": [float(end) for end in interval(self.replicates[name])],
                "seeds": {str(seed): value for seed, value in values.items()},
            }
            for name, values in self.scores.items()
        }


def judge(
    models: Sequence[Answers], groups: NDArray[np.int64] | None, *, repeats: int = 1000, seed: int = 0
) -> list[Judgement]:
    """Scores of models for the same rows; all see the same bootstrap replicates, so that differences are paired.

    Args:
        groups: [n] group of each row; whole groups are drawn. None: single rows are.
    """
    judged = [
        {seed: Judged(model.problem, values, model.target) for seed, values in model.values.items()} for model in models
    ]
    names = list(next(iter(judged[0].values())).scores())
    shown = _shown_classes(next(iter(judged[0].values())))
    scores: list[dict[str, list[float]]] = [{name: [] for name in names} for _ in models]
    roc: list[list[Floats]] = [[] for _ in models]
    precision: list[list[Floats]] = [[] for _ in models]
    for weight in resample(len(models[0].target), groups, repeats, seed):
        for place, (model, seeds) in enumerate(zip(models, judged, strict=True)):
            drawn = model.chosen_seed if model.chosen_seed in seeds else next(iter(seeds))
            found = []
            for number, one in seeds.items():
                curves = one.curves(weight)
                found.append(one.scores(weight, curves))
                if number == drawn and shown:
                    drawn_curves = [curves[k] for k in shown]
                    roc[place].append(_on_grid(drawn_curves, Curve.roc_at))
                    precision[place].append(_on_grid(drawn_curves, Curve.precision_at))
            for name in names:
                scores[place][name].append(float(np.mean([row[name] for row in found])))
    result = []
    for place, (model, seeds) in enumerate(zip(models, judged, strict=True)):
        exact = {number: one.scores() for number, one in seeds.items()}
        by_score = {name: {number: row[name] for number, row in exact.items()} for name in names}
        replicates = {name: np.asarray(values) for name, values in scores[place].items()}
        bands = _bands(shown, roc[place]), _bands(shown, precision[place])
        result.append(Judgement(model, seeds, by_score, replicates, *bands))
    return result


def score_sections(
    judgements: Sequence[Judgement], main_score: str, prefix: str, *, what_is_drawn: str, unit: str
) -> list[Section]:
    """Everything about test answers; the first model is the one the report is about.

    Args:
        what_is_drawn: the repetition that the curves show, in words.
        unit: what the bootstrap draws, in words.
    """
    first = judgements[0]
    how = (
        f"Intervals: 95 %, bootstrap over {unit}, of the mean over repetitions. After ±: standard deviation over them."
    )
    blocks: list[Block] = [_score_table(judgements, how)]
    if len(judgements) > 1:
        shown = dict.fromkeys([main_score, "auroc" if "auroc" in first.scores else "spearman"])
        measured = [name for name in shown if all(isfinite(one.mean(name)) for one in judgements)]
        blocks.append(Gallery([_comparison(judgements, name, prefix) for name in measured]))
        blocks.append(_difference_table(judgements, main_score))
    rows = f"{len(first.answers.target):,} test rows"
    sections = [Section(f"{prefix}-scores", "Test scores", blocks, f"{rows}, judged once with the weights kept.")]
    if first.answers.problem == "regression":
        return [*sections, _residual_section(first, prefix, what_is_drawn)]
    sections.append(_curve_section(judgements, prefix, what_is_drawn, unit))
    if first.answers.problem == "single-label":
        sections.append(_confusion_section(judgements, prefix, what_is_drawn))
    of_model = " ".join(part for part in (f"Of {first.answers.name}.", what_is_drawn) if part)
    sections.append(Section(f"{prefix}-classes", _plural(first).capitalize(), [_class_table(first)], of_model))
    sections.append(_calibration_section(judgements, prefix, what_is_drawn))
    return sections


def score_tiles(judgements: Sequence[Judgement], main_score: str) -> list[Tile]:
    """The numbers that matter most."""
    first = judgements[0]
    others = [name for name in ("auroc", "accuracy", "r2", "spearman") if name in first.scores and name != main_score]
    tiles = []
    for name in [main_score, *others[:2]]:
        low, high = interval(first.replicates[name])
        ends = f"{score_text(name, low)} to {score_text(name, high)}"
        tiles.append(Tile(f"Test {in_words(name)}", score_text(name, first.mean(name)), ends))
    if len(judgements) > 1:
        sign = 1 if is_rising(main_score, "auto") else -1
        best = max(judgements[1:], key=lambda other: sign * other.mean(main_score))
        gain = first.mean(main_score) - best.mean(main_score)
        low, high = interval(first.replicates[main_score] - best.replicates[main_score])
        text = f"{gain:+.3f}".replace("-", "−")
        tiles.append(
            Tile(f"{capital(in_words(main_score))} over {best.answers.name}", text, f"{number(low)} to {number(high)}")
        )
    seeds = len(first.judged)
    repeated = f"{seeds} repetitions" if seeds > 1 else "1 repetition"
    return [*tiles, Tile("Test rows", f"{len(first.answers.target):,}", repeated)]


def in_words(score: str) -> str:
    """Name of a score inside a line: accuracy, MCC."""
    return TITLES.get(score, score)


def capital(text: str) -> str:
    """The text with its first letter in upper case, the others as they are."""
    return text[:1].upper() + text[1:]


def number(value: float) -> str:
    """Three decimals; a dash where it is not defined."""
    return f"{value:.3f}".replace("-", "−") if isfinite(value) else "–"


def score_text(name: str, value: float) -> str:
    """Three decimals of scores that go to 1, four digits of others.

    Args:
        name: of the score, "valid_" and "test_" before it are allowed.
    """
    if name.rpartition("_")[2] not in OPEN_ENDED or not isfinite(value):
        return number(value)
    return f"{value:.4g}".replace("-", "−")


def _on_grid(curves: Sequence[Curve], at: Any) -> Floats:
    """[C, g]; NaN of classes that this replicate has not drawn."""
    return np.stack([at(curve, _GRID) if curve.is_defined else np.full(len(_GRID), np.nan) for curve in curves])


def _bands(shown: Sequence[int], replicates: Sequence[Floats]) -> dict[int, tuple[Floats, Floats]]:
    """Class -> ends of its band.

    Args:
        replicates: [shown, g] each.
    """
    found = {}
    for place, k in enumerate(shown):
        low, high = interval(np.stack([one[place] for one in replicates]))
        found[k] = np.broadcast_to(low, _GRID.shape), np.broadcast_to(high, _GRID.shape)
    return found


def _with_interval(judgement: Judgement, score: str) -> Cell:
    low, high = interval(judgement.replicates[score])
    mean, spread = score_text(score, judgement.mean(score)), judgement.spread(score)
    value = mean + (f" ± {score_text(score, spread)}" if isfinite(spread) else "")
    return value, f"{score_text(score, low)} to {score_text(score, high)}"


def _score_table(judgements: Sequence[Judgement], note: str) -> Table:
    columns = [Column("Score"), *(Column(one.answers.name, is_number=True) for one in judgements)]
    rows: list[list[Cell]] = [
        [capital(in_words(name)), *(_with_interval(one, name) for one in judgements)] for name in judgements[0].scores
    ]
    if judgements[0].answers.problem == "single-label":
        errors = [
            np.mean([next(iter(calibrations(part, one.answers.names).values())).error for part in one.judged.values()])
            for one in judgements
        ]
        rows.append(["Calibration error (ECE)", *(number(float(error)) for error in errors)])
    rows.append(["Repetitions", *(str(len(one.judged)) for one in judgements)])
    if any(one.answers.num_parameters for one in judgements):
        counts = [one.answers.num_parameters for one in judgements]
        rows.append(["Parameters", *("–" if count is None else f"{count:,}" for count in counts)])
    return Table("Scores on the test rows", columns, rows, note)


def _difference_table(judgements: Sequence[Judgement], score: str) -> Table:
    """First model minus each other one."""
    first, rows = judgements[0], []
    for other in judgements[1:]:
        low, high = interval(first.replicates[score] - other.replicates[score])
        gap = first.mean(score) - other.mean(score)
        spread = float(np.hypot(*np.nan_to_num([first.spread(score), other.spread(score)])))
        verdict = "not told apart"
        if (low > 0 or high < 0) and abs(gap) > spread:
            verdict = "higher" if gap > 0 else "lower"
        repeated = number(spread) if len(first.judged) > 1 or len(other.judged) > 1 else "–"
        rows.append([other.answers.name, number(gap), f"{number(low)} to {number(high)}", repeated, verdict])
    title = f"{capital(in_words(score))} of {first.answers.name}, minus that of each baseline"
    heads = [Column("Baseline"), *(Column(text, is_number=True) for text in ("Difference", "95 % interval", "Spread"))]
    note = (
        "Paired bootstrap: both models see the same replicates. Spread: of a difference between two repetitions. "
        "Higher or lower: the interval leaves out zero and the difference exceeds the spread."
    )
    return Table(title, [*heads, Column(f"{first.answers.name} is")], rows, note)


def _comparison(judgements: Sequence[Judgement], score: str, prefix: str) -> Picture:
    rows = []
    for one in judgements:
        low, high = interval(one.replicates[score])
        rows.append((one.answers.name, list(one.scores[score].values()), low, high))
    values = ", ".join(f"{name} {np.mean(scores):.3f} ({low:.3f} to {high:.3f})" for name, scores, low, high in rows)
    alt = f"Test {in_words(score)} with 95 % interval: {values}."
    return panels.draw_comparison(f"{prefix}-compare-{file_stem(score)}", f"Test {in_words(score)}", rows, alt=alt)


def _plural(one: Judgement) -> str:
    return "classes" if one.answers.problem == "single-label" else "labels"


def _shown_classes(judged: Judged) -> list[int]:
    """Numbers of the classes to draw: the second of two, else all, or the most frequent ones, that both have rows."""
    support, total = judged.truth.sum(0), len(judged.values)
    if judged.problem == "single-label" and len(support) == 2:
        return [1] if 0 < support[1] < total else []
    defined = [k for k in range(len(support)) if 0 < support[k] < total]
    return sorted(sorted(defined, key=lambda k: -support[k])[:MOST_CLASSES])


def _curve_section(judgements: Sequence[Judgement], prefix: str, what: str, unit: str) -> Section:
    first, roc, precision = judgements[0], [], []
    for k in first.roc:
        name, stem = first.answers.names[k], f"{k + 1}-{file_stem(first.answers.names[k])}"
        curves = [(one.answers.name, one.chosen.curve(k), one.roc[k], one.precision[k]) for one in judgements]
        bands = [panels.Band(model, curve, _GRID, *ends) for model, curve, ends, _ in curves]
        roc.append(panels.draw_roc(f"{prefix}-roc-{stem}", name, bands))
        bands = [panels.Band(model, curve, _GRID, *ends) for model, curve, _, ends in curves]
        share = float(first.chosen.truth[:, k].mean())
        precision.append(panels.draw_precision_recall(f"{prefix}-pr-{stem}", name, bands, share))
    note = f"Bands: 95 %, bootstrap over {unit}, at each rate by itself. Numbers: area under the curve."
    rows = [Gallery([*roc, *precision], note)] if len(roc) == 1 else [Gallery(roc), Gallery(precision, note)]
    blocks: list[Block] = [*rows] if roc else []
    total = len(first.answers.names)
    if not roc:
        blocks.append(Note("The test rows hold one class only: there is no curve."))
    elif total > 2 and len(roc) < total:
        blocks.append(Note(f"{len(roc)} of {total} {_plural(first)} are drawn; the table below has all."))
    return Section(f"{prefix}-curves", "ROC and precision-recall", blocks, what)


def _confusion_section(judgements: Sequence[Judgement], prefix: str, what: str) -> Section:
    pictures = []
    for place, one in enumerate(judgements):
        name = f"{prefix}-confusion-{place + 1}-{file_stem(one.answers.name)}"
        counts = one.chosen.confusion().astype(np.int64)
        pictures.append(panels.draw_confusion(name, one.answers.name, counts, one.answers.names))
    note = "Percentages are of the rows of each true class, the row of the matrix; below them the number of rows."
    return Section(f"{prefix}-confusion", "Confusion", [Gallery(pictures, note)], what)


def _class_table(one: Judgement) -> Table:
    judged = one.chosen
    right, wrong, missed = judged.label_counts()
    rows = []
    for k, name in enumerate(one.answers.names):
        curve = judged.curve(k)
        called, true = right[k] + wrong[k], right[k] + missed[k]
        precision = right[k] / called if called else float("nan")
        recall = right[k] / true if true else float("nan")
        f1 = 2 * right[k] / (called + true) if called + true else float("nan")
        values = (precision, recall, f1, curve.auroc(), curve.auprc())
        rows.append([name, f"{int(true):,}", *(number(float(value)) for value in values)])
    heads = ("Rows", "Precision", "Recall", "F1", "AUROC", "AUPRC")
    columns = [Column(_plural(one).capitalize()[: -2 if _plural(one) == "classes" else -1])]
    columns += [Column(text, is_number=True) for text in heads]
    note = "AUROC and AUPRC: against all other rows. A dash: not defined."
    return Table(f"Scores of each {'class' if _plural(one) == 'classes' else 'label'}", columns, rows, note)


def _calibration_section(judgements: Sequence[Judgement], prefix: str, what: str) -> Section:
    pictures = []
    shown = judgements if judgements[0].answers.problem == "single-label" else judgements[:1]
    for place, one in enumerate(shown):
        names = one.answers.names
        found = list(calibrations(one.chosen, names).items())[:MOST_CLASSES]
        for row, (event, calibration) in enumerate(found):
            stem = f"{prefix}-calibration-{place + 1}-{row + 1}"
            title = one.answers.name if one.answers.problem == "single-label" else event
            pictures.append(panels.draw_calibration(stem, title, calibration))
    event = next(iter(calibrations(judgements[0].chosen, judgements[0].answers.names)))
    subject = f"the {event}" if judgements[0].answers.problem == "single-label" else "the probability of each label"
    note = (
        f"Ten bins of equal width over {subject}; bars: Wilson's 95 % interval of a share. ECE: the gap between stated "
        "and observed, averaged over rows. On the dotted line, rows with probability p are right in a share p of cases."
    )
    return Section(f"{prefix}-calibration", "Calibration", [Gallery(pictures, note)], what)


def _residual_section(one: Judgement, prefix: str, what: str) -> Section:
    pictures = []
    for k, name in enumerate(one.answers.names[:MOST_CLASSES]):
        predicted, truth = one.chosen.values[:, k], np.asarray(one.answers.target, np.float64)[:, k]
        stem = f"{k + 1}-{file_stem(name)}"
        pictures.append(panels.draw_agreement(f"{prefix}-agreement-{stem}", name, predicted, truth))
        pictures.append(panels.draw_residuals(f"{prefix}-residuals-{stem}", name, predicted, truth))
    return Section(f"{prefix}-residuals", "Predicted and true values", [Gallery(pictures)], what)
