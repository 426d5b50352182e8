"""The log of a run: train.csv and valid.csv hold what a repetition reproduces, events.jsonl what it does not (time)."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRAIN, VALID, EVENTS = "train.csv", "valid.csv", "events.jsonl"


class RunLog:
    """Rows are on disk when `write` returns; numbers are written so that they read back exactly."""

    def __init__(self, folder: Path, *, completed_steps: int = 0) -> None:
        """Opens the log of a run that has `completed_steps` behind it; later rows of an interrupted run are dropped."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in (TRAIN, VALID, EVENTS):
            _keep_until(folder / name, completed_steps)

    def write(self, name: str, row: Mapping[str, Any]) -> None:
        """Appends to train.csv or valid.csv; the first row fixes the columns."""
        path = self.folder / name
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def event(self, kind: str, step: int, **facts: Any) -> None:
        """Appends to events.jsonl, with the time."""
        record = {"event": kind, "step": step, "time": round(time.time(), 3), **facts}
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_log(path: Path) -> dict[str, list[float]]:
    """Column name -> values of a CSV log; empty if there is none."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def _keep_until(path: Path, completed_steps: int) -> None:
    """Removes rows of later steps, and a last line that was cut off when the process died."""
    if not path.exists():
        return
    if completed_steps == 0:
        path.unlink()
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= completed_steps]
    path.write_text("".join(kept), encoding="utf-8")


def _step_of(line: str) -> int:
    """The row's step; 0 for a header."""
    if line.startswith("{"):
        return int(json.loads(line)["step"])
    first = line.partition(",")[0]
    return int(first) if first.isdigit() else 0
