"""Writing attention maps: one [maps, T, T] array a window, whose T differ."""

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import ConfigError
from chargaff.io.atomic import output_errors, publish

FORMATS = (".zarr", ".npz", ".npy")


@dataclass(frozen=True, slots=True)
class WindowMaps:
    """The maps of one window of a record."""

    id: str
    """Name of the record."""
    start_bp: int
    """Where the window begins in it."""
    tokens: tuple[str, ...]
    """[T], special ones included."""
    span_bp: NDArray[np.int64]
    """[T, 2] bases of the record that each token covers: start, end (exclusive)."""
    maps: NDArray[np.float32]
    """[P, T, T] probabilities (map, query, key)."""


def check_maps_output(path: Path, num_windows: int) -> None:
    """Raises what can be known to go wrong before anything is computed."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"attention-output {path}: expected an ending of {', '.join(FORMATS)}")
    if path.suffix == ".npy" and num_windows != 1:
        raise ConfigError(
            f"attention-output {path}: .npy holds the maps of one window, there are {num_windows:,}; use .npz or .zarr"
        )


def write_maps(
    path: Path,
    windows: Iterable[WindowMaps],
    pairs: NDArray[np.int64],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """The maps of windows, one after another.

    zarr: a group with `maps/<i>`, `tokens/<i>` and `span_bp/<i>` for window i, and the arrays `id`, `start_bp` [W] and
    `layer_head` [P, 2]; metadata in its attributes. npz: the same names, and `metadata` as JSON text. npy: the maps of
    the only window.

    Raises:
        InputError: the output exists or cannot be written.
    """
    with publish(path, overwrite=overwrite) as part, output_errors(path):
        if path.suffix == ".npy":
            (only,) = windows
            with part.open("wb") as file:
                np.lib.format.write_array(file, only.maps)
        elif path.suffix == ".npz":
            _write_npz(part, windows, pairs, metadata)
        else:
            _write_zarr(part, windows, pairs, metadata)


def _write_npz(
    part: Path, windows: Iterable[WindowMaps], pairs: NDArray[np.int64], metadata: Mapping[str, Any]
) -> None:
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, values: Any) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(values), allow_pickle=False)

        ids, starts = [], []
        for number, window in enumerate(windows):
            ids.append(window.id)
            starts.append(window.start_bp)
            put(f"maps/{number}", window.maps)
            put(f"tokens/{number}", window.tokens)
            put(f"span_bp/{number}", window.span_bp)
        put("id", ids)
        put("start_bp", np.array(starts, np.int64))
        put("layer_head", pairs)
        put("metadata", json.dumps(dict(metadata)))


def _write_zarr(
    part: Path, windows: Iterable[WindowMaps], pairs: NDArray[np.int64], metadata: Mapping[str, Any]
) -> None:
    import zarr

    text = np.dtypes.StringDType()
    group = zarr.open_group(part, mode="w", attributes=dict(metadata))
    ids, starts = [], []
    for number, window in enumerate(windows):
        ids.append(window.id)
        starts.append(window.start_bp)
        group.create_array(f"maps/{number}", data=window.maps)
        group.create_array(f"tokens/{number}", data=np.array(window.tokens, dtype=text))
        group.create_array(f"span_bp/{number}", data=window.span_bp)
    group.create_array("id", data=np.array(ids, dtype=text))
    group.create_array("start_bp", data=np.array(starts, np.int64))
    group.create_array("layer_head", data=pairs)
