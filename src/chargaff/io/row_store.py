"""Rows of numbers that arrive in any order and survive the process: the memory of a resumable run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import InputError
from chargaff.io.atomic import output_errors

SYNC_INTERVAL_S = 5.0


class RowStore:
    """A float32 table [rows, width] in a folder, and the list of the batches whose rows are safely in it.

    Rows are written by position, so that writing a batch again changes nothing. A batch counts as done only after
    its rows have reached the disk: a killed process loses at most the work of `SYNC_INTERVAL_S` seconds.
    """

    def __init__(self, folder: str | os.PathLike[str], *, num_rows: int, width: int) -> None:
        """Opens the folder, or makes it.

        Raises:
            InputError: the disk has no room for the table, or the folder cannot be written.
        """
        self.folder = Path(folder)
        self.shape = (num_rows, width)
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._rows = os.open(self.folder / "rows.f32", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._journal = os.open(self.folder / "done.i64", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._require_room()
        recorded = os.pread(self._journal, os.fstat(self._journal).st_size, 0)
        self.done: set[int] = set(np.frombuffer(recorded[: len(recorded) // 8 * 8], "<i8").tolist())
        """Numbers of the batches that need not be computed again."""
        self._recorded_bytes = len(recorded) // 8 * 8
        self._unsafe: list[int] = []
        self._synced_at = time.monotonic()

    def __enter__(self) -> RowStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
        finally:
            os.close(self._rows)
            os.close(self._journal)

    def write(self, batch: int, first_rows: Iterable[int], values: Iterable[NDArray[np.float32]]) -> None:
        """Stores the rows of one batch.

        Args:
            batch: its number.
            first_rows: where each piece begins.
            values: pieces [n, width].
        """
        with output_errors(self.folder):
            for first, piece in zip(first_rows, values, strict=True):
                self._write_all(np.ascontiguousarray(piece, "<f4"), int(first) * self.shape[1] * 4)
        self._unsafe.append(batch)
        if time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Makes everything written so far safe, and records its batches as done."""
        if self._unsafe:
            with output_errors(self.folder):
                os.fsync(self._rows)
                entry = np.array(self._unsafe, "<i8").tobytes()
                os.pwrite(self._journal, entry, self._recorded_bytes)
                os.fsync(self._journal)
            self._recorded_bytes += len(entry)
            self.done.update(self._unsafe)
            self._unsafe = []
        self._synced_at = time.monotonic()

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """[stop - first, width] rows; whatever was never written reads as zero."""
        row_bytes = self.shape[1] * 4
        found = np.zeros((stop - first, self.shape[1]), "<f4")
        view, at = found.data.cast("B") if found.size else memoryview(b""), first * row_bytes
        while view and (count := os.preadv(self._rows, [view], at)):
            view, at = view[count:], at + count
        return found

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder)

    def _write_all(self, piece: NDArray[Any], at: int) -> None:
        view = piece.data.cast("B") if piece.size else memoryview(b"")
        while view:
            count = os.pwrite(self._rows, view, at)
            view, at = view[count:], at + count

    def _require_room(self) -> None:
        needed = self.shape[0] * self.shape[1] * 4 - os.fstat(self._rows).st_blocks * 512
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            remedy = "free some space or choose a path on another disk"
            raise InputError(f"{self.folder}: {needed:,} bytes are needed here and {free:,} are free; {remedy}")
