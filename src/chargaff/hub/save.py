"""Models into folders: ours, which `load` takes back, or the published layout."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families import get_family
from chargaff.families.protocol import StateDict
from chargaff.hub.assign import shared_names
from chargaff.hub.download import sha256_of
from chargaff.hub.joblib_archive import write_tree
from chargaff.hub.manifest import MANIFEST, describe_model, tokenizer_files
from chargaff.io.atomic import publish, write_atomically, write_manifest
from chargaff.model import Model

WEIGHTS = "model.safetensors"
ARCHIVE = "pytree_ckpt.joblib"
"""Usual name of a JAX archive."""


def save(model: Model, path: str | Path, *, overwrite: bool = False) -> None:
    """A folder with `model.safetensors` and `model.json`; `load` of it gives the same model to the bit.

    A tokenizer with a vocabulary file of its own keeps it there, too.

    Args:
        path: folder that appears when it is complete.
        overwrite: replace what is there.

    Raises:
        InputError: the path is taken, or cannot be written.
    """
    with publish(path, overwrite=overwrite) as part:
        part.mkdir()
        _write_tensors(stored_tensors(model), part / WEIGHTS)
        for name, text in tokenizer_files(model.tokenizer).items():
            write_atomically(part / name, text)
        write_manifest(part, MANIFEST, describe_model(model, {WEIGHTS: sha256_of(part / WEIGHTS)}))


def export(model: Model, path: str | Path, layout: str = "hub", *, overwrite: bool = False) -> None:
    """A folder as the model's authors publish theirs: their tensor names, config and tokenizer files.

    Args:
        path: folder that appears when it is complete.
        layout: key of the family's layouts.
        overwrite: replace what is there.

    Raises:
        ConfigError: the layout is unknown or only read, or has no place for the head.
        InputError: the path is taken, or cannot be written.
    """
    spec = model.spec
    family = get_family(spec.family)
    writable = [name for name, entry in family.layouts.items() if entry.write is not None]
    entry = family.layouts.get(layout)
    write = None if entry is None else entry.write
    describe = family.published_files if entry is None or entry.files is None else entry.files
    if entry is None or write is None or describe is None:
        known = ", ".join(writable) if family.published_files is not None else "none"
        raise ConfigError(f"layout: {spec.family} can be written in {known}, got {layout!r}")
    labels = spec.labels or [f"LABEL_{index}" for index in range(spec.head_options.get("num_outputs", 0))]
    texts = describe(spec.config, spec.head, spec.context_bp, labels)
    if tokenizer_files(model.tokenizer):
        texts = {**texts, **model.tokenizer.published_files()}  # type: ignore[attr-defined]
    tensors = _renamed(write, model, layout)
    with publish(path, overwrite=overwrite) as part:
        part.mkdir()
        if entry.archive == "joblib":
            write_tree(tensors, part / ARCHIVE)
        else:
            _write_tensors(tensors, part / WEIGHTS)
        for name, text in sorted(texts.items()):
            write_atomically(part / name, text)


def _renamed(write: Callable[[StateDict, Any], StateDict], model: Model, layout: str) -> StateDict:
    try:
        return write(stored_tensors(model), model.spec.config)
    except CheckpointError as error:
        raise ConfigError(f"layout {layout!r} has no place for this model's {model.spec.head} head: {error}") from error


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers on the CPU; one held under several names appears under the first."""
    state = module.state_dict()
    return {names[0]: state[names[0]].detach().cpu().contiguous() for names in shared_names(module)}


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """safetensors, with the metadata that other readers look for. Tensors that share memory are written twice."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        separate[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    try:
        save_file(separate, path, metadata={"format": "pt"})
    except SafetensorError as error:
        system = re.search(r"\(os error (\d+)\)", str(error))
        if system is None:
            raise
        raise OSError(int(system[1]), os.strerror(int(system[1])), str(path)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
