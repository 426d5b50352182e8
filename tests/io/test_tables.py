"""Tables as columns: the same values from every format, whole and in batches, and errors with file and line."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargaff.errors import InputError
from chargaff.io import tables
from chargaff.io.tables import column_names, iter_table, read_table
from tests.io.files import COMPRESSIONS, write

FORMATS = ("csv", "tsv", "jsonl", "parquet")
cells = st.text("ACGTN01 NA.e", min_size=1, max_size=12).map(str.strip).filter(bool)
data = st.lists(st.tuples(cells, st.integers(-(10**12), 10**12)), min_size=1, max_size=30)


def write_rows(folder, rows, kind, compression="plain"):
    path = folder / f"x.{kind}{'.gz' if compression != 'plain' and kind != 'parquet' else ''}"
    if kind == "parquet":
        pq.write_table(pa.table({"seq": [s for s, _ in rows], "n": [n for _, n in rows]}), path)
        return path
    if kind == "jsonl":
        lines = [json.dumps({"seq": s, "n": n}) for s, n in rows]
    else:
        delimiter = "," if kind == "csv" else "\t"
        lines = [f"seq{delimiter}n", *(f"{s}{delimiter}{n}" for s, n in rows)]
    return write(path, ("\n".join(lines) + "\n").encode(), compression)


@settings(deadline=None)
@given(data, st.sampled_from(FORMATS), st.sampled_from(COMPRESSIONS))
def test_every_format_gives_the_same_columns(tmp_path_factory, rows, kind, compression):
    path = write_rows(tmp_path_factory.mktemp("table"), rows, kind, compression)
    table = read_table(path, ["n", "seq"], types={"seq": "text", "not there": "number"})
    assert table.to_pydict() == {"n": [n for _, n in rows], "seq": [s for s, _ in rows]}
    assert column_names(path) == ("seq", "n")


@pytest.mark.parametrize("kind", FORMATS)
def test_batches_add_up_to_the_table(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 200)
    monkeypatch.setattr(tables, "_BATCH_ROWS", 7)
    rows = [(f"seq{i}", i) for i in range(100)]
    batches = list(iter_table(write_rows(tmp_path, rows, kind)))
    assert kind == "parquet" or len(batches) > 2
    assert [row["n"] for batch in batches for row in batch.to_pylist()] == list(range(100))


@pytest.mark.parametrize("kind", FORMATS)
def test_stated_types_hold_in_every_format(tmp_path, kind):
    table = read_table(write_rows(tmp_path, [("007", 1), ("NA", 2)], kind), types={"seq": "text", "n": "text"})
    assert table.to_pydict() == {"seq": ["007", "NA"], "n": ["1", "2"]}


def test_long_rows_fit(tmp_path):
    sequence = "ACGT" * 1_000_000
    for kind in FORMATS:
        path = write_rows(tmp_path, [(sequence, 1)], kind)
        assert read_table(path, ["seq"], types={"seq": "text"})["seq"].to_pylist() == [sequence]


def test_files_without_a_header_take_names(tmp_path):
    path = write(tmp_path / "x.tsv", b"ACGT\t1\nGG\t0\n")
    assert read_table(path, names=["seq", "label"]).to_pydict() == {"seq": ["ACGT", "GG"], "label": [1, 0]}


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_without_rows_have_columns(tmp_path, kind):
    path = write_rows(tmp_path, [], kind)
    assert read_table(path).num_rows == 0
    assert len(list(iter_table(path, ["seq"]))) == 1


def test_json_lines_may_lack_values_and_blank_lines_do_not_matter(tmp_path):
    path = write(tmp_path / "x.jsonl", b'\n{"a": 1}\n\n{"b": "x", "a": null}\n')
    assert read_table(path).to_pydict() == {"a": [1, None], "b": [None, "x"]}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_missing_column_names_the_nearest(tmp_path, kind):
    path = write_rows(tmp_path, [("A", 1)], kind)
    with pytest.raises(InputError, match=r"no column 'sea'; did you mean 'seq'\? \(columns: 'seq', 'n'\)"):
        read_table(path, ["sea"])
    with pytest.raises(InputError, match=r"did you mean 'n'\?"):
        read_table(path, ["N"])
    with pytest.raises(InputError, match=r"no column 'label' \(columns"):
        read_table(path, ["label"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", r"x\.csv: the file is empty"),
        ("x.csv", b"a,b\n1,2\n3\n", r"x\.csv:3: .*Expected 2 columns, got 1"),
        ("x.csv", b"a,b\n1,2\nx,3\n", r"x\.csv:3: .*invalid value 'x'"),
        ("x.csv", b"a,a\n1,2\n", "two columns are called 'a'"),
        ("x.csv", b"\xff\xfea,b\n1,2\n", r"x\.csv: 'utf-8' codec can't decode"),
        ("x.csv.gz", gzip.compress(b"a,b\n1,2\n")[:-9], "gzip data ends early"),
        ("x.jsonl", b'{"a": 1}\n{"a": \n', r"x\.jsonl:2: is no JSON object"),
        ("x.jsonl", b"[1]\n", r"x\.jsonl:1: expected one JSON object a line, found list"),
        ("x.jsonl", b'{"a": 1}\n{"a": "x"}\n', r"x\.jsonl:2: column 'a' holds 'x', expected int64"),
        ("x.jsonl", b"\n\n", "holds only blank lines"),
        ("x.parquet", b"", r"x\.parquet: "),
        ("x.parquet", b"just text, long enough", r"x\.parquet: .*not a parquet file"),
        ("x.fa", b">a\nACGT\n", r"x\.fa: cannot tell the table format from the name; expected one of \.csv"),
    ],
)
def test_malformed_tables_are_named(tmp_path, name, content, words):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=words) as raised:
        read_table(path, types={"a": "integer"} if name == "x.csv" else None)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    for kind in FORMATS:
        with pytest.raises(InputError, match="no such file"):
            read_table(tmp_path / f"no.{kind}")


def test_names_are_for_delimited_files(tmp_path):
    with pytest.raises(InputError, match="csv and tsv files, this is parquet"):
        read_table(write_rows(tmp_path, [("A", 1)], "parquet"), names=["a"])
