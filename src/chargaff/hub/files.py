"""What the user typed -> files on this machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chargaff.errors import CheckpointError, ConfigError
from chargaff.hub.catalog import Checkpoint, get_checkpoint, list_checkpoints
from chargaff.hub.download import WEIGHT_FILES, cached_files, fetch
from chargaff.hub.readers import PARAMS

CONFIG_FILES = ("model.json", "model_config.json", "config.json", "hyperparams.json")
"""Descriptions of a model: ours, the training framework's, the hub's, and the JAX archives'; the first there counts."""

_WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".index.json", ".joblib")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """A checkpoint on this machine."""

    name: str
    """Checkpoint name, hub id or path."""
    weights: Path
    """Weight file, or the index of a sharded one."""
    config: Path | None
    """Description beside the weights; None if there is none."""
    checkpoint: Checkpoint | None = None
    """Row of the catalogue, if it is one of those."""
    commit: str = ""
    """Of the hub repository; "" for local files."""

    @property
    def folder(self) -> Path:
        return self.weights.parent


def resolve(name_or_path: str | Path, *, offline: bool = False) -> LocalFiles:
    """The files of a model, downloaded into the cache if it is a published one.

    Args:
        name_or_path: checkpoint name ("caduceus-ps-131k"), folder, weight file, or hub id "owner/repository"; names
            and hub ids may carry "@revision". "./x" is always a path and "hub:owner/repository" always a hub id.
        offline: never use the network.

    Raises:
        ConfigError: an unknown name (the nearest ones are suggested), or one that could mean two things.
        CheckpointError: no weights there, the hub out of reach, or a file damaged.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or _is_path(text):
        return _from_path(Path(text).expanduser())
    if text.startswith("hub:"):
        return _from_hub(text.removeprefix("hub:"), offline)
    name, _, revision = text.partition("@")
    exists = Path(text).exists()
    try:
        row = get_checkpoint(name)
    except ConfigError as error:
        if exists:
            return _from_path(Path(text))
        if not _HUB_ID.fullmatch(text):
            raise ConfigError(f"{error} (nor is there a file or folder of that name)") from None
        return _from_hub_or_explain(text, offline)
    if exists:
        other = f"'hub:{row.hub_id}' for the checkpoint" if row.hub_id else "rename the path for the checkpoint"
        raise ConfigError(f"model: {text!r} is a checkpoint and a path here: write './{text}' for the path, {other}")
    return _from_row(row, revision, offline)


def find_cached(checkpoint: Checkpoint) -> Mapping[str, Path | None]:
    """Where each file of a published checkpoint lies on this machine; None for what would be downloaded."""
    if checkpoint.package_folder is not None:
        return {name: checkpoint.package_folder / name for name in checkpoint.files}
    if checkpoint.hub_id is None:
        return {}
    if checkpoint.files:
        return cached_files(checkpoint.hub_id, checkpoint.revision, checkpoint.files)
    usual = cached_files(checkpoint.hub_id, checkpoint.revision, dict.fromkeys(WEIGHT_FILES, ""))
    return {name: path for name, path in usual.items() if path is not None} or {WEIGHT_FILES[0]: None}


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~", "\\")) or text.endswith(("/", *_WEIGHT_SUFFIXES))


def _from_row(row: Checkpoint, revision: str, offline: bool) -> LocalFiles:
    if row.package_folder is not None:
        if revision:
            raise ConfigError(f"model: {row.name} came with this package and has no revisions, got '@{revision}'")
        weights = next(row.package_folder / name for name in row.files if name.endswith(_WEIGHT_SUFFIXES))
        return LocalFiles(row.name, weights, _config_beside(weights), row)
    if row.hub_id is None:
        raise CheckpointError(
            f"{row.name}: there are no weights to load ({row.source.partition(':')[2]}); train your own with "
            f"`chargaff pretrain` or `chargaff finetune` from model.family={row.family} and this row's config"
        )
    is_pinned = revision in ("", row.revision)
    sums = row.files if is_pinned else dict.fromkeys(row.files, "")
    snapshot = fetch(row.hub_id, revision or row.revision, sums, offline=offline)
    named = [snapshot.folder / name for name in row.files if name.endswith(_WEIGHT_SUFFIXES)]
    weights = named[0] if named else _weights_in(snapshot.folder)
    return LocalFiles(row.name, weights, _config_beside(weights), row, snapshot.commit)


def _from_hub(text: str, offline: bool) -> LocalFiles:
    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise ConfigError(f"model: expected a hub id 'owner/repository' or 'owner/repository@revision', got {text!r}")
    repo, revision = match[1], match[2] or ""
    row = next((row for row in list_checkpoints() if (row.hub_id or "").lower() == repo.lower()), None)
    if row is not None:
        return _from_row(row, revision, offline)
    snapshot = fetch(repo, revision, offline=offline)
    weights = _weights_in(snapshot.folder)
    return LocalFiles(repo, weights, _config_beside(weights), None, snapshot.commit)


def _from_hub_or_explain(text: str, offline: bool) -> LocalFiles:
    """For words that may have been meant as a path."""
    try:
        return _from_hub(text, offline)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (read as 'hub:{text}', because there is no folder './{text}')") from error


def _from_path(path: Path) -> LocalFiles:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    weights = _weights_in(path) if path.is_dir() else path
    return LocalFiles(str(path), weights, _config_beside(weights))


def _weights_in(folder: Path) -> Path:
    """The weight file of a folder: a usual name, else the only one of a kind."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    groups = [("*.safetensors",), ("*.ckpt", "*/*.ckpt", "*/*/*.ckpt"), ("*.bin", "*.pt", "*.pth")]
    groups += [(PARAMS,), ("*.joblib",)]
    if (folder / "model_config.json").is_file():  # a run of the training framework, whose weights are a .ckpt
        groups.insert(0, groups.pop(1))
    for patterns in groups:
        found = sorted(path for pattern in patterns for path in folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(str(path) for path in found[:5])
            raise CheckpointError(f"{folder}: holds {len(found)} weight files; give the one to load: {shown}")
    below = sorted(str(path.parent) for path in folder.glob("*/model.json"))
    hint = f"; did you mean {' or '.join(below[:5])}?" if below else f" ({', '.join(WEIGHT_FILES[:3])} or a .ckpt)"
    raise CheckpointError(f"{folder}: a folder without weights{hint}")


def _config_beside(weights: Path) -> Path | None:
    """The description of a weight file; training checkpoints lie up to two levels below theirs."""
    levels = 3 if weights.suffix == ".ckpt" else 1
    for folder in (weights.absolute().parent, *weights.absolute().parent.parents)[:levels]:
        for name in CONFIG_FILES:
            if (folder / name).is_file():
                return folder / name
    return None
