"""Where a result comes from; written into every output."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chargaff import __version__
from chargaff.hub.download import sha256_of
from chargaff.model import Model

PACKAGES = ("torch", "numpy", "numba")
"""Packages whose version can change a number."""


def provenance(
    model: Model | None = None,
    *,
    inputs: Iterable[str | Path | Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A JSON-ready record of model, inputs, options, versions and device; holds no time of day, so equal runs agree.

    Args:
        model: its checkpoint, weights, strand contract and device are recorded.
        inputs: files (size and SHA-256 are added), or ready descriptions of other inputs.
        options: everything that was asked for, such as pooling, strands, dtype, seed.
    """
    described = [dict(item) if isinstance(item, Mapping) else describe_file(item) for item in inputs]
    record: dict[str, Any] = {
        "chargaff": __version__,
        "versions": {"python": platform.python_version(), **_versions()},
        "inputs": described,
        "options": {key: _plain(value) for key, value in (options or {}).items()},
    }
    if model is not None:
        record["model"] = _describe_model(model)
        record["device"] = _describe_device(model.device)
    return record


def describe_file(path: str | Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file as it lies on disk (compressed, if it is); of a pipe the name alone."""
    if not Path(path).is_file():
        return {"name": str(path)}
    return {"name": Path(path).name, "bytes": Path(path).stat().st_size, "sha256": sha256_of(path)}


def hash_weights(model: Model) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and persistent buffers, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _describe_model(model: Model) -> dict[str, Any]:
    spec = model.spec
    described = {
        "name": spec.name,
        "family": spec.family,
        "head": spec.head,
        "strands": spec.strands,
        "licence": spec.licence,
        "paper": spec.paper,
        "parent": spec.parent,
        "file_sha256": spec.sha256,
        "weights_sha256": hash_weights(model),
        "notes": dict(spec.notes),
    }
    return {key: value for key, value in described.items() if value not in ("", {})}


def _describe_device(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device)}
    return {"type": device.type, "name": platform.machine(), "threads": torch.get_num_threads()}


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(item) for key, item in dataclasses.asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
