"""Writing result tables: `open_writer` takes rows in any order and publishes the finished file atomically."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from chargaff.errors import ConfigError
from chargaff.io.atomic import output_errors, publish
from chargaff.io.sinks import Column, Ints, NpySink, ParquetSink, Rows, Sink, TextSink, ZarrSink

__all__ = ["Column", "Writer", "open_writer"]

Format = Literal["parquet", "npy", "zarr", "tsv", "bed"]

_ENDINGS: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".npy": "npy",
    ".zarr": "zarr",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".bed": "bed",
}
_QUEUED_WRITES = 8


def open_writer(
    path: str | os.PathLike[str],
    schema: Sequence[Column],
    *,
    metadata: Mapping[str, Any] | None = None,
    num_rows: int | None = None,
    format: Format | None = None,
    overwrite: bool = False,
    background: bool = False,
) -> "Writer":
    """A writer for a table whose rows may arrive in any order; use it in a with-block.

    The file (a folder, for zarr) appears under its name when the block ends without an error; otherwise nothing
    remains. Parquet, TSV and BED hold rows that arrive early in memory until the rows before them have come; npy and
    zarr put them in place.

    Args:
        path: destination; its ending tells the format: .parquet, .npy, .zarr, .tsv or .bed (the last two also .gz).
        schema: the columns. npy holds one array column; the others go to the .json beside it.
        metadata: provenance, JSON values by name: schema metadata in Parquet, group attributes in zarr, the .json
            beside npy, `# name: value` lines in TSV and BED.
        num_rows: how many rows will come, if known; a difference at the end is an error, and npy reserves the space.
        format: if the ending does not tell.
        overwrite: replace an existing file.
        background: write on a thread; arrays given to `write` must not change afterwards.

    Raises:
        ConfigError: unknown ending, or columns the format cannot hold.
        InputError: the destination exists, is being written by another process, or cannot be written (full disk).
    """
    return Writer(Path(path), schema, metadata or {}, num_rows, format or output_format(path), overwrite, background)


def output_format(path: str | os.PathLike[str]) -> Format:
    """The format a destination's ending stands for."""
    name = os.fspath(path)
    plain = Path(name.removesuffix(".gz"))
    found = _ENDINGS.get(plain.suffix.lower())
    if found is None or (name.endswith(".gz") and found not in ("tsv", "bed")):
        known = ", ".join(_ENDINGS)
        raise ConfigError(
            f"output {name}: cannot tell the format from the ending; expected one of {known}, .tsv.gz, .bed.gz"
        )
    return found


class Writer:
    """Takes the rows of one output; made by `open_writer`."""

    def __init__(
        self,
        path: Path,
        schema: Sequence[Column],
        metadata: Mapping[str, Any],
        num_rows: int | None,
        format: Format,
        overwrite: bool,
        background: bool,
    ) -> None:
        if len({column.name for column in schema}) != len(schema) or not schema:
            raise ConfigError(
                f"output {path}: the columns need different names, got {[column.name for column in schema]}"
            )
        self.path = path
        self._schema = schema
        self._expected = num_rows
        self._seen = np.zeros(num_rows or 1024, np.bool_)
        self._num_rows = 0
        self._stack = contextlib.ExitStack()
        part = self._stack.enter_context(publish(path, overwrite=overwrite))
        try:
            with output_errors(path):
                self._sink = _make_sink(format, part, path, schema, metadata)
                if num_rows is not None and isinstance(self._sink, NpySink):
                    self._sink.reserve(num_rows)
            self._thread = _Background(self._put) if background else None
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def write(self, index: npt.ArrayLike, columns: Mapping[str, Any]) -> None:
        """Add rows.

        Args:
            index: [n] row numbers from 0, each written once.
            columns: [n, *shape] values of every column.
        """
        numbers = np.atleast_1d(np.asarray(index, np.int64))
        if set(columns) != {column.name for column in self._schema}:
            raise ValueError(f"expected the columns {[c.name for c in self._schema]}, got {sorted(columns)}")
        rows = {column.name: column.array(columns[column.name]) for column in self._schema}
        for name, values in rows.items():
            if len(values) != numbers.size:
                raise ValueError(f"column {name!r} has {len(values)} rows for {numbers.size} row numbers")
        self._mark(numbers)
        if self._thread is None:
            self._put(numbers, rows)
        else:
            self._thread.put(numbers, rows)

    def close(self) -> None:
        """Write what is held, make sure no row is missing, and publish."""
        try:
            if self._thread is not None:
                self._thread.finish()
            missing = np.flatnonzero(~self._seen[: self._expected if self._expected is not None else self._last + 1])
            if missing.size:
                raise ValueError(f"{self.path}: {missing.size} rows were never written, the first is row {missing[0]}")
            with output_errors(self.path):
                self._sink.finish(self._num_rows)
        except BaseException as error:
            self._abort(error)
            raise
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._abort(error)

    @property
    def _last(self) -> int:
        seen = np.flatnonzero(self._seen)
        return int(seen[-1]) if seen.size else -1

    def _mark(self, numbers: Ints) -> None:
        if numbers.size == 0:
            return
        top = int(numbers.max()) + 1
        if numbers.min() < 0 or (self._expected is not None and top > self._expected):
            raise ValueError(f"row numbers must be 0 to {self._expected}, got {numbers.min()} to {top - 1}")
        if top > self._seen.size:
            self._seen = np.concatenate(
                [self._seen, np.zeros(max(top, 2 * self._seen.size) - self._seen.size, np.bool_)]
            )
        is_rising = (np.diff(numbers) > 0).all()
        if self._seen[numbers].any() or not (is_rising or np.unique(numbers).size == numbers.size):
            raise ValueError("a row was written twice")
        self._seen[numbers] = True
        self._num_rows += numbers.size

    def _put(self, numbers: Ints, rows: Rows) -> None:
        with output_errors(self.path):
            self._sink.put(numbers, rows)

    def _abort(self, error: BaseException) -> None:
        if self._thread is not None:
            self._thread.stop()
        try:
            with contextlib.suppress(OSError):  # the output is deleted: that it cannot be closed says nothing new
                self._sink.abort()
        finally:
            self._stack.__exit__(type(error), error, error.__traceback__)


class _Background:
    """Runs writes on one thread in order; a failure is raised by the next call."""

    def __init__(self, run: Callable[[Ints, Rows], None]) -> None:
        self._run = run
        self._queue: queue.Queue[tuple[Ints, Rows] | None] = queue.Queue(_QUEUED_WRITES)
        self._failure: BaseException | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._loop, name="chargaff-writer", daemon=True)
        self._thread.start()

    def put(self, numbers: Ints, rows: Rows) -> None:
        self._raise_failure()
        self._queue.put((numbers, rows))

    def finish(self) -> None:
        """Wait for all writes."""
        self._queue.put(None)
        self._thread.join()
        self._raise_failure()

    def stop(self) -> None:
        """Drop what is waiting and end the thread."""
        self._is_stopping = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is None and not self._is_stopping:
                try:
                    self._run(*item)
                except BaseException as error:  # handed to the caller's thread
                    self._failure = error


def _make_sink(format: Format, part: Path, path: Path, schema: Sequence[Column], metadata: Mapping[str, Any]) -> Sink:
    if format == "parquet":
        return ParquetSink(part, schema, metadata)
    if format == "npy":
        return NpySink(part, schema, metadata, Path(f"{path}.json"))
    if format == "zarr":
        return ZarrSink(part, schema, metadata)
    return TextSink(part, schema, metadata, is_gzip=path.suffix == ".gz", is_bed=format == "bed")
