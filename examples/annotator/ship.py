"""Puts an annotator, its record and its card where the package carries them.

    python examples/annotator/ship.py chargaff-segment-mini runs/fungus --held-out heldout.json \\
        --references augustus.json --hardware "one core of an AMD EPYC, no GPU"

RUN is the folder of the fine-tuning, `heldout.json` what `evaluate.py --baseline` has written about its model. Into
`src/chargaff/bundled/NAME/` go the weights, `training.json` (settings, curve, figures) and `README.md`, the card made
of them. The card becomes a page of the documentation, and the row of the catalogue is written (or replaced) in
`families/caduceus/checkpoints.toml`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import tomli_w
from cards import ANNOTATORS, Annotator, card
from fetch_genomes import GENOMES
from make_demo_data import EXON_TABLE, EXON_TABLE_SHA256, FUNGUS_GENES, FUNGUS_GENES_SHA256, MMSPLICE
from tally import Tally, histogram, rounded

from chargaff.data.annotation import read_annotation
from chargaff.hub.catalog import DEFAULT_MODEL, get_checkpoint
from chargaff.hub.load import load
from chargaff.hub.save import save
from chargaff.model import Model
from chargaff.train.runs import load_finetune_run
from chargaff.workflows.run_folder import RunFolder, read_run
from chargaff.workflows.segment import SegmentOptions, compute_part, plan_segmenting
from chargaff.workflows.training import RUN_FILE

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLED = REPOSITORY / "src" / "chargaff" / "bundled"
CATALOGUE = REPOSITORY / "src" / "chargaff" / "families" / "caduceus" / "checkpoints.toml"
PAGES, NAVIGATION = REPOSITORY / "docs" / "models", REPOSITORY / "mkdocs.yml"
EXAMPLES = REPOSITORY / "examples"
MOST_BYTES = 2_500_000
CURVE_POINTS = 12
FILES = ("model.safetensors", "model.json")
PLACES = ("data.fasta", "data.annotation", "data.exclude", "data.exclude_species", "data.test_regions")

DATA = {
    "Ustilago maydis": (
        (GENOMES["fungus_umaydis"].content, "Debian `maffilter-examples`", GENOMES["fungus_umaydis"].sha256),
        (Path(FUNGUS_GENES).stem, "Debian `maffilter-examples`", FUNGUS_GENES_SHA256),
    ),
    "Homo sapiens": (
        (GENOMES["human_chr20"].content, "Debian `vt-examples`", GENOMES["human_chr20"].sha256),
        (Path(EXON_TABLE).name, f"PyPI `{MMSPLICE}`", EXON_TABLE_SHA256),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(ANNOTATORS))
    parser.add_argument("run", type=Path)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--references", type=Path, nargs="*", default=[])
    parser.add_argument("--hardware", default="one core of an AMD EPYC, no GPU")
    parser.add_argument("--first-run", type=Path, help="the run that began with the backbone, if it is not RUN")
    options = parser.parse_args()
    folder = BUNDLED / options.name
    run = read_run(options.run)
    run.require_finished()
    held_out = json.loads(options.held_out.read_text())
    model = named(load(options.run / "model", device="cpu"), options.name, held_out["thresholds"])
    save(model, folder, overwrite=True)
    if (folder / "model.safetensors").stat().st_size > MOST_BYTES:
        sys.exit(f"{folder / 'model.safetensors'}: over {MOST_BYTES:,} bytes")
    references = [json.loads(path.read_text()) for path in options.references]
    first = json.loads(((options.first_run or options.run) / "provenance.json").read_text())
    record = training_record(options.name, run, model, held_out, references, options.hardware)
    record["backbone_sha256"] = first["model"]["file_sha256"]
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    for path in (folder / "README.md", PAGES / f"{options.name}.md"):
        path.write_text(card(record))
    text = row(options.name, model, folder)
    CATALOGUE.write_text(with_row(CATALOGUE.read_text(), options.name, text))
    NAVIGATION.write_text(with_page(NAVIGATION.read_text(), options.name))
    print(text)


def named(model: Model, name: str, thresholds: Mapping[str, float]) -> Model:
    """The model as the catalogue calls it, with the thresholds that were best where `chargaff segment` read the
    validation windows; where it was trained does not matter to others."""
    notes = {key: value for key, value in model.spec.notes.items() if key != "copy_of"}
    model.spec = replace(model.spec, name=name, notes=notes, thresholds=dict(thresholds))
    return model


def training_record(
    name: str,
    run: RunFolder,
    model: Model,
    held_out: dict[str, Any],
    references: list[dict[str, Any]],
    hardware: str,
) -> dict[str, Any]:
    """Everything the card says, as values."""
    about, seed = ANNOTATORS[name], run.chosen_seed
    (part,) = [part for part in run.repetitions if part.seed == seed]
    (result,) = [row for row in run.results if row["seed"] == seed]
    valid = {key: thinned(part.valid[key]) for key in ("step", "mcc", "auprc")}
    return {
        "name": name,
        "backbone": model.spec.parent,
        "elements": list(model.spec.labels),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "megabytes": round((BUNDLED / name / "model.safetensors").stat().st_size / 1e6, 2),
        "window_bp": model.spec.context_bp,
        "recipe": about.recipe,
        "overrides": list(overrides(run, about)),
        "leaves_out_listed_places": bool(run.settings["data"].get("exclude")),
        "seed": seed,
        "steps": result["steps"],
        "kept_step": result["best_step"],
        "hours": round(part.seconds / 3600, 2),
        "hardware": hardware,
        "curve": {key: [round(value, 4) for value in values] for key, values in valid.items()},
        "test_bases": held_out["test_bases"],
        "held_out": {element: figures(held_out, element) for element in model.spec.labels},
        "baseline": {key: held_out["baseline"][key] for key in ("what", "sampled_bases", "chosen_on_validation")},
        "references": [{key: value for key, value in found.items() if key != "seconds"} for found in references],
        "data": [dict(zip(("content", "package", "sha256"), row, strict=True)) for row in DATA[about.organism]],
        **({"region": region(model, about)} if all(about.region) else {}),
    }


def figures(held_out: dict[str, Any], element: str) -> dict[str, float]:
    """Of one element, the baseline's among them."""
    ours, chosen = held_out["test"][element], held_out["test_at_thresholds"][element]
    baseline = held_out["baseline"]["test"][element]
    apart = held_out["model_minus_baseline_at_thresholds"][element]["mcc"]
    return {
        **ours,
        "threshold": round(held_out["thresholds"][element], 4),
        "mcc_at_threshold": chosen["mcc"],
        "baseline_mcc": baseline["mcc"],
        "baseline_auprc": baseline["auprc"],
        **{key: round(apart[key], 4) for key in ("difference", "low", "high")},
    }


def overrides(run: RunFolder, about: Annotator) -> Iterator[str]:
    """What the run's settings have else than the run file, as words of the command; where files lie does not count."""
    path = EXAMPLES / "annotator" / about.recipe
    stated, ours = (
        dict(flat(load_finetune_run(file).model_dump(mode="json"))) for file in (path, run.folder / RUN_FILE)
    )
    for key in sorted(stated.keys() | ours.keys()):
        value = ours.get(key)
        if key in PLACES or key.startswith("out.") or value == stated.get(key):
            continue
        if value is None:
            sys.exit(f"{path}: {key} is {stated[key]!r}, but the run has none; let the file say what was run")
        yield shlex.quote(f"{key}={value if isinstance(value, str) else json.dumps(value)}")


def flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(key with dots, value) of all that is no table."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def thinned(values: list[float]) -> list[float]:
    """Evenly spaced values, the last among them."""
    every = -(-len(values) // CURVE_POINTS)
    return values[::-1][::every][::-1]


def region(model: Model, about: Annotator) -> dict[str, Any]:
    """Scores, at the model's thresholds, on the held-out place that is in the repository: quick to compute again."""
    fasta, genes = (EXAMPLES / "data" / name for name in about.region)
    job = plan_segmenting(model, fasta, SegmentOptions())
    annotation, counts = read_annotation(genes, model.spec.labels, job.genome), 0
    for part in job.parts:
        for piece, values in zip(part, compute_part(job, part), strict=True):
            truth = annotation.labels(job.genome.contig_id(piece.place.contig), piece.start, piece.end)
            counts = counts + histogram(values.T, truth)
    scores = Tally(model.spec.labels, counts[None], ("",)).scores(model.spec.thresholds)
    return {"fasta": fasta.name, "annotation": genes.name, "record": job.genome.contigs[0], "test": rounded(scores)}


def row(name: str, model: Model, folder: Path) -> str:
    """Of the catalogue, as TOML."""
    backbone = get_checkpoint(model.spec.parent)
    sums = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in FILES}
    facts = {
        "source": f"package:{name}",
        "layout": "hub",
        "head": model.spec.head,
        "context_bp": model.spec.context_bp,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "licence": "Apache-2.0",
        "paper": backbone.paper,
        "pooling": backbone.pooling,
        "strands": model.spec.strands,
        "labels": list(model.spec.labels),
    }
    return tomli_w.dumps({name: {**facts, "files": sums, "config": dict(backbone.config)}})


def with_row(catalogue: str, name: str, row: str) -> str:
    """The catalogue with the row in the place of an older one, or at its end."""
    tables = re.split(r"^(?=\[)", catalogue, flags=re.M)
    is_ours = [re.match(rf"\[{re.escape(name)}[.\]]", text) is not None for text in tables]
    kept = [text for text, ours in zip(tables, is_ours, strict=True) if not ours]
    at = is_ours.index(True) if any(is_ours) else len(kept)
    before, after = "".join(kept[:at]).rstrip("\n"), "".join(kept[at:])
    return f"{before}\n\n{row}" + (f"\n{after}" if after else "")


def with_page(navigation: str, name: str) -> str:
    """The site's contents with the card behind that of the backbone."""
    line = f"      - models/{name}.md\n"
    behind = f"      - models/{DEFAULT_MODEL}.md\n"
    return navigation if line in navigation else navigation.replace(behind, behind + line)


if __name__ == "__main__":
    main()
