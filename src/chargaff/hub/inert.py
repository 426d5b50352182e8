"""Training checkpoints (`.ckpt`) read without importing or running anything they name.

Such files hold optimizer states, hyper-parameters and objects of foreign packages beside the weights. Here the pickle
is played with placeholders in place of every class and function; only tensors and plain containers come to life, and
storages are read when a tensor of the state dict asks for them.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chargaff.errors import CheckpointError

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_TENSOR_MAKERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
_PARAMETER_MAKERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")


class Inert:
    """Stands for any foreign class, function or object: takes every call and keeps nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __call__(self, *args: Any, **options: Any) -> "Inert":
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class _Storage:
    """A record of the archive, not read yet."""

    dtype: torch.dtype
    key: str


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """Where the numbers of a tensor lie."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Maker:
    """Takes the calls of torch's rebuilding functions. One a look-up, so that a pickle cannot alter the next one."""

    name: str

    def __call__(self, *args: Any) -> Any:
        if self.name in _PARAMETER_MAKERS:
            return args[0]
        storage, offset, size, stride = args[:4]
        dtype = args[6] if self.name == "_rebuild_tensor_v3" else storage.dtype
        return _StoredTensor(storage, int(offset), tuple(size), tuple(stride), dtype)


def read_training_checkpoint(path: Path) -> Mapping[Any, Any]:
    """What lies under "state_dict" (or the whole where there is no such key), with its tensors read.

    Args:
        path: a zip archive that torch.save wrote.

    Raises:
        CheckpointError: truncated or damaged file, or no mapping.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: truncated or damaged torch file ({error}); copy it again") from error


def _read_archive(archive: zipfile.ZipFile, path: Path) -> Mapping[Any, Any]:
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise CheckpointError(f"{path}: a zip archive that torch.save did not write")
    byte_order = f"{roots[0]}byteorder"
    if byte_order in archive.namelist() and archive.read(byte_order) != b"little":
        raise CheckpointError(f"{path}: written on a big-endian machine; save it again on an ordinary one")
    try:
        content = _InertUnpickler(archive.read(f"{roots[0]}data.pkl")).load()
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path}: damaged checkpoint ({type(error).__name__}: {error})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected names and tensors, found {type(content).__name__}")
    records: dict[str, Tensor] = {}
    return {name: _realise(value, archive, roots[0], records, path) for name, value in content.items()}


def _realise(value: Any, archive: zipfile.ZipFile, root: str, records: dict[str, Tensor], path: Path) -> Any:
    """The tensor behind a description; anything else as it is."""
    if not isinstance(value, _StoredTensor):
        return value
    storage = value.storage
    try:
        if storage.key not in records:
            records[storage.key] = _bytes_tensor(archive.read(f"{root}data/{storage.key}"))
        return records[storage.key].view(value.dtype).as_strided(value.size, value.stride, value.offset)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged tensor record {storage.key!r} ({error})") from error


def _bytes_tensor(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)


class _InertUnpickler(pickle.Unpickler):
    """Every global is looked up here; none is imported."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch._utils" and name in (*_TENSOR_MAKERS, *_PARAMETER_MAKERS):
            return _Maker(name)
        return Inert

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown kind of record: {pid!r}")
        return _Storage(dtype, str(key))
