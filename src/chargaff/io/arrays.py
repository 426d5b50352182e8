"""Arrays on disk that are written once and mapped afterwards."""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from chargaff.io.atomic import write_atomically


def write_array(path: str | os.PathLike[str], values: npt.NDArray[Any]) -> None:
    """A .npy file, whole or not at all."""
    stream = BytesIO()
    np.save(stream, values)
    write_atomically(path, stream.getbuffer())


def map_array(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """The array of a .npy file; what is looked at is read, the rest stays on disk."""
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
