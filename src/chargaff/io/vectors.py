"""Reading back what `chargaff embed` has written: names and one vector each, from Parquet, npy or zarr."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.streams import user_file_errors
from chargaff.io.tables import column_names, read_table

_VECTOR = "embedding"


def read_vectors(path: Path) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """(ids [n], vectors [n, D]) of a file with one vector a record.

    Args:
        path: .parquet (or another table with list values), .npy with its .json beside it, or .zarr.

    Raises:
        InputError: the file is missing or damaged, or holds no ids and vectors of one length.
    """
    suffix = path.suffix.lower()
    ids, vectors = _from_zarr(path) if suffix == ".zarr" else _from_npy(path) if suffix == ".npy" else _from_table(path)
    values = np.asarray(vectors)
    if values.ndim != 2 or len(values) != len(ids) or not np.issubdtype(values.dtype, np.number):
        raise InputError(f"{path}: expected one vector for each of {len(ids):,} ids, found shape {values.shape}")
    return tuple(map(str, ids)), values.astype(np.float64)


def _from_table(path: Path) -> tuple[list[Any], npt.NDArray[Any]]:
    available = column_names(path)
    if not {"id", _VECTOR} <= set(available):
        found = ", ".join(available[:8])
        raise InputError(f"{path}: no columns 'id' and {_VECTOR!r}, as `chargaff embed` writes them (columns: {found})")
    table = read_table(path, ["id", _VECTOR])
    values = table[_VECTOR].to_pylist()
    if len({len(value) if isinstance(value, list) else -1 for value in values}) > 1:
        raise InputError(f"{path}: the vectors of column {_VECTOR!r} differ in length")
    return table["id"].to_pylist(), np.array(values)


def _from_npy(path: Path) -> tuple[list[Any], npt.NDArray[Any]]:
    sidecar = Path(f"{path}.json")
    with user_file_errors(sidecar):
        text = sidecar.read_text(encoding="utf-8")
    try:
        ids = json.loads(text)["columns"]["id"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{sidecar}: does not hold the ids of {path.name}") from None
    with user_file_errors(path):
        try:
            return ids, np.load(path, allow_pickle=False)
        except ValueError as error:
            raise InputError(f"{path}: is no npy file ({error})") from None


def _from_zarr(path: Path) -> tuple[list[Any], npt.NDArray[Any]]:
    import zarr

    if not path.is_dir():
        raise InputError(f"{path}: no such zarr group")
    group: Any = zarr.open_group(path, mode="r")
    if "offset_bp" in group:
        raise InputError(f"{path}: holds one vector a base; embed with a pooling that gives one a record")
    if not {"id", _VECTOR} <= set(group.array_keys()):
        raise InputError(f"{path}: no arrays 'id' and {_VECTOR!r}, as `chargaff embed` writes them")
    return list(group["id"][:]), group[_VECTOR][:]
