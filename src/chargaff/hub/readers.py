"""Weight files -> flat tensor dictionaries. Nothing in a file is ever executed.

Formats: safetensors (also in shards), torch pickles (weights only), training checkpoints (`.ckpt`), whose foreign
objects are replaced by inert placeholders, and the joblib archives of JAX code bases.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chargaff.errors import CheckpointError
from chargaff.families.protocol import StateDict
from chargaff.hub.inert import read_training_checkpoint
from chargaff.hub.joblib_archive import read_tree

PARAMS, _STATE = "params.joblib", "state.joblib"
"""Two archives of one JAX model: the averages of its batch norms lie in the second."""
_MAX_HEADER_BYTES = 100_000_000
_TEXT = re.compile(rb"[\t\n\r\f\x20-\x7e]*\Z")


def read_weights(path: str | Path) -> StateDict:
    """All tensors of a weight file, on the CPU; they may be views of the mapped file.

    Args:
        path: `.safetensors`, `.ckpt`, a torch pickle (`.bin`, `.pt`, `.pth`), `.joblib` (a tree of arrays; names are
            its keys joined by "/"; `params.joblib` brings `state.joblib` beside it), or the `.index.json` of a sharded
            file.

    Raises:
        CheckpointError: missing, truncated or damaged file, another format, or a pickle that needs more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    return _reader_of(path)(path)


def shards_of(index: str | Path) -> tuple[Path, ...]:
    """The files that an index names, in order of name.

    Raises:
        CheckpointError: the index is malformed or names something outside its folder.
    """
    index = Path(index)
    return tuple(sorted({index.parent / name for name in _weight_map(index).values()}))


def _reader_of(path: Path) -> Callable[[Path], StateDict]:
    with path.open("rb") as file:
        head = file.read(512)
    if path.suffix == ".joblib" and not _TEXT.match(head):
        return _read_params_and_state if path.name == PARAMS else read_tree
    if _is_safetensors(head):
        return _read_safetensors
    if head.startswith(b"PK\x03\x04") and path.suffix == ".ckpt":
        return _read_training_checkpoint
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_pickle
    raise CheckpointError(f"{path}: expected weights (safetensors, torch pickle or .ckpt), found {_describe(head)}")


def _read_params_and_state(path: Path) -> StateDict:
    """Both archives; names of the second have STATE/ in front."""
    beside = path.with_name(_STATE)
    if not beside.is_file():
        raise CheckpointError(f"{beside}: no such file; {PARAMS} needs the averages of the batch norms beside it")
    return read_tree(path) | {f"STATE/{name}": tensor for name, tensor in read_tree(beside).items()}


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES and head[8:9] == b"{"


def _describe(head: bytes) -> str:
    """What a file that holds no weights seems to be, from its first bytes."""
    start = head.lstrip().lower()
    if not head:
        return "an empty file"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page: a web address was saved instead of the file behind it; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer: fetch the real file with `git lfs pull`"
    if start.startswith(b"<?xml"):
        return "an XML document, perhaps a server's error message; download it again"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive; unpack it first"
    if _TEXT.match(head):
        first = head.decode().strip().splitlines()
        return f"text that begins with {first[0][:40]!r}" if first else "blank text"
    return f"unknown bytes {head[:8].hex(' ')}"


def _read_safetensors(path: Path) -> StateDict:
    _check_length(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error}); download it again") from error


def _check_length(path: Path) -> None:
    """Compares the length of the file with what its header promises."""
    found = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        raise CheckpointError(f"{path}: truncated inside its header ({found} bytes); download it again")
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        promised = 8 + header_bytes + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: the safetensors header cannot be read ({error}); download it again") from error
    if found != promised:
        what = "truncated" if found < promised else "longer than it should be"
        raise CheckpointError(f"{path}: {what}: {found} bytes, its header says {promised}; download it again")


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(tensor): str(file) for tensor, file in table.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of weight files ({error!r})") from error
    for name in names.values():
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names {name!r}, which is not a file beside it")
    return names


def _read_shards(index: Path) -> StateDict:
    expected = _weight_map(index)
    shards = shards_of(index)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        shown = ", ".join(missing[:5])
        raise CheckpointError(f"{index}: {len(missing)} of {len(shards)} files are missing ({shown}); get them again")
    state: StateDict = {}
    for shard in shards:
        for name, tensor in read_weights(shard).items():
            if expected.get(name) != shard.name:
                raise CheckpointError(f"{shard}: holds {name!r}, which {index.name} does not place there")
            state[name] = tensor
    absent = sorted(set(expected) - set(state))
    if absent:
        shown = ", ".join(absent[:5])
        raise CheckpointError(f"{index}: {len(absent)} tensors are in none of its files ({shown}); get them again")
    return state


def _read_pickle(path: Path) -> StateDict:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_refusal(str(error))}") from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged or truncated torch file ({reason}); download it again") from error
    return _flat_tensors(content, path)


def _read_training_checkpoint(path: Path) -> StateDict:
    return _flat_tensors(read_training_checkpoint(path), path)


def _check_archive(path: Path) -> None:
    """A zip archive must be one that torch.save wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: truncated or damaged torch file ({error}); download it again") from error
    if "constants.pkl" in names:
        raise CheckpointError(f"{path}: a TorchScript program, not weights; save its state_dict() instead")
    if "data.pkl" not in names:
        raise CheckpointError(f"{path}: a zip archive that torch did not write (first entry {names[:1]})")


def _refusal(message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        reason = message.splitlines()[0] if message else "unreadable pickle"
        return f"cannot be read as weights ({reason})"
    return (
        f"the pickle asks for {found[1]}, which is not a tensor: refused, as it could run code; "
        "ask for a safetensors file, or rename a training checkpoint to .ckpt (its tensors alone are read then)"
    )


def _flat_tensors(content: Any, path: Path) -> StateDict:
    """The state dict of an unpickled file: under "state_dict" if it has such a key, else the whole."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: expected names and tensors, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is {type(value).__name__}, expected a tensor")
    return {name: value.detach() for name, value in content.items()}
