"""Rows of numbers that arrive in any order and survive the process: the memory of a resumable run."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import InputError
from chargaff.io.atomic import claim, output_errors, write_atomically

SYNC_INTERVAL_S = 5.0


class RowStore:
    """A float32 table [rows, width] in a folder, and the list of the batches whose rows are safely in it.

    Rows are written by position, so that writing a batch again changes nothing. A batch counts as done only after
    its rows have reached the disk: a killed process loses at most the work of `SYNC_INTERVAL_S` seconds. Use it in a
    with-block; meanwhile no other process can open the folder.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, key: str, num_rows: int, width: int, resume: bool = True
    ) -> None:
        """Describes the table; the with-block opens it.

        Args:
            folder: made if it is not there.
            key: identifies what the rows are computed from; rows of another key are discarded.
            resume: keep the rows of the same key.
        """
        self.folder = Path(folder)
        self.shape = (num_rows, width)
        self.done: set[int] = set()
        """Numbers of the batches that need not be computed again."""
        self._key, self._resume = key, resume
        self._recorded_bytes = 0
        self._unsafe: list[int] = []
        self._synced_at = time.monotonic()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RowStore:
        """Opens the folder.

        Raises:
            InputError: another process has it open, the disk has no room for the table, or it cannot be written.
        """
        with contextlib.ExitStack() as stack, output_errors(self.folder):
            stack.enter_context(claim(self.folder))
            self.folder.mkdir(exist_ok=True)
            self._rows = self._open("rows.f32", stack)
            self._journal = self._open("done.i64", stack)
            self._discard_others()
            self._require_room()
            recorded = os.pread(self._journal, os.fstat(self._journal).st_size, 0)
            self._recorded_bytes = len(recorded) // 8 * 8
            self.done.update(np.frombuffer(recorded[: self._recorded_bytes], "<i8").tolist())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack, contextlib.suppress(InputError) if error is not None else contextlib.nullcontext():
            self.sync()

    def write(self, batch: int, first_rows: Iterable[int], values: Iterable[NDArray[np.float32]]) -> None:
        """Stores the rows of one batch.

        Args:
            batch: its number.
            first_rows: where each piece begins.
            values: pieces [n, width].
        """
        with self._write_errors():
            for first, piece in zip(first_rows, values, strict=True):
                self._write_all(np.ascontiguousarray(piece, "<f4"), int(first) * self.shape[1] * 4)
        self._unsafe.append(batch)
        if time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Makes everything written so far safe, and records its batches as done."""
        if self._unsafe:
            with self._write_errors():
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
        """Deletes the folder: its rows have gone elsewhere."""
        self._unsafe = []
        shutil.rmtree(self.folder)

    def _open(self, name: str, stack: contextlib.ExitStack) -> int:
        handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, handle)
        return handle

    def _discard_others(self) -> None:
        """Empties the files if they belong to another key."""
        path = self.folder / "key"
        if self._resume and path.exists() and path.read_text() == self._key:
            return
        os.ftruncate(self._journal, 0)
        os.ftruncate(self._rows, 0)
        write_atomically(path, self._key)

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            remedy = "what was computed so far is kept there: make room and run the same command again"
            raise InputError(f"{self.folder}: cannot be written ({reason}); {remedy}") from error

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
