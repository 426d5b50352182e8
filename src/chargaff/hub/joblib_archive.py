"""The archives of JAX code bases: a joblib pickle of `dict[module path -> dict[name -> array]]` (nt sheet 1.5).

Reading is restricted: every global is looked up in the table below, none is imported, and arrays of objects are
refused. JAX is not needed for files that hold its arrays: their reconstruction is done on the numpy array inside.
"""

import bz2
import gzip
import io
import lzma
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from chargaff.errors import CheckpointError

_UNPACKERS: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
    b"\x78": zlib.decompress,
}
"""First bytes of a compressed archive."""


class _ArrayHeader:
    """Stands for joblib's wrapper: its state describes an array whose bytes follow in the file."""

    shape: tuple[int, ...]
    order: str
    dtype: np.dtype[Any]
    numpy_array_alignment_bytes: int | None = None

    def read(self, file: BinaryIO, remaining_bytes: int) -> np.ndarray[Any, Any]:
        """The array, copied.

        Args:
            remaining_bytes: of the file; more are not believed.
        """
        _require_numbers(self.dtype)
        if self.numpy_array_alignment_bytes is not None:
            file.read(file.read(1)[0])
        count = int(np.prod([int(size) for size in self.shape], dtype=object))
        if count < 0 or count * self.dtype.itemsize > remaining_bytes:
            raise pickle.UnpicklingError(f"truncated: an array of shape {tuple(self.shape)} does not fit in the file")
        flat = np.empty(count, self.dtype)
        if file.readinto(flat.view(np.uint8).data) != flat.nbytes:  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("truncated inside an array")
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


class _Array(np.ndarray[Any, Any]):
    """What numpy's own reduction builds up, refusing objects."""

    def __setstate__(self, state: Any) -> None:
        _require_numbers(state[2])
        super().__setstate__(state)


class _ArrayType:
    """Stands for the class numpy.ndarray, which is only ever named."""


def _require_numbers(dtype: Any) -> None:
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"an array of {dtype}, which are no numbers")


def _empty_array(kind: Any, shape: Any, dtype: Any) -> _Array:
    return _Array(0, np.int8)


def _scalar(dtype: Any, raw: Any = b"") -> np.ndarray[Any, Any]:
    _require_numbers(dtype)
    return np.frombuffer(bytes(raw), dtype, 1)[0].reshape(())  # type: ignore[no-any-return]


def _dtype(name: Any, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    if not isinstance(name, str):
        raise pickle.UnpicklingError(f"a type of numbers made from {name!r}")
    return np.dtype(name)


def _jax_array(make: Any, args: Any, state: Any, facts: Any = None) -> Any:
    """A JAX array is pickled as the reduction of the numpy array with its values."""
    if make is not _empty_array:
        raise pickle.UnpicklingError("a JAX array in an unknown form")
    array = _empty_array(*args)
    array.__setstate__(state)
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_GLOBALS: Mapping[tuple[str, str], Any] = {
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _ArrayHeader,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    ("jax._src.device_array", "reconstruct_device_array"): _jax_array,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
}
"""All that such a file may name."""


class _Unpickler(pickle._Unpickler):
    """Plays the pickle with the table above and reads arrays where joblib put them, behind their headers."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        super().__init__(file, encoding="latin1")
        self._file, self._size_bytes = file, size_bytes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an archive of arrays")
        return _GLOBALS[module, name]

    def load_build(self) -> None:
        target = self.stack[-2]  # type: ignore[attr-defined]
        if not isinstance(target, _ArrayHeader | _Array | np.dtype):
            raise pickle.UnpicklingError(f"it alters {type(target).__name__}")
        super().load_build()  # type: ignore[misc]
        if isinstance(target, _ArrayHeader):
            self.stack[-1] = target.read(self._file, self._size_bytes - self._file.tell())  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build


def read_tree(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive on the CPU; their names are the keys on the way to them, joined by "/".

    Raises:
        CheckpointError: truncated or damaged, no tree of arrays, or a pickle that names anything else (refused).
    """
    try:
        with path.open("rb") as raw:
            head = raw.read(6)
            unpack = next((found for start, found in _UNPACKERS.items() if head.startswith(start)), None)
            raw.seek(0)
            file: Any = raw if unpack is None else io.BytesIO(unpack(raw.read()))
            size_bytes = path.stat().st_size if unpack is None else file.getbuffer().nbytes
            content = _Unpickler(file, size_bytes).load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused or damaged: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path}: damaged archive ({type(error).__name__}: {error}); get it again") from error
    tensors: dict[str, Tensor] = {}
    _flatten(content, "", tensors, path)
    if not tensors:
        raise CheckpointError(f"{path}: expected a tree of arrays, found {type(content).__name__}")
    return tensors


def _flatten(value: Any, place: str, tensors: dict[str, Tensor], path: Path) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{place}/{key}" if place else str(key), tensors, path)
    elif isinstance(value, np.ndarray) and place:
        array = value.view(np.ndarray)
        native = array.astype(array.dtype.newbyteorder("="), order="C", copy=not array.flags.writeable)
        tensors[place] = torch.from_numpy(native)
    else:
        raise CheckpointError(f"{path}: {place or 'the whole'} is {type(value).__name__}, expected arrays")


def write_tree(tensors: Mapping[str, Tensor], path: Path) -> None:
    """The archive that `read_tree` and the JAX code bases read; the last part of a name is the parameter's."""
    import joblib  # type: ignore[import-untyped]

    tree: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition("/")
        tree.setdefault(module, {})[parameter] = tensor.detach().float().numpy()
    joblib.dump(tree, path)
