"""What pre-training and fine-tuning share: the model a run file asks for, and the run's folder."""

from __future__ import annotations

import logging
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from chargaff.config import Table, read_toml, to_toml
from chargaff.errors import ConfigError
from chargaff.hub.catalog import find_checkpoint, get_checkpoint
from chargaff.hub.load import create, load
from chargaff.io.atomic import claim, write_atomically, write_manifest
from chargaff.model import Model
from chargaff.train.fit import is_first_process
from chargaff.train.runs import ModelTable
from chargaff.train.state import TrainingInterrupted
from chargaff.workflows.provenance import provenance

log = logging.getLogger(__name__)

RUN_FILE, PROVENANCE = "run.toml", "provenance.json"


def open_model(table: ModelTable, *, seed: int, head: str | None) -> Model:
    """The model that a `[model]` table describes, on the CPU.

    Args:
        seed: of fresh weights.
        head: "lm" or "none"; None takes what a checkpoint has.

    Raises:
        ConfigError: no such checkpoint or family, or a config key that contradicts the checkpoint.
    """
    if table.family:
        return create(table.family, table.config, head=head or "none", seed=seed)
    if table.weights == "fresh":
        family, stored = _stored_config(table.name)
        return create(family, {**stored, **_changes(table, stored)}, head=head or "none", seed=seed)
    model = load(table.name, head=head, device="cpu", dtype="float32")
    changes = _changes(table, model.spec.config.to_json())
    if changes:
        model = load(table.name, head=head, device="cpu", dtype="float32", config=changes)
    notes = {key: note for key, note in model.spec.notes.items() if key != "copy_of"}  # it will not stay one
    model.spec = replace(model.spec, notes=notes)
    return model


def _stored_config(name: str) -> tuple[str, Mapping[str, Any]]:
    """Family and published config keys of a checkpoint, without its weights where it is a catalogue name."""
    if find_checkpoint(name) is not None or not Path(name).exists():
        row = get_checkpoint(name)
        return row.family, row.config
    model = load(name, head="none", device="cpu")
    return model.spec.family, model.spec.config.to_json()


def _changes(table: ModelTable, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `[model.config]` that differ from the checkpoint's, all of them asked for on the command line."""
    changes = {}
    for key, value in table.config.items():
        here = stored.get(key)
        wanted = {**here, **value} if isinstance(here, Mapping) and isinstance(value, Mapping) else value
        if wanted == here:
            continue
        if key in stored and key not in table.override:
            raise ConfigError(
                f"model.config.{key}: {value!r} contradicts the checkpoint {table.name} ({here!r}); leave it out, or "
                "give it on the command line to replace the checkpoint's"
            )
        changes[key] = wanted
    return changes


def record_run(run: Table, folder: Path, *, inputs: Iterable[Path], model: Model | None = None) -> None:
    """Writes `run.toml`, which repeats the run, and `provenance.json`; compares with what is there already.

    Other settings below `[train]` are taken over with a warning; any other difference is another run.

    Raises:
        ConfigError: the folder holds a run of another model, task or data.
    """
    if not is_first_process():
        return
    text, path = to_toml(run), folder / RUN_FILE
    with claim(folder):
        if path.exists():
            _compare(folder, read_toml(path), tomllib.loads(text))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        if not (folder / PROVENANCE).exists():
            write_manifest(folder, PROVENANCE, provenance(model, inputs=inputs, options=tomllib.loads(text)))


def _compare(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    changed = _differences(before, after)
    foreign = [line for key, line in changed.items() if not key.startswith("train.")]
    if foreign:
        raise ConfigError(f"{folder}: holds another run ({'; '.join(foreign)}); choose another out.folder")
    if changed:
        log.warning("%s: going on with other settings: %s", folder, "; ".join(changed.values()))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> "key was x, is y"."""
    one, two = dict(_flat(before, "")), dict(_flat(after, ""))
    return {
        key: f"{key} was {one.get(key, 'not set')!r}, is {two.get(key, 'not set')!r}"
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key)
    }


def _flat(values: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@contextmanager
def resumable(verb: str, folder: Path) -> Iterator[None]:
    """An interruption in the block is told with the command that goes on."""
    try:
        yield
    except TrainingInterrupted as stop:
        command = shlex.join(["chargaff", verb, str(folder / RUN_FILE)])
        raise TrainingInterrupted(f"{stop}; continue with: {command}") from None
