"""What there is to know about checkpoints without running them; getting and exporting them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chargaff.hub.catalog import Checkpoint, find_checkpoint, list_checkpoints
from chargaff.hub.describe import describe
from chargaff.hub.files import LocalFiles, find_cached, resolve
from chargaff.hub.load import load
from chargaff.hub.save import export, save
from chargaff.io.atomic import output_errors, read_manifest

OWN_LAYOUT = "chargaff"
"""What `save` writes, beside the layouts of the families."""


def checkpoint_rows() -> list[dict[str, Any]]:
    """One entry a published checkpoint, for a table; `here` says whether its files are on this machine."""
    return [
        {
            "name": row.name,
            "family": row.family,
            "head": row.head,
            "context_bp": row.context_bp,
            "params": row.params,
            "strands": row.strands,
            "licence": row.licence,
            "paper": row.paper,
            "here": is_here(row),
        }
        for row in list_checkpoints()
    ]


def is_here(row: Checkpoint) -> str:
    """ "yes", "no", or "no weights" where none are published."""
    if row.source.startswith("none:"):
        return "no weights"
    return "yes" if all(find_cached(row).values()) else "no"


def describe_checkpoint(name_or_path: str) -> dict[str, Any]:
    """Everything known about a published checkpoint, or about a model on this machine; uses no network.

    Raises:
        ConfigError: no such name or path; the nearest names are suggested.
        CheckpointError: a path that holds no model.
    """
    row = find_checkpoint(name_or_path)
    if row is not None:
        described = asdict(row)
        described["files"] = _places(find_cached(row))
        return described if row.package_folder is None else described | _essentials(row.package_folder)
    files = resolve(name_or_path, offline=True)
    spec = describe(files, {}).spec
    return {
        "name": files.name,
        "family": spec.family,
        "head": spec.head or "as the tensors tell",
        "context_bp": spec.context_bp,
        "strands": spec.strands,
        "pooling": spec.pooling,
        "labels": list(spec.labels),
        "licence": spec.licence,
        "paper": spec.paper,
        "parent": spec.parent,
        "config": spec.config.to_json(),
        "files": _places({path.name: path for path in (files.weights, files.config) if path is not None}),
    }


def download_checkpoint(name: str, *, offline: bool = False) -> LocalFiles:
    """The files of a published checkpoint or hub repository, fetched and verified.

    Raises:
        ConfigError: no such name.
        CheckpointError: out of reach, or damaged.
    """
    return resolve(name, offline=offline)


def export_checkpoint(
    name_or_path: str, folder: Path, *, layout: str = "hub", overwrite: bool = False, offline: bool = False
) -> None:
    """A model as a folder.

    Args:
        layout: one that the family can write ("hub": as its authors publish), or "chargaff": what `save` writes.

    Raises:
        ConfigError: no such name, or a layout the family cannot be written in.
        CheckpointError: the model cannot be loaded.
        InputError: the folder exists or cannot be written.
    """
    model = load(name_or_path, device="cpu", offline=offline)
    with output_errors(folder):
        if layout == OWN_LAYOUT:
            save(model, folder, overwrite=overwrite)
        else:
            export(model, folder, layout, overwrite=overwrite)


def _essentials(folder: Path) -> dict[str, Any]:
    """Of the training record of a model that comes with the package; its card says the rest."""
    record = read_manifest(folder, "training.json")
    assert record is not None
    about = _of_annotator(record) if "elements" in record else _of_language_model(record)
    return {**about, "card": str(folder / "README.md")}


def _of_language_model(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "training": {
            stage["recipe"]: {name: stage[name] for name in ("seed", "steps", "tokens", "hours", "hardware")}
            for stage in record["stages"]
        },
        "held-out cross-entropy in nats, 15 % of the bases hidden": _judged(record, "15 %", "same input"),
        "held-out cross-entropy in nats, 1 base in 64 hidden, counts see every neighbour": _judged(
            record, "1 in 64", "all seen"
        ),
    }


def _judged(record: Mapping[str, Any], rate: str, comparison: str) -> dict[str, str]:
    """Species -> the model's figure beside those of composition and counts."""
    lines = {}
    for species, rates in record["held_out"].items():
        found, counts = rates[rate], rates[rate][f"counts, {comparison}"]
        lines[species.replace("_", " ")] = (
            f"{found['model']['nats']:.3f} (base composition {found['composition']['nats']:.3f}, "
            f"counts of the {counts['k']} bases on either side {counts['nats']:.3f})"
        )
    return lines


def _of_annotator(record: Mapping[str, Any]) -> dict[str, Any]:
    judged = {
        element: f"{row['mcc']:.3f} (at {row['threshold']:.2f}: {row['mcc_at_threshold']:.3f}, "
        f"k-mer baseline {row['baseline_mcc']:.3f})"
        for element, row in record["held_out"].items()
    }
    return {
        "training": {name: record[name] for name in ("recipe", "seed", "steps", "hours", "hardware")},
        "held-out MCC of single bases at probability 0.5": judged,
    }


def _places(files: Mapping[str, Path | None]) -> dict[str, str]:
    return {name: "not downloaded" if path is None else str(path) for name, path in files.items()}
