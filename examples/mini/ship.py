"""Puts a pre-trained model, its record and its card where the package carries them.

    python examples/mini/ship.py runs/mini --held-out heldout.json
    python examples/mini/ship.py runs/mini_second --stage second --held-out heldout.json
    ...
    python examples/mini/ship.py runs/mini_sixth --stage sixth --held-out heldout.json

RUN is the folder of the pre-training, `heldout.json` what `examples/mini/evaluate.py` has written about its model. Into
`src/chargaff/bundled/chargaff-caduceus-ps-mini/` go the weights, `training.json` (settings, curve, held-out figures;
what it says of the stages before this one stays) and `README.md`, the model card made of them. The checksums of the row
in `families/caduceus/checkpoints.toml` are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import numpy as np
from card import card
from corpus import SPECIES, STAGES
from counts import codes
from evaluate import RATES, WINDOW_BP, hide, predictions, scores
from fetch_genomes import GENOMES

from chargaff.config import read_toml
from chargaff.hub.load import load
from chargaff.io.fasta import Genome
from chargaff.train.log import read_log

NAME = "chargaff-caduceus-ps-mini"
FOLDER = Path(__file__).resolve().parents[2] / "src" / "chargaff" / "bundled" / NAME
CURVE_POINTS = 100
SLICES = Path(__file__).resolve().parents[1] / "data" / "chr20_slices.fa.gz"
SLICE = "chr20_2600001_2700000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES, default="first")
    parser.add_argument("--hardware", default="one core of an AMD EPYC, no GPU")
    options = parser.parse_args()
    number = list(STAGES).index(options.stage)
    before = json.loads((FOLDER / "training.json").read_text())["stages"][:number] if number else []
    recipe = f"{NAME}-{options.stage}-pretrain" if number else f"{NAME}-pretrain"
    record = {
        "stages": [*before, stage_record(options.run, recipe, options.hardware)],
        "held_out": json.loads(options.held_out.read_text()),
        "slice": slice_figure(options.run / "model"),
        "genomes": genomes(),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.run / "model" / "model.safetensors", FOLDER / "model.safetensors")
    description = json.loads((options.run / "model" / "model.json").read_text()) | {"name": NAME}
    (FOLDER / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    for name in ("model.safetensors", "model.json"):
        (FOLDER / name).chmod(0o644)
    (FOLDER / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (FOLDER / "README.md").write_text(card(record))
    for name in ("model.safetensors", "model.json"):
        print(f'"{name}" = "{hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()}"')


def stage_record(run: Path, recipe: str, hardware: str) -> dict[str, Any]:
    """What the card says of a run, as values."""
    settings = read_toml(run / "run.toml")
    train_log, valid_log = read_log(run / "train.csv"), read_log(run / "valid.csv")
    return {
        "recipe": recipe,
        "seed": settings["train"]["seed"],
        "processes": settings["train"]["devices"],
        "steps": int(train_log["step"][-1]),
        "hidden": settings["task"]["probability"],
        "tokens": int(train_log["samples"][-1]) * settings["data"]["length_bp"],
        "hours": round(training_seconds(run / "events.jsonl") / 3600, 2),
        "hardware": hardware,
        "curve": {
            "step": thinned(valid_log["step"]),
            "validation_nats": [round(value, 4) for value in thinned(valid_log["loss"])],
        },
    }


def genomes() -> list[dict[str, str]]:
    """Where the training sequence comes from."""
    return [
        {
            "species": species.replace("_", " "),
            "content": GENOMES[name].content,
            "package": GENOMES[name].package,
            "sha256": GENOMES[name].sha256,
        }
        for name, species in SPECIES.items()
    ]


def slice_figure(model: Path) -> dict[str, Any]:
    """15 % hidden, on the piece of the held-out region that is in the repository: quick to compute again."""
    bases = codes(Genome(SLICES).fetch(SLICE))
    windows = bases[: len(bases) // WINDOW_BP * WINDOW_BP].reshape(-1, WINDOW_BP)
    hidden = hide(windows, RATES["15 %"], 1)
    found = scores(predictions(load(model, device="cpu"), windows, hidden), windows[hidden].astype(np.int64))
    return {"record": SLICE, "seed": 1, **found}


def training_seconds(events: Path) -> float:
    """Summed over the times the run was started; `seconds` of an event counts from the start before it."""
    total = last = 0.0
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if event["event"] in ("start", "resume"):
            total, last = total + last, 0.0
        last = event.get("seconds", last)
    return total + last


def thinned(values: list[float]) -> list[float]:
    """Evenly spaced values, the last among them."""
    every = -(-len(values) // CURVE_POINTS)
    return values[::-1][::every][::-1]


if __name__ == "__main__":
    main()
