"""Outputs: rows in any order come out in order, provenance is inside, and nothing incomplete is ever visible."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from chargaff.errors import ConfigError, InputError
from chargaff.io import sinks
from chargaff.io.writers import Column, open_writer, output_format

SCHEMA = (Column("id", "text"), Column("n", "int64"), Column("vector", "float32", (3,)))
METADATA = {"checkpoint": "caduceus-ps", "options": {"pool": "mean", "layer": None}, "lines": "a\nb"}
ENDINGS = (".parquet", ".npy", ".zarr", ".tsv", ".tsv.gz")


def make_rows(num_rows: int) -> dict[str, np.ndarray]:
    vectors = np.random.default_rng(num_rows).normal(size=(num_rows, 3)).astype(np.float32)
    return {
        "id": np.array([f"r{i} é" for i in range(num_rows)], object),
        "n": np.arange(num_rows) * 7,
        "vector": vectors,
    }


def write_rows(path: Path, rows: dict[str, np.ndarray], batches: list[np.ndarray], **options: object) -> None:
    with open_writer(path, SCHEMA, metadata=METADATA, **options) as writer:
        for batch in batches:
            writer.write(batch, {name: values[batch] for name, values in rows.items()})


def read_rows(path: Path) -> tuple[dict[str, list], dict[str, str]]:
    """(columns, metadata), read by other libraries."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        return table.to_pydict(), {**metadata, "options": json.loads(metadata["options"])}
    if path.suffix == ".npy":
        sidecar = json.loads(Path(f"{path}.json").read_text())
        return {**sidecar["columns"], "vector": np.load(path).tolist()}, sidecar["metadata"]
    if path.suffix == ".zarr":
        group = zarr.open_group(path, mode="r")
        return {name: group[name][:].tolist() for name in ("id", "n", "vector")}, dict(group.attrs)
    lines = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8").read().splitlines()
    pairs = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    header, *cells = (line.split("\t") for line in lines if not line.startswith("# "))
    assert header == ["id", "n", "vector_0", "vector_1", "vector_2"]
    vectors = np.array([row[2:] for row in cells], np.float32).reshape(-1, 3).tolist()
    columns = {"id": [row[0] for row in cells], "n": [int(row[1]) for row in cells], "vector": vectors}
    return columns, {**pairs, "options": json.loads(pairs["options"]), "lines": json.loads(pairs["lines"])}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.randoms(use_true_random=False), st.sampled_from(ENDINGS), st.booleans(), st.booleans())
def test_rows_come_out_in_order_whatever_order_they_arrive_in(
    tmp_path_factory, num_rows, random, ending, thread, known
):
    path = tmp_path_factory.mktemp("out") / f"x{ending}"
    rows = make_rows(num_rows)
    order = list(range(num_rows))
    random.shuffle(order)
    cuts = sorted(random.choices(range(num_rows + 1), k=4))
    batches = np.split(np.array(order, np.int64), cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sinks, "_CHUNK_BYTES", 64)  # several zarr chunks, some written twice, and several row groups
        patch.setattr(sinks, "_BUFFER_BYTES", 1000)
        patch.setattr(sinks, "_ROW_GROUP_BYTES", 100)
        write_rows(path, rows, batches, background=thread, num_rows=num_rows if known else None)
    columns, metadata = read_rows(path)
    assert {name: values.tolist() for name, values in rows.items()} == columns
    assert metadata == METADATA
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, f"{path.name}.json"}


def test_bed_has_no_header_line(tmp_path):
    schema = [Column("contig", "text"), Column("start", "int64"), Column("end", "int64"), Column("name", "text")]
    with open_writer(tmp_path / "x.bed", schema, metadata={"made by": "test"}) as writer:
        writer.write([1, 0], {"contig": ["c2", "c1"], "start": [5, 0], "end": [9, 3], "name": ["b", "a"]})
    assert (tmp_path / "x.bed").read_text() == "# made by: test\nc1\t0\t3\ta\nc2\t5\t9\tb\n"


def test_arrays_of_any_rank_go_to_npy_and_zarr(tmp_path):
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    for name in ("x.npy", "x.zarr"):
        with open_writer(tmp_path / name, [Column("x", "float16", (3, 4))]) as writer:
            writer.write([0, 1], {"x": values})
    assert np.array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), values)
    assert np.array_equal(zarr.open_group(tmp_path / "x.zarr", mode="r")["x"][:], values)
    with pytest.raises(ConfigError, match=r"'x' has shape \(3, 4\); use zarr"):
        open_writer(tmp_path / "x.parquet", [Column("x", "float16", (3, 4))])


def write_half(path: Path, thread: bool, error: BaseException) -> None:
    rows = make_rows(20)
    with open_writer(path, SCHEMA, background=thread) as writer:
        writer.write(np.arange(5, 10), {name: values[5:10] for name, values in rows.items()})
        raise error


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("thread", [False, True])
def test_nothing_remains_when_the_work_fails_or_is_interrupted(tmp_path, ending, thread):
    for error in (RuntimeError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write_half(tmp_path / f"x{ending}", thread, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_existing_output_is_replaced_only_if_allowed(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    write_rows(path, make_rows(3), [np.arange(3)])
    with pytest.raises(InputError, match=r"exists already; choose another path or allow overwriting"):
        write_rows(path, make_rows(5), [np.arange(5)])
    assert len(read_rows(path)[0]["id"]) == 3
    write_rows(path, make_rows(5), [np.arange(5)], overwrite=True)
    assert len(read_rows(path)[0]["id"]) == 5


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_second_writer_of_the_same_output_is_refused(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    code = (
        "import sys; from chargaff.io.writers import *\n"
        "try: open_writer(sys.argv[1], [Column('vector', 'float32', (3,))])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    with open_writer(path, SCHEMA) as writer:
        writer.write([0], {name: values[:1] for name, values in make_rows(1).items()})
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"InputError {path}: is being written by another process (number {os.getpid()}); "
        "wait for it or choose another path\n"
    )
    assert len(read_rows_count(path)) == 1


def read_rows_count(path: Path) -> list:
    if path.suffix == ".npy":
        return np.load(path).tolist()
    if path.suffix == ".zarr":
        return zarr.open_group(path, mode="r")["n"][:].tolist()
    if path.suffix == ".parquet":
        return pq.read_table(path)["n"].to_pylist()
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt").read().splitlines()[1:]


FULL_DISK = """
import sys
import numpy as np
from chargaff.errors import ChargaffError
from chargaff.io.writers import Column, open_writer
path, limited = sys.argv[1], sys.argv[2] == "limit"
if limited:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rows = np.random.default_rng(0).integers(0, 256, (3000, 256)).astype(np.uint8)
try:
    with open_writer(path, [Column("x", "uint8", (256,))], background=True) as writer:
        for begin in range(0, 3000, 100):
            writer.write(np.arange(begin, begin + 100), {"x": rows[begin:begin + 100]})
except ChargaffError as error:
    print(error)
"""


@pytest.mark.parametrize("ending", [".parquet", ".npy", ".zarr", ".tsv"])
def test_a_file_that_grows_too_large_ends_in_one_line_and_leaves_nothing(tmp_path, ending):
    """A process limit on file sizes behaves like a full disk, only with another reason."""
    path = tmp_path / f"x{ending}"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path, "limit"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: cannot be written (File too large); free some space"), done
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".parquet", ".npy", ".zarr", ".tsv"])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path, ending):
    """On a file system of 256 KiB that only the child process sees."""
    script = 'mount -t tmpfs -o size=256k none "$1" && cd / && "$2" -c "$3" "$1/x$4" - && ls -A "$1"'
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        tmp_path,
        sys.executable,
        FULL_DISK,
        ending,
    ]
    try:
        probe = subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the program unshare to mount a small file system")
    if probe.returncode:
        pytest.skip(f"this machine allows no private mounts: {probe.stderr.decode().strip()}")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done
    expected = f"{tmp_path}/x{ending}: cannot be written (No space left on device); free some space or choose"
    assert done.stdout.startswith(expected), done
    assert done.stdout.count("\n") == 1, "only the message: no file is left"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("path", "schema", "words"),
    [
        ("x.csv", SCHEMA, r"x\.csv: cannot tell the format .* expected one of \.parquet, \.npy"),
        ("x.parquet.gz", SCHEMA, "cannot tell the format"),
        ("x.npy", [Column("a", "float32"), Column("b", "float32")], r"holds one array, the columns have 2 \(a, b\)"),
        ("x.npy", [Column("a", "text")], r"have 0 \(none\)"),
        ("x.bed", SCHEMA, "the columns must be contig, start, end and single values, got id, n, vector"),
        ("x.tsv", [], "need different names"),
        ("x.tsv", [Column("a", "int8"), Column("a", "int8")], "need different names"),
    ],
)
def test_outputs_that_cannot_be_are_explained(tmp_path, path, schema, words):
    with pytest.raises(ConfigError, match=words):
        open_writer(tmp_path / path, schema)
    assert list(tmp_path.iterdir()) == []


def test_text_that_breaks_a_tsv_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match=r"column 'id': 'a\\tb' holds a tab"),
        open_writer(tmp_path / "x.tsv", [Column("id", "text")]) as writer,
    ):
        writer.write([0], {"id": ["a\tb"]})


@pytest.mark.parametrize(
    ("index", "columns", "words"),
    [
        ([0], {"x": [[1.0]]}, r"expected rows of shape \(2,\), got \(1,\)"),
        ([0], {"y": [[1.0, 2]]}, r"expected the columns \['x'\], got \['y'\]"),
        ([0, 1], {"x": [[1.0, 2]]}, "has 1 rows for 2 row numbers"),
        ([0, 0], {"x": [[1.0, 2]] * 2}, "a row was written twice"),
        ([7], {"x": [[1.0, 2]]}, "row numbers must be 0 to 3"),
        ([-1], {"x": [[1.0, 2]]}, "row numbers must be 0 to 3"),
        ([1], {"x": [[1.0, 2]]}, "2 rows were never written, the first is row 0"),
    ],
)
def test_rows_that_do_not_fit_are_programming_errors(tmp_path, index, columns, words):
    with (
        pytest.raises(ValueError, match=words),
        open_writer(tmp_path / "x.npy", [Column("x", "float32", (2,))], num_rows=3) as writer,
    ):
        writer.write(index, columns)
    assert list(tmp_path.iterdir()) == []


def test_formats_by_ending():
    assert [output_format(f"a/b{ending}") for ending in (".parquet", ".npy", ".zarr", ".tsv", ".bed.gz")] == [
        "parquet", "npy", "zarr", "tsv", "bed",
    ]  # fmt: skip
