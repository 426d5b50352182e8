"""The parts of a report that tell of runs and embeddings: training curves, maps, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from chargaff.errors import InputError
from chargaff.io.streams import open_input
from chargaff.io.vectors import read_vectors
from chargaff.report import panels
from chargaff.report.page import Block, Cell, Column, Facts, Folded, Gallery, Note, Section, Table, Tile
from chargaff.report.pictures import Picture, file_stem
from chargaff.workflows.embedding_map import (
    Agreement,
    Method,
    compare_labels,
    project,
    read_record_labels,
)
from chargaff.workflows.report_scores import TITLES, in_words, number, score_text
from chargaff.workflows.run_folder import Repetition, RunFolder
from chargaff.workflows.training import RUN_FILE

KINDS = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}


@dataclass(frozen=True, slots=True)
class MapSource:
    """Embeddings to draw."""

    path: Path
    """What `chargaff embed` has written (.parquet, .npy or .zarr)."""
    labels: str | Sequence[str] = ()
    """Column of `label_table`, or the label of each record; (): records are not coloured."""
    label_table: Path | None = None
    """Table with the column `labels` and a column "id" or "name"; None: the embeddings' own table."""
    method: Method = "pca"
    clusters: int | None = None
    """Of k-means; None: as many as there are labels."""
    title: str = "Embeddings"


def training_section(run: RunFolder, prefix: str, references: Mapping[str, float]) -> Section:
    """Curves and repetitions of a run.

    Args:
        references: name -> loss to draw beside that of pre-training.
    """
    blocks: list[Block] = []
    if not run.is_finished:
        steps = ", ".join(f"{part.steps:,}" for part in run.repetitions) or "0"
        blocks.append(Note(f"This run is not finished: {steps} steps are logged.", is_warning=True))
    pictures = _curves(run, prefix, references)
    if pictures:
        note = "Ring: the step whose weights were kept." if any(_best(part) for part in run.repetitions) else ""
        blocks.append(Gallery(pictures, note))
    table = _repetition_table(run)
    if table is not None:
        blocks.append(table)
    return Section(f"{prefix}-training", f"{KINDS[run.kind]}: {run.name}", blocks, _describe(run))


def pretraining_tiles(run: RunFolder) -> list[Tile]:
    """The numbers that matter most of a pre-training run."""
    part = run.repetitions[0] if run.repetitions else None
    scores = _last_scores(part) if part is not None else {}
    tiles = [Tile(f"Validation {in_words(name)}", score_text(name, scores[name])) for name in scores if name in TITLES]
    if part is not None:
        tiles.append(Tile("Steps", f"{part.steps:,}"))
    if run.num_parameters:
        tiles.append(Tile("Parameters", f"{run.num_parameters:,}"))
    return tiles


def map_section(source: MapSource, prefix: str) -> Section:
    """Map of embeddings, coloured by label and by cluster."""
    ids, vectors = read_vectors(source.path)
    if len(ids) < 3:
        raise InputError(f"{source.path}: {len(ids)} records; a map needs at least 3")
    labels = _labels(source, ids)
    found = project(vectors, source.method)
    what = "principal components" if source.method == "pca" else "UMAP"
    alt = f"Map of {len(ids):,} embeddings by {what}"
    intro = f"{len(ids):,} records of {source.path.name}, {vectors.shape[1]:,} numbers each."
    if not labels:
        picture = panels.draw_map(
            f"{prefix}-map", source.title, found.points, ["record"] * len(ids), found.axis_labels, alt=f"{alt}."
        )
        return Section(prefix, source.title, [Gallery([picture])], intro)
    distinct = sorted(set(labels))
    coloured = f"{alt}, coloured by {len(distinct)} labels: {', '.join(distinct[:8])}."
    pictures = [panels.draw_map(f"{prefix}-map", "By label", found.points, labels, found.axis_labels, alt=coloured)]
    blocks: list[Block] = []
    if (source.clusters or len(distinct)) >= 2:
        agreement = compare_labels(vectors, labels, clusters=source.clusters)
        names = [f"cluster {place + 1}" for place in agreement.clusters]
        alt = f"{alt}, coloured by {len(set(names))} clusters found without labels."
        pictures.append(
            panels.draw_map(f"{prefix}-clusters", "By cluster", found.points, names, found.axis_labels, alt=alt)
        )
        blocks += [_agreement_facts(agreement), _cluster_table(agreement, labels)]
    note = "Columns are standardised before projection and clustering; clusters (k-means) know no labels."
    return Section(prefix, source.title, [Gallery(pictures, note), *blocks], intro)


def provenance_section(runs: Sequence[RunFolder], baselines: Mapping[str, str]) -> Section:
    """Where the numbers come from.

    Args:
        baselines: name -> source.
    """
    blocks: list[Block] = []
    for run in runs:
        record = run.provenance
        model, versions, device = record.get("model", {}), record.get("versions", {}), record.get("device", {})
        rows = [
            ("Run", f"{run.name} ({KINDS[run.kind].lower()})"),
            ("Started", run.started),
            ("Model", _model_name(run)),
            ("Weights at the start", model.get("weights_sha256", "")),
            ("Seed", str(run.settings["train"].get("seed", ""))),
            ("Device", " ".join(str(device[key]) for key in ("type", "name") if key in device)),
            ("chargaff", record.get("chargaff", "")),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ]
        blocks.append(Facts([(name, value) for name, value in rows if value]))
        inputs = record.get("inputs", [])
        if inputs:
            heads = [Column("Input"), Column("Bytes", is_number=True), Column("SHA-256")]
            cells = [[item["name"], f"{item.get('bytes', 0):,}", item.get("sha256", "–")] for item in inputs]
            blocks.append(Table(f"Inputs of {run.name}", heads, cells))
        with open_input(run.folder / RUN_FILE) as file:
            blocks.append(Folded(f"{run.name}/{RUN_FILE}", file.read().decode("utf-8", "replace")))
    if baselines:
        blocks.append(Facts([(f"Baseline {name}", source) for name, source in baselines.items()]))
    return Section("provenance", "Provenance", blocks, "What is needed to make these numbers again.")


def _curves(run: RunFolder, prefix: str, references: Mapping[str, float]) -> list[Picture]:
    parts = [part for part in run.repetitions if part.train]
    if not parts:
        return []
    lines = [panels.Line(part.train["step"], part.train["loss"], 0, "training") for part in parts]
    lines += [
        panels.Line(part.valid["step"], part.valid["loss"], 1, "validation", _best(part))
        for part in parts
        if part.valid
    ]
    unit = "nats per token" if run.kind == "pretrain" else ""
    loss = panels.draw_lines(
        f"{prefix}-loss",
        "Loss",
        lines,
        y_label=f"cross-entropy ({unit})" if unit else "loss",
        alt=_alt("Training and validation loss", parts, "loss"),
        references=references if run.kind == "pretrain" else None,
        caption="" if len(parts) == 1 else f"{len(parts)} repetitions.",
    )
    pictures = [loss]
    shown = run.monitor if run.monitor not in ("loss", "perplexity") else "accuracy"
    measured = [part for part in parts if shown in part.valid]
    if measured:
        title = f"Validation {in_words(shown)}"
        lines = [panels.Line(part.valid["step"], part.valid[shown], 1, "validation", _best(part)) for part in measured]
        alt = _alt(title, measured, shown)
        pictures.append(
            panels.draw_lines(f"{prefix}-{file_stem(shown)}", title, lines, y_label=in_words(shown), alt=alt)
        )
    rate = parts[0].train
    lines = [panels.Line(rate["step"], rate["lr"], 2, "learning rate")]
    alt = f"Learning rate: at most {max(rate['lr']):.3g}, at the end {rate['lr'][-1]:.3g}."
    pictures.append(panels.draw_lines(f"{prefix}-lr", "Learning rate", lines, y_label="learning rate", alt=alt))
    return pictures


def _alt(title: str, parts: Sequence[Repetition], name: str) -> str:
    ends = [part.valid[name] for part in parts if part.valid]
    if not ends:
        return f"{title} over the steps."
    first, last = np.mean([values[0] for values in ends]), np.mean([values[-1] for values in ends])
    return f"{title} over the steps; validation goes from {first:.4g} to {last:.4g}."


def _best(part: Repetition) -> float | None:
    best = (part.result or {}).get("best_step")
    return None if best is None else float(best)


def _last_scores(part: Repetition) -> dict[str, float]:
    """Validation scores of the kept step, or of the last one."""
    if not part.valid:
        return {}
    steps, best = part.valid["step"], _best(part)
    at = steps.index(best) if best in steps else len(steps) - 1
    return {name: values[at] for name, values in part.valid.items() if name != "step"}


def _describe(run: RunFolder) -> str:
    train, data = run.settings["train"], run.settings["data"]
    source = data.get("name") or data.get("train") or data.get("fasta") or ""
    words = [_model_name(run), f"data: {Path(str(source)).name}" if source else ""]
    if run.num_parameters:
        words.append(f"{run.num_parameters:,} parameters")
    words.append(f"batches of {train['batch']:,}")
    seconds = sum(part.seconds for part in run.repetitions)
    words.append(f"{_duration(seconds)} of training" if seconds else "")
    return ", ".join(word for word in words if word) + "."


def _model_name(run: RunFolder) -> str:
    table = run.settings["model"]
    if table.get("name"):
        begin = "fresh weights with the config of" if table.get("weights") == "fresh" else "begun from"
        return f"{begin} {table['name']}"
    return f"{table.get('family', '')}, fresh weights"


def _repetition_table(run: RunFolder) -> Table | None:
    """A row per seed of what the run itself has recorded."""
    if run.kind == "pretrain" or not run.results:
        return None
    scores = [name for name in run.results[0] if name.startswith(("valid_", "test_"))]
    shown = [name for name in scores if name == f"valid_{run.monitor}" or name.startswith("test_")] or scores
    heads = [Column("Seed", is_number=True), Column("Steps", is_number=True), Column("Kept", is_number=True)]
    heads += [Column(_head(name), is_number=True) for name in shown]
    rows: list[list[Cell]] = []
    for row in run.results:
        facts = [str(row["seed"]), f"{row['steps']:,}", f"{row['best_step']:,}"]
        rows.append([*facts, *(score_text(name, row[name]) for name in shown)])
    seeds = [row["seed"] for row in run.results]
    strong = frozenset({seeds.index(run.chosen_seed)}) if len(rows) > 1 else frozenset()
    note = f"Kept: the step with the best validation {in_words(run.monitor)}."
    if strong:
        note += " Bold: the repetition whose weights are the run's model."
    return Table("Repetitions, as the run has recorded them", heads, rows, note, strong)


def _head(name: str) -> str:
    split, _, score = name.partition("_")
    return f"{'Validation' if split == 'valid' else 'Test'} {in_words(score)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _labels(source: MapSource, ids: Sequence[str]) -> list[str]:
    if not isinstance(source.labels, str):
        labels = list(map(str, source.labels))
        if labels and len(labels) != len(ids):
            raise InputError(f"{source.path}: {len(ids):,} records, but {len(labels):,} labels were given")
        return labels
    return list(read_record_labels(source.label_table or source.path, source.labels, ids))


def _agreement_facts(found: Agreement) -> Facts:
    rows = [
        ("Nearest neighbour has the same label", f"{found.neighbour_accuracy:.1%} of records"),
        ("Clusters and labels", f"adjusted Rand {found.adjusted_rand:.3f}, NMI {found.mutual_information:.3f}"),
    ]
    if isfinite(found.silhouette):
        rows.append(("Silhouette of the labels", number(found.silhouette)))
    return Facts(rows)


def _cluster_table(found: Agreement, labels: Sequence[str]) -> Table:
    """Labels by clusters."""
    names, count = sorted(set(labels)), int(found.clusters.max()) + 1
    table = np.zeros((len(names), count), int)
    np.add.at(table, (np.searchsorted(names, labels), found.clusters), 1)
    heads = [Column("Label"), *(Column(f"Cluster {k + 1}", is_number=True) for k in range(count))]
    rows: list[list[Cell]] = [
        [name, *(f"{n:,}" if n else "·" for n in row)] for name, row in zip(names, table, strict=True)
    ]
    return Table("Records of each label in each cluster", heads, rows)
