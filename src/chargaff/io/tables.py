"""Columns of CSV, TSV, Parquet and JSON-lines files, whole or in batches."""

import difflib
import itertools
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chargaff.errors import InputError
from chargaff.io.streams import open_input, source_name, user_file_errors

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["csv", "tsv", "parquet", "jsonl"]
ColumnType = Literal["text", "integer", "number", "truth"]

_SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_BLOCK_BYTES = 1 << 25  # also the longest row of a CSV or TSV file
_BATCH_ROWS = 8192


def table_format(path: str | os.PathLike[str]) -> Format:
    """The format a file name stands for; .gz and .bgz are looked through."""
    name = Path(path)
    if name.suffix.lower() in (".gz", ".bgz"):
        name = name.with_suffix("")
    found = _SUFFIXES.get(name.suffix.lower())
    if found is None:
        known = ", ".join(_SUFFIXES)
        raise InputError(
            f"{source_name(path)}: cannot tell the table format from the name; expected one of {known} (or .gz)"
        )
    return found


def read_table(
    path: str | os.PathLike[str],
    columns: Collection[str] | None = None,
    *,
    types: Mapping[str, ColumnType] | None = None,
    names: Sequence[str] | None = None,
    format: Format | None = None,
) -> "pa.Table":
    """The table as one pyarrow Table; arguments and errors as `iter_table`."""
    import pyarrow as pa

    with _table_errors(path):
        return pa.Table.from_batches(iter_table(path, columns, types=types, names=names, format=format))


def iter_table(
    path: str | os.PathLike[str],
    columns: Collection[str] | None = None,
    *,
    types: Mapping[str, ColumnType] | None = None,
    names: Sequence[str] | None = None,
    format: Format | None = None,
) -> "Iterator[pa.RecordBatch]":
    """Batches of a table in file order; at least one, empty if the table has no rows.

    Args:
        path: file, or '-' for standard input (then `format` is needed). CSV, TSV and JSON lines may be compressed.
        columns: the ones to read, in this order; all by default.
        types: column -> type; a name that is no column does not matter. Columns of sequences or names belong here as
            "text": without it a CSV column of digits becomes numbers. A type that is not given is the file's own, or
            guessed from the first batch.
        names: column names of a CSV or TSV file without a header line.
        format: if the name does not tell.

    Raises:
        InputError: missing column (naming the nearest), malformed row (with its number), empty or truncated file.
    """
    with _open_table(path, columns, types or {}, names, format) as (available, batches):
        _require_columns(path, available, columns or ())
        wanted = list(columns) if columns is not None else list(available)
        for batch in batches:
            yield _typed(batch.select(wanted), types or {})


def column_names(path: str | os.PathLike[str], *, format: Format | None = None) -> tuple[str, ...]:
    """Names of a table's columns, in file order."""
    with _open_table(path, None, {}, None, format) as (available, _):
        return tuple(available)


def _typed(batch: "pa.RecordBatch", types: Mapping[str, ColumnType]) -> "pa.RecordBatch":
    """The batch with the stated types, after a look at every value (a damaged file can hold text that is none)."""
    import pyarrow as pa

    batch.validate(full=True)
    fields = (
        field.with_type(_arrow_type(types[field.name])) if field.name in types else field for field in batch.schema
    )
    return batch.cast(pa.schema(list(fields)))


@contextmanager
def _open_table(
    path: str | os.PathLike[str],
    columns: Collection[str] | None,
    types: Mapping[str, ColumnType],
    names: Sequence[str] | None,
    format: Format | None,
) -> "Iterator[Opened]":
    """Column names and batches of a table."""
    format = format or table_format(path)
    if names is not None and format not in ("csv", "tsv"):
        raise InputError(
            f"{source_name(path)}: names can be given to the columns of csv and tsv files, this is {format}"
        )
    with _table_errors(path):
        if format == "parquet":
            opened = _open_parquet(path, columns)
        elif format == "jsonl":
            opened = _open_jsonl(path, types)
        else:
            opened = _open_delimited(path, "," if format == "csv" else "\t", types, names)
        with opened as (available, batches):
            yield available, batches


def _require_columns(path: str | os.PathLike[str], available: Sequence[str], wanted: Collection[str]) -> None:
    repeated = next((name for name in available if list(available).count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{source_name(path)}: two columns are called {repeated!r}; names must be unique")
    for name in wanted:
        if name not in available:
            near = difflib.get_close_matches(name, available, n=1) or [
                c for c in available if c.lower() == name.lower()
            ]
            hint = f"; did you mean {near[0]!r}?" if near else ""
            listed = ", ".join(map(repr, available))
            raise InputError(f"{source_name(path)}: no column {name!r}{hint} (columns: {listed})")


Opened = tuple[Sequence[str], "Iterator[pa.RecordBatch]"]


@contextmanager
def _open_delimited(
    path: str | os.PathLike[str], delimiter: str, types: Mapping[str, ColumnType], names: Sequence[str] | None
) -> Iterator[Opened]:
    import pyarrow.csv as pc

    with open_input(path) as stream:
        reader = pc.open_csv(
            stream,
            read_options=pc.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=names),
            parse_options=pc.ParseOptions(delimiter=delimiter),
            convert_options=pc.ConvertOptions(column_types={k: _arrow_type(t) for k, t in types.items()}),
        )
        with reader:
            yield reader.schema.names, _or_empty(reader, reader.schema)


@contextmanager
def _open_parquet(path: str | os.PathLike[str], columns: Collection[str] | None) -> Iterator[Opened]:
    import pyarrow.parquet as pq

    with user_file_errors(path), Path(path).open("rb") as handle:
        file = pq.ParquetFile(handle, page_checksum_verification=True)
        available = file.schema_arrow.names
        wanted = None if columns is None else [name for name in columns if name in available]
        yield available, _or_empty(file.iter_batches(columns=wanted), file.schema_arrow)


def _or_empty(batches: "Iterable[pa.RecordBatch]", schema: "pa.Schema") -> "Iterator[pa.RecordBatch]":
    """The batches, or one without rows."""
    import pyarrow as pa

    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        yield pa.RecordBatch.from_pylist([], schema)


@contextmanager
def _open_jsonl(path: str | os.PathLike[str], types: Mapping[str, ColumnType]) -> Iterator[Opened]:
    with open_input(path) as stream:
        objects = _objects(stream, source_name(path))
        first = list(itertools.islice(objects, _BATCH_ROWS))
        if not first:
            raise InputError(f"{source_name(path)}: the file holds only blank lines")
        names = list(dict.fromkeys(name for _, row in first for name in row))
        yield names, _object_batches(first, objects, names, types, source_name(path))


def _objects(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank."""
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            raise InputError(f"{name}:{number}: is no JSON object") from None
        if not isinstance(value, dict):
            raise InputError(f"{name}:{number}: expected one JSON object a line, found {type(value).__name__}")
        yield number, value


def _object_batches(
    rows: list[tuple[int, dict[str, Any]]],
    following: Iterator[tuple[int, dict[str, Any]]],
    names: Sequence[str],
    types: Mapping[str, ColumnType],
    name: str,
) -> "Iterator[pa.RecordBatch]":
    """Batches with the columns of the first one, and the types it was found to have."""
    import pyarrow as pa

    fixed = {column: _arrow_type(types[column]) if column in types else None for column in names}
    while rows:
        columns = []
        for column in names:
            cells = [(line, row.get(column)) for line, row in rows]
            if types.get(column) == "text":
                cells = [(line, _text(value)) for line, value in cells]
            array = _column(cells, fixed[column], f"column {column!r}", name)
            fixed[column] = fixed[column] or (None if array.type == pa.null() else array.type)
            columns.append(array)
        yield pa.RecordBatch.from_arrays(columns, names=list(names))
        rows = list(itertools.islice(following, _BATCH_ROWS))


def _text(value: Any) -> str | None:
    """A JSON value as text: strings as they are, numbers as they are written."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _column(cells: list[tuple[int, Any]], kind: "pa.DataType | None", what: str, name: str) -> "pa.Array":
    import pyarrow as pa

    try:
        return pa.array([value for _, value in cells], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        pass
    kind = kind or pa.array([next(value for _, value in cells if value is not None)]).type
    for line, value in cells:
        try:
            pa.array([value], kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            raise InputError(f"{name}:{line}: {what} holds {value!r}, expected {kind}") from None
    raise InputError(f"{name}:{cells[0][0]}: {what} mixes kinds of values in the lines that follow")


def _arrow_type(kind: ColumnType) -> "pa.DataType":
    import pyarrow as pa

    return {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "truth": pa.bool_()}[kind]


@contextmanager
def _table_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """pyarrow's errors of the block become InputErrors of one line that name the file and, if known, the line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        text = re.sub(r"\s+", " ", str(error)).strip()
        row = re.search(r"Row #(\d+): ", text)
        place = f"{source_name(path)}:{row[1]}" if row else source_name(path)
        raise InputError(f"{place}: {text.replace(row[0], '') if row else text}") from None
