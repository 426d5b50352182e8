"""One HTML file about runs: how they trained, how good their answers are, beside which baselines, from what data."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chargaff import __version__
from chargaff.errors import ConfigError, InputError
from chargaff.io.atomic import publish, read_manifest, write_atomically, write_manifest
from chargaff.report.page import Page, Section, Tile, render
from chargaff.report.pictures import file_stem
from chargaff.workflows.answers import KMERS, Answers, answers_of_run, kmer_answers, read_baseline, read_groups
from chargaff.workflows.report_elements import Elements, element_sections, element_tiles, read_elements
from chargaff.workflows.report_scores import MAIN_SCORE, Judgement, judge, score_sections, score_tiles
from chargaff.workflows.report_sections import (
    KINDS,
    MapSource,
    map_section,
    pretraining_tiles,
    provenance_section,
    training_section,
)
from chargaff.workflows.run_folder import RunFolder, read_run

__all__ = ["MapSource", "Report", "ReportOptions", "write_report"]

log = logging.getLogger(__name__)

PAGE, FIGURES, MANIFEST = "report.html", "figures", "report.json"


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows beside the runs, and how."""

    title: str = ""
    """Of the page; "": made of the names of the runs."""
    name: str = ""
    """Of the fine-tuned model beside its baselines; "": the run's folder."""
    groups: str = ""
    """Column of the test table (or of the predictions) that says which rows belong together, such as a contig or a
    gene: the bootstrap draws whole groups. "": it draws single rows."""
    references: Mapping[str, float] | None = None
    """Name -> loss to draw beside that of pre-training, such as the entropy of the base composition."""
    repeats: int = 1000
    """Of the bootstrap."""
    is_unfinished_allowed: bool = False
    """Report what there is of runs that have not ended."""


@dataclass(frozen=True, slots=True)
class Report:
    """A written report."""

    page: Path
    """The HTML file; `figures/` beside it holds each figure as SVG and PNG."""
    scores: Mapping[str, Mapping[str, Any]]
    """Model -> score -> "mean", "spread" over seeds, "interval", "seeds"; also in `report.json`. Empty without test
    answers."""
    elements: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Annotator -> element -> score -> mean over seeds; also in `report.json`."""


def write_report(
    runs: Path | Sequence[Path],
    output: Path | None = None,
    *,
    baselines: Mapping[str, Path | Answers] | None = None,
    has_kmers: bool = False,
    maps: Sequence[MapSource] = (),
    extra: Sequence[Section] = (),
    options: ReportOptions | None = None,
) -> Report:
    """Writes the report of one or more runs into a folder; equal runs and options give equal bytes.

    Args:
        runs: folders that `chargaff pretrain` and `chargaff finetune` have written, in the order of the report.
        output: folder to write; None: `report` in the first run's folder. An older report there is replaced.
        baselines: name -> fine-tuning folder, table of predictions, or answers, for the test rows of the one
            fine-tuning run.
        has_kmers: fit a logistic regression on k-mer frequencies of that run's data, as one more baseline.
        maps: embeddings to draw.
        extra: sections to put before the provenance.

    Raises:
        InputError: a folder holds no run or an unfinished one, a table lacks a column, baselines answer for other
            rows, or the output folder holds something else.
        ConfigError: baselines without exactly one fine-tuning run with test rows.
    """
    options = options or ReportOptions()
    folders = [runs] if isinstance(runs, Path) else list(runs)
    if not folders:
        raise ConfigError("report: expected at least one run folder")
    if options.repeats < 10:
        raise ConfigError(f"repeats: expected at least 10, got {options.repeats}")
    opened = [read_run(folder) for folder in folders]
    if not options.is_unfinished_allowed:
        for run in opened:
            run.require_finished()
    output = output or folders[0] / "report"
    _check_output(output)
    others = _open_baselines(opened, baselines or {}, has_kmers=has_kmers)
    judged = [_judge_run(run, others, options) for run in opened]
    annotated = {place: found for place, run in enumerate(opened) if (found := read_elements(run)) is not None}
    page = _make_page(opened, judged, annotated, maps, extra, _sources(others, baselines or {}), options)
    scores = {one.answers.name: one.describe() for part in judged for one in part}
    elements = {options.name or opened[place].name: found.describe() for place, found in annotated.items()}
    with publish(output, overwrite=True) as part:
        _write(part, page, scores, elements)
    log.info("wrote %s: %d figures", output / PAGE, len(page.pictures()))
    return Report(output / PAGE, scores, elements)


def _check_output(output: Path) -> None:
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise InputError(f"{output}: is a file; a report is a folder with {PAGE} and its figures, choose another path")
    if any(output.iterdir()) and read_manifest(output, MANIFEST) is None:
        raise InputError(f"{output}: holds files that are no report; choose another folder (-o)")


def _open_baselines(
    runs: Sequence[RunFolder], baselines: Mapping[str, Path | Answers], *, has_kmers: bool
) -> list[Answers]:
    """In the order given, the k-mers last."""
    if not baselines and not has_kmers:
        return []
    finetuned = [run for run in runs if run.kind == "finetune"]
    if len(finetuned) != 1:
        raise ConfigError(f"baselines: need one fine-tuning run to stand beside, got {len(finetuned)}")
    main = answers_of_run(finetuned[0])
    if main is None:
        raise ConfigError(f"baselines: {finetuned[0].folder} has no test predictions to compare with")
    found = [item if isinstance(item, Answers) else read_baseline(item, name) for name, item in baselines.items()]
    if has_kmers:
        found.append(kmer_answers(finetuned[0]))
    return [one.beside(main) for one in found]


def _judge_run(run: RunFolder, others: Sequence[Answers], options: ReportOptions) -> list[Judgement]:
    """The run's own answers first; () without test answers."""
    main = answers_of_run(run, options.name or run.name) if run.kind == "finetune" else None
    if main is None:
        return []
    models = [main, *others]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError(f"baselines: names must differ, got {', '.join(names)}")
    groups = read_groups(run, main, options.groups) if options.groups else None
    return judge(models, groups, repeats=options.repeats)


def _make_page(
    runs: Sequence[RunFolder],
    judged: Sequence[Sequence[Judgement]],
    annotated: Mapping[int, Elements],
    maps: Sequence[MapSource],
    extra: Sequence[Section],
    sources: Mapping[str, str],
    options: ReportOptions,
) -> Page:
    sections: list[Section] = []
    tiles: list[Tile] = []
    unit = f"groups of rows with the same {options.groups}" if options.groups else "test rows"
    for place, (run, models) in enumerate(zip(runs, judged, strict=True)):
        prefix = file_stem(run.name) if len(runs) == 1 else f"{place + 1}-{file_stem(run.name)}"
        if models:
            score = run.monitor if run.monitor in models[0].scores else MAIN_SCORE[models[0].answers.problem]
            seeds = len(models[0].judged)
            kept = models[0].answers.chosen_seed
            drawn = "" if seeds == 1 else f"Shown: repetition {kept}, the model that the run has kept."
            sections += score_sections(models, score, prefix, what_is_drawn=drawn, unit=unit)
            tiles = tiles or score_tiles(models, score)
        if place in annotated:
            sections += element_sections(annotated[place], prefix)
            tiles = tiles or element_tiles(annotated[place])
        sections.append(training_section(run, prefix, options.references or {}))
    sections += [map_section(source, f"map-{place + 1}") for place, source in enumerate(maps)]
    sections += [*extra, provenance_section(runs, sources)]
    names = [run.name for run in runs]
    kinds = " and ".join(dict.fromkeys(KINDS[run.kind].lower() for run in runs))
    title = options.title or f"{kinds.capitalize()}: {', '.join(names)}"
    started = next((run.started for run in runs if run.started), "")
    subtitle = f"Run of {started}." if started else ""
    footer = f"Made by chargaff {__version__}. This file needs no network; it may be passed on as it is."
    return Page(title, subtitle, tiles or pretraining_tiles(runs[0]), sections, footer)


def _sources(others: Sequence[Answers], baselines: Mapping[str, Path | Answers]) -> dict[str, str]:
    """Name -> where a baseline comes from, in words."""
    given = {name: str(item) if isinstance(item, Path) else "given as values" for name, item in baselines.items()}
    fitted = "logistic regression on the run's own training rows, its settings chosen on the validation rows"
    return {one.name: given.get(one.name, fitted if one.name == KMERS else "given as values") for one in others}


def _write(folder: Path, page: Page, scores: Mapping[str, Any], elements: Mapping[str, Any]) -> None:
    (folder / FIGURES).mkdir(parents=True)
    for picture in page.pictures():
        write_atomically(folder / FIGURES / f"{picture.name}.svg", picture.svg)
        write_atomically(folder / FIGURES / f"{picture.name}.png", picture.png)
    write_atomically(folder / PAGE, render(page, FIGURES))
    record = {"chargaff": __version__, "title": page.title, "page": PAGE, "scores": _without_nan(scores)}
    record["elements"] = _without_nan(elements)
    write_manifest(folder, MANIFEST, record)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
