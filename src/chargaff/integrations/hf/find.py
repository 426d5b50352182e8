"""Which models are ours: what a folder or hub id says about itself, read before transformers reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from chargaff.errors import CheckpointError
from chargaff.families import get_family, list_families
from chargaff.hub.catalog import Checkpoint, list_checkpoints
from chargaff.hub.describe import published_values
from chargaff.hub.files import CONFIG_FILES
from chargaff.hub.manifest import MANIFEST, read_json
from chargaff.integrations.hf.config import THEIRS, ChargaffConfig

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""Arguments of from_pretrained that say where files come from."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model of ours."""

    family: str
    published: Mapping[str, Any]
    """Keys of its config.json: the model's, and those that speak to transformers."""
    folder: Path | None
    """Where its files lie, as far as they are on this machine; None for a row of the catalogue without files."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Content of a model.json that chargaff wrote."""

    def config(self) -> ChargaffConfig:
        """As transformers wants it; labels that the files name count as stated."""
        config = ChargaffConfig.from_published(self.family, self.published)
        if self.published.get("id2label"):
            config.state_labels()
        return config


def find(name: str | PathLike[str], options: Mapping[str, Any]) -> Found | None:
    """What is known of a model of ours; None if it is not ours or not there.

    Args:
        name: folder, config file, or hub id.
        options: HUB_OPTIONS.

    Raises:
        CheckpointError: a model.json of ours that cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        return _in_folder(path / str(options.get("subfolder") or ""))
    if path.is_file():
        return _from_file(path) if path.suffix == ".json" else None
    return _on_hub(str(name), options)


def row_of(hub_id: str) -> Checkpoint | None:
    """The row of the catalogue for a hub id."""
    return next((row for row in list_checkpoints() if row.hub_id == hub_id), None)


def family_of(published: Mapping[str, Any]) -> str | None:
    """The family that a config.json belongs to; None if none recognises it, or several do."""
    found = [name for name in list_families() if get_family(name).recognises(published)]
    return found[0] if len(found) == 1 else None


def _in_folder(folder: Path) -> Found | None:
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            found = _from_file(folder / name)
            if found is not None:
                return found
    return None


def _from_file(path: Path) -> Found | None:
    try:
        content = read_json(path)
    except CheckpointError:
        if path.name == MANIFEST:
            raise
        return None  # transformers reads the same file and says what is wrong
    if path.name == MANIFEST:
        return _from_manifest(path, content)
    if content.get("model_type") == ChargaffConfig.model_type:
        return Found(str(content["family"]), {**_theirs(content), **content["family_config"]}, path.parent)
    published = published_values(content)
    family = family_of(published)
    return None if family is None else Found(family, published, path.parent)


def _from_manifest(path: Path, content: Mapping[str, Any]) -> Found | None:
    """model.json describes the model, config.json beside it what transformers wants to remember."""
    if content.get("family") not in list_families():
        return None
    beside = path.with_name("config.json")
    theirs = _theirs(read_json(beside)) if beside.is_file() else {}
    labels = content.get("labels") or ()
    count = dict(content.get("head_options") or {}).get("num_outputs")
    if "id2label" not in theirs and count:
        names = labels if len(labels) == count else [f"LABEL_{index}" for index in range(count)]
        theirs["id2label"] = {str(index): label for index, label in enumerate(names)}
        theirs["label2id"] = {label: index for index, label in enumerate(names)}
    return Found(str(content["family"]), {**theirs, **content["config"]}, path.parent, content)


def _theirs(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key in THEIRS}


def _on_hub(name: str, options: Mapping[str, Any]) -> Found | None:
    row = row_of(name)
    given = {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}
    if row is not None and row.revision:
        given.setdefault("revision", row.revision)
    try:
        path = cached_file(name, "config.json", **given)
    except OSError:  # no such repository, no network, no such file: transformers explains it better
        path = None
    if path is not None:
        found = _from_file(Path(path))
        if found is not None or row is None:
            return found
    return None if row is None else Found(row.family, row.config, None)
