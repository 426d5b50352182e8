"""The output formats behind `open_writer`: each takes rows by number and knows how to lay them out."""

import gzip
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chargaff.errors import ConfigError, InputError
from chargaff.io.atomic import write_atomically

Rows = Mapping[str, npt.NDArray[Any]]
Ints = npt.NDArray[np.int64]
Metadata = Mapping[str, Any]

_ROW_GROUP_BYTES = 1 << 25
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an output."""

    name: str
    """Unique among the columns."""
    dtype: str
    """Name of a numpy number type ("float32", "int64", "bool"), or "text"."""
    shape: tuple[int, ...] = ()
    """Shape of one row's value; () for a single number or text."""

    def array(self, values: Any) -> npt.NDArray[Any]:
        """[n, *shape] in this column's type; text becomes an object array."""
        array = np.asarray(values, dtype=object if self.dtype == "text" else self.dtype)
        if array.shape[1:] != self.shape:
            raise ValueError(f"column {self.name!r}: expected rows of shape {self.shape}, got {array.shape[1:]}")
        return array

    @property
    def row_bytes(self) -> int:
        """Size of one row's value; a guess for text."""
        return 32 if self.dtype == "text" else np.dtype(self.dtype).itemsize * int(np.prod(self.shape))


class Sink(Protocol):
    """An output being built at a private path. Every row number is put once; any order."""

    def put(self, index: Ints, rows: Rows) -> None:
        """Take rows [n, ...] with numbers [n]."""
        ...

    def finish(self, num_rows: int) -> None:
        """Complete the output; all rows below `num_rows` have been put."""
        ...

    def abort(self) -> None:
        """Release what is open; the output will be deleted."""
        ...


@dataclass(slots=True)
class InOrder:
    """Hands rows on in blocks of ascending, gapless numbers; holds those that came early."""

    schema: Sequence[Column]
    take: Callable[[Rows], None]
    next_row: int = 0
    early: dict[int, tuple[Rows, int]] = field(default_factory=dict)

    def put(self, index: Ints, rows: Rows) -> None:
        if index.size and index[0] == self.next_row and (np.diff(index) == 1).all() and not self.early:
            self.take(rows)
            self.next_row += index.size
            return
        self.early.update((number, (rows, i)) for i, number in enumerate(index.tolist()))
        ready = []
        while (item := self.early.pop(self.next_row, None)) is not None:
            ready.append(item)
            self.next_row += 1
        if ready:
            self.take({c.name: c.array([rows[c.name][i] for rows, i in ready]) for c in self.schema})


class ParquetSink:
    """A Parquet file; vectors are fixed-size lists, metadata lies in the schema's key-value pairs."""

    def __init__(self, part: Path, schema: Sequence[Column], metadata: Metadata) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for column in schema:
            if len(column.shape) > 1:
                raise ConfigError(f"Parquet output: column {column.name!r} has shape {column.shape}; use zarr for that")
        pairs = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        self._columns = schema
        self._schema = pa.schema([(column.name, _arrow_type(column)) for column in schema], metadata=pairs)
        self._file = part.open("wb")
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd", write_page_checksum=True)
        self._order = InOrder(schema, self._take)
        self._held: list[Any] = []
        self._held_bytes = 0
        self.put = self._order.put

    def finish(self, num_rows: int) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def abort(self) -> None:
        self._writer.close()
        self._file.close()

    def _take(self, rows: Rows) -> None:
        import pyarrow as pa

        arrays = []
        for column, kind in zip(self._columns, self._schema.types, strict=True):
            if column.shape:
                flat = pa.array(rows[column.name].reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
            else:
                arrays.append(pa.array(rows[column.name], kind))
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held).combine_chunks())
        self._held, self._held_bytes = [], 0


class NpySink:
    """A .npy file of the one array column, rows written where they belong.

    Beside it, `<name>.npy.json` holds the metadata and the other columns, such as names.
    """

    def __init__(self, part: Path, schema: Sequence[Column], metadata: Metadata, sidecar: Path) -> None:
        arrays = [column for column in schema if column.shape] or [c for c in schema if c.dtype != "text"]
        if len(arrays) != 1:
            names = ", ".join(column.name for column in arrays) or "none"
            raise ConfigError(
                f"npy output: holds one array, the columns have {len(arrays)} ({names}); use Parquet or zarr"
            )
        self._column = arrays[0]
        self._others = [column for column in schema if column is not self._column]
        self._values: dict[str, dict[int, Any]] = {column.name: {} for column in self._others}
        self._metadata, self._sidecar = metadata, sidecar
        self._data_start = len(self._header(0))
        self._handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def reserve(self, num_rows: int) -> None:
        """Claim the disk space of that many rows now."""
        size = self._data_start + num_rows * self._column.row_bytes
        if size:
            os.posix_fallocate(self._handle, 0, size)

    def put(self, index: Ints, rows: Rows) -> None:
        data = np.ascontiguousarray(rows[self._column.name])
        breaks = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), index.size]
        for begin, end in itertools.pairwise(breaks):
            if end > begin:
                _write_all(self._handle, data[begin:end], self._data_start + int(index[begin]) * self._column.row_bytes)
        for column in self._others:
            self._values[column.name].update(zip(index.tolist(), rows[column.name].tolist(), strict=True))

    def finish(self, num_rows: int) -> None:
        _write_all(self._handle, np.frombuffer(self._header(num_rows), np.uint8), 0)
        os.ftruncate(self._handle, self._data_start + num_rows * self._column.row_bytes)
        os.close(self._handle)
        columns = {name: [values[i] for i in range(num_rows)] for name, values in self._values.items()}
        write_atomically(
            self._sidecar, json.dumps({"metadata": dict(self._metadata), "columns": columns}, indent=1) + "\n"
        )

    def abort(self) -> None:
        os.close(self._handle)

    def _header(self, num_rows: int) -> bytes:
        """The .npy header (format 1.0), padded to the same size for any number of rows."""
        shape = (num_rows, *self._column.shape)
        text = repr({"descr": np.dtype(self._column.dtype).str, "fortran_order": False, "shape": shape})
        length = -(-(len(repr(self._column.shape)) + 118) // 64) * 64
        return b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + text.encode().ljust(length - 11) + b"\n"


class ZarrSink:
    """A zarr (version 3) group with one array per column; metadata are the group's attributes.

    Rows are gathered into whole chunks before they are written, within a fixed memory budget.
    """

    def __init__(self, part: Path, schema: Sequence[Column], metadata: Metadata) -> None:
        import zarr

        self._group = zarr.open_group(part, mode="w", zarr_format=3, attributes=dict(metadata))
        widest = max(column.row_bytes for column in schema)
        self._chunk_rows = max(1, min(65536, _CHUNK_BYTES // max(1, widest)))
        self._columns = schema
        self._arrays = {
            column.name: self._group.create_array(
                column.name,
                shape=(0, *column.shape),
                chunks=(self._chunk_rows, *column.shape),
                dtype=str if column.dtype == "text" else column.dtype,
            )
            for column in schema
        }
        self._num_rows = 0
        self._open: dict[int, tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]] = {}
        self._budget_chunks = max(1, _BUFFER_BYTES // (self._chunk_rows * sum(column.row_bytes for column in schema)))

    def put(self, index: Ints, rows: Rows) -> None:
        chunk_of = index // self._chunk_rows
        for chunk in np.unique(chunk_of).tolist():
            chosen = np.flatnonzero(chunk_of == chunk)
            values, filled = self._open.setdefault(chunk, self._empty())
            place = index[chosen] - chunk * self._chunk_rows
            for column in self._columns:
                values[column.name][place] = rows[column.name][chosen]
            filled[place] = True
            if filled.all():
                self._flush(chunk)
        while len(self._open) > self._budget_chunks:
            self._flush(next(iter(self._open)))

    def finish(self, num_rows: int) -> None:
        for chunk in list(self._open):
            self._flush(chunk)
        for column in self._columns:
            self._arrays[column.name].resize((num_rows, *column.shape))

    def abort(self) -> None:
        self._open.clear()

    def _empty(self) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
        values = {
            c.name: c.array(np.full((self._chunk_rows, *c.shape), "" if c.dtype == "text" else 0))
            for c in self._columns
        }
        return values, np.zeros(self._chunk_rows, np.bool_)

    def _flush(self, chunk: int) -> None:
        values, filled = self._open.pop(chunk)
        begin, end = chunk * self._chunk_rows, (chunk + 1) * self._chunk_rows
        grown = end > self._num_rows
        self._num_rows = max(self._num_rows, end)
        for column in self._columns:
            array = self._arrays[column.name]
            if grown:
                array.resize((end, *column.shape))
            if not filled.all():
                values[column.name][~filled] = np.asarray(array[begin:end])[~filled]
            array[begin:end] = values[column.name].astype(str) if column.dtype == "text" else values[column.name]


class TextSink:
    """Tab-separated lines: metadata as `# key: value`, then (but not in BED) the column names; vectors take columns."""

    def __init__(
        self, part: Path, schema: Sequence[Column], metadata: Metadata, *, is_gzip: bool, is_bed: bool
    ) -> None:
        if is_bed:
            _require_bed(schema)
        raw = part.open("wb")
        self._files = [gzip.GzipFile("", "wb", fileobj=raw, mtime=0), raw] if is_gzip else [raw]
        self._columns = schema
        self._order = InOrder(schema, self._take)
        self.put = self._order.put
        lines = [f"# {key}: {_one_line(value)}\n" for key, value in metadata.items()]
        if not is_bed:
            lines.append("\t".join(name for column in schema for name in _flat_names(column)) + "\n")
        self._files[0].write("".join(lines).encode())

    def finish(self, num_rows: int) -> None:
        self.abort()

    def abort(self) -> None:
        for file in self._files:
            file.close()

    def _take(self, rows: Rows) -> None:
        cells: list[list[str]] = []
        for column in self._columns:
            values = rows[column.name]
            flat = values.reshape(len(values), -1)
            cells += flat.astype(str).T.tolist()
            if column.dtype == "text":
                _require_cells(cells[-1], column.name)
        self._files[0].write("".join("\t".join(row) + "\n" for row in zip(*cells, strict=True)).encode())


def _one_line(value: Any) -> str:
    """A metadata value in one line: text without line breaks as it is, anything else as JSON."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _arrow_type(column: Column) -> Any:
    import pyarrow as pa

    kind = pa.string() if column.dtype == "text" else pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(kind, column.shape[0]) if column.shape else kind


def _write_all(handle: int, data: npt.NDArray[Any], offset: int) -> None:
    view = memoryview(np.ascontiguousarray(data).data).cast("B")
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _flat_names(column: Column) -> list[str]:
    if not column.shape:
        return [column.name]
    return [f"{column.name}_{'_'.join(map(str, place))}" for place in np.ndindex(*column.shape)]


def _require_bed(schema: Sequence[Column]) -> None:
    names = [column.name for column in schema]
    if names[:3] != ["contig", "start", "end"] or any(column.shape for column in schema):
        raise ConfigError(
            f"BED output: the columns must be contig, start, end and single values, got {', '.join(names)}"
        )


def _require_cells(texts: Sequence[str], column: str) -> None:
    for text in texts:
        if "\t" in text or "\n" in text or "\r" in text:
            raise InputError(f"column {column!r}: {text!r} holds a tab or line break, which TSV cannot; use Parquet")
