"""What a training run has left in its folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from chargaff.config import read_toml
from chargaff.errors import InputError
from chargaff.hub.manifest import MANIFEST
from chargaff.io.atomic import read_manifest
from chargaff.io.streams import open_input
from chargaff.io.tables import read_table
from chargaff.train.config import is_rising
from chargaff.train.fit import RESULT
from chargaff.train.log import EVENTS, TRAIN, VALID, read_log
from chargaff.workflows.training import PROVENANCE, RUN_FILE

RESULTS, PREDICTIONS = "results.parquet", "predictions.parquet"
FINETUNED = ("sequence", "segmentation")
"""task.kind of the runs of `chargaff finetune`."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """One training: the whole of a pre-training run, one seed of a fine-tuning run."""

    seed: int
    train: Mapping[str, list[float]]
    """Column -> values of train.csv; empty before the first row."""
    valid: Mapping[str, list[float]]
    events: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any] | None
    """result.json; None while the training is not finished."""

    @property
    def steps(self) -> int:
        """Steps that were logged."""
        return int(max([*self.train.get("step", ()), *self.valid.get("step", ())], default=0))

    @property
    def seconds(self) -> float:
        """Time spent in training; each start counts anew."""
        total = last = 0.0
        for event in self.events:
            total, last = (total + last, 0.0) if event["event"] == "start" else (total, event.get("seconds", last))
        return float(total + last)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run, finished or not."""

    folder: Path
    kind: Literal["pretrain", "finetune"]
    settings: Mapping[str, Any]
    """run.toml"""
    provenance: Mapping[str, Any]
    repetitions: tuple[Repetition, ...]
    results: tuple[Mapping[str, Any], ...]
    """Rows of results.parquet; () for pre-training."""
    num_parameters: int | None
    """Of the model the run has made."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def is_annotator(self) -> bool:
        """Whether it was trained to label single bases."""
        return bool(self.settings["task"]["kind"] == "segmentation")

    @property
    def monitor(self) -> str:
        return str(self.settings["train"]["monitor"])

    @property
    def is_finished(self) -> bool:
        trained = bool(self.repetitions) and all(part.result is not None for part in self.repetitions)
        return trained and (self.kind == "pretrain" or bool(self.results))

    @property
    def chosen_seed(self) -> int:
        """The repetition whose weights are in `model/`: the best by the monitored validation metric."""
        sign = 1 if is_rising(self.monitor, self.settings["train"]["mode"]) else -1
        best = max(self.results, key=lambda row: sign * row[f"valid_{self.monitor}"], default={"seed": 1})
        return int(best["seed"])

    @property
    def started(self) -> str:
        """Day and minute (UTC) of the first event; "" if there is none."""
        times = [event["time"] for part in self.repetitions for event in part.events]
        return f"{datetime.fromtimestamp(min(times), UTC):%Y-%m-%d %H:%M} UTC" if times else ""

    def require_finished(self) -> None:
        """Raises InputError, with the command that goes on, where the run has stopped early."""
        if self.is_finished:
            return
        at = ", ".join(f"{self._place(part)} at step {part.steps:,}" for part in self.repetitions if not part.result)
        command = shlex.join(["chargaff", self.kind, str(self.folder / RUN_FILE)])
        raise InputError(
            f"{self.folder}: the run is not finished ({at or 'nothing was trained'}); go on with `{command}`, or ask "
            "for a report of what is there (--unfinished)"
        )

    def _place(self, part: Repetition) -> str:
        return "stopped" if self.kind == "pretrain" else f"seed {part.seed} stopped"


def read_run(folder: Path) -> RunFolder:
    """What is in the folder, however far the run has come.

    Raises:
        InputError: there is no such folder, it holds no run, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not (folder / RUN_FILE).is_file():
        hint = _did_you_mean(folder) or "; `chargaff pretrain` and `finetune` write runs"
        raise InputError(f"{folder}: holds no run (no {RUN_FILE}){hint}")
    settings = read_toml(folder / RUN_FILE)
    try:
        is_finetuning = settings["task"]["kind"] in FINETUNED
        _ = settings["train"]["monitor"], settings["train"]["mode"], settings["data"], settings["model"]
    except (KeyError, TypeError):
        raise InputError(f"{folder / RUN_FILE}: is not what a run has written{_did_you_mean(folder)}") from None
    places = {1: folder}
    if is_finetuning:
        numbers = (path.name.removeprefix("seed-") for path in folder.glob("seed-*") if path.is_dir())
        places = {seed: folder / f"seed-{seed}" for seed in sorted(int(text) for text in numbers if text.isdecimal())}
        # a run repeated with fewer seeds keeps the older folders
        places = {seed: place for seed, place in places.items() if seed <= settings["train"].get("seeds", 1)}
    results = read_table(folder / RESULTS).to_pylist() if (folder / RESULTS).is_file() else []
    model = read_manifest(folder / "model", MANIFEST) or {}
    return RunFolder(
        folder,
        "finetune" if is_finetuning else "pretrain",
        settings,
        read_manifest(folder, PROVENANCE) or {},
        tuple(_read_repetition(seed, place) for seed, place in places.items()),
        tuple(results),
        model.get("params"),
    )


def _did_you_mean(folder: Path) -> str:
    """A run in the folder, or the run it belongs to; "" if there is none."""
    if (folder.parent / RUN_FILE).is_file():
        return f"; did you mean {folder.parent}?"
    inside = next((path.parent for path in sorted(folder.glob(f"*/{RUN_FILE}"))), None)
    return f"; did you mean {inside}?" if inside else ""


def _read_repetition(seed: int, folder: Path) -> Repetition:
    try:
        train, valid = read_log(folder / TRAIN), read_log(folder / VALID)
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder}: a line of {TRAIN} or {VALID} is damaged ({error})") from None
    result = read_manifest(folder, RESULT)
    return Repetition(seed, train, valid, tuple(_read_events(folder / EVENTS)), result)


def _read_events(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with open_input(path) as file:
        lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
    try:
        # a process that dies may leave half a line at the end
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise InputError(f"{path}: a line is no JSON ({error})") from None
