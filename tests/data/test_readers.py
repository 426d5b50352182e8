"""Labelled sequences from every layout of files, and one-line errors that name the row."""

import gzip
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargaff.data.labels import class_names, parse_labels
from chargaff.data.readers import read_class_folder, read_fasta, read_pairs, read_sequences
from chargaff.data.table import PackedSequences, SequenceTable
from chargaff.errors import ConfigError, InputError
from tests.conftest import shared_data

ROWS = [("ACGT", "b"), ("ggN", "a"), ("TTTTT", "b")]


def text(table: SequenceTable, view: int = 0) -> list[str]:
    return [table[row].views[view].tobytes().decode() for row in range(len(table))]


def write_rows(path, rows=ROWS, names=("sequence", "label")):
    if path.suffix == ".parquet":
        columns = zip(*rows, strict=True)
        pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    else:
        mark = "\t" if ".tsv" in path.name else ","
        content = "\n".join(mark.join(map(str, row)) for row in [names, *rows]) + "\n"
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.parquet", "a.jsonl"])
def test_tables_of_every_format_give_the_same_rows(tmp_path, name):
    table = read_sequences(write_rows(tmp_path / name))
    assert text(table) == ["ACGT", "GGN", "TTTTT"]
    assert table.labels.names == ("a", "b")
    assert table.labels.target.tolist() == [1, 0, 1]
    assert table.lengths_bp.tolist() == [4, 3, 5]
    assert [table[row].id for row in range(3)] == ["1", "2", "3"]


def test_digits_as_sequence_names_and_labels_stay_text(tmp_path):
    rows = [("AC", 10, "007"), ("GT", 9, "08"), ("GT", 10, "9")]
    table = read_sequences(write_rows(tmp_path / "a.csv", rows, ("sequence", "label", "name")), id="name")
    assert table.labels.names == ("9", "10")
    assert table.labels.target.tolist() == [1, 0, 1]
    assert [table[row].id for row in range(3)] == ["007", "08", "9"]


def test_integer_labels_of_a_parquet_file_are_those_of_its_csv(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"sequence": ["A", "C", "G"], "label": pa.array([2, 0, 1], pa.int8())}), path)
    assert read_sequences(path).labels.target.tolist() == [2, 0, 1]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_numbers_as_labels_are_the_same_in_every_format(tmp_path, ending):
    path = write_rows(tmp_path / f"a.{ending}", [("A", 10, 0.5), ("C", 9, 2.0)], ("sequence", "label", "x"))
    assert read_sequences(path).labels.names == ("9", "10")
    assert read_sequences(path, label="x", kind="value").labels.target.tolist() == [0.5, 2.0]
    assert read_sequences(path, label=["label", "x"], kind="value").labels.target.tolist() == [[10, 0.5], [9, 2]]


def test_numbers_several_numbers_and_several_labels(tmp_path):
    path = write_rows(tmp_path / "a.csv", [("A", "0.5", "1"), ("C", "-2e3", "0")], ("sequence", "x", "y"))
    one = read_sequences(path, label="x", kind="value")
    assert one.labels.target.tolist() == [0.5, -2000]
    assert one[1].target == -2000
    both = read_sequences(path, label=["x", "y"], kind="value")
    assert both.labels.target.tolist() == [[0.5, 1], [-2000, 0]]
    assert both.labels.names == ("x", "y")
    multi = read_sequences(path, label=["y"], kind="multi-label")
    assert multi.labels.target.tolist() == [[1], [0]]
    assert multi.labels.num_outputs == 1


def test_pairs_have_two_views(tmp_path):
    path = write_rows(tmp_path / "a.csv", [("AC", "GGT", 1), ("T", "A", 0)], ("sequence_1", "sequence_2", "label"))
    table = read_pairs(path)
    assert text(table, 0) == ["AC", "T"]
    assert text(table, 1) == ["GGT", "A"]


def test_unlabelled_rows_have_no_target(tmp_path):
    table = read_sequences(write_rows(tmp_path / "a.csv"), label=None)
    assert table.labels is None
    assert table[0].target is None


def test_fasta_headers_end_in_the_label(tmp_path):
    path = tmp_path / "a.fna"
    path.write_text(">s1|1\nAC\nGT\n>s2 more | 0\nggg\n>s1|1\nT\n")
    table = read_fasta(path, has_labels=True)
    assert text(table) == ["ACGT", "GGG", "T"]
    assert table.labels.target.tolist() == [1, 0, 1]
    assert [table[row].id for row in range(3)] == ["s1", "s2 more", "s1"]


def test_class_folders_are_numbered_in_sorted_order(tmp_path):
    for name, bases in [("positive/b.txt", "AC\n"), ("positive/a.txt", "g"), ("negative/x.txt", "TT\nTT\n")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(bases)
    table = read_class_folder(tmp_path, classes=("positive", "negative"))
    assert text(table) == ["TTTT", "G", "AC"]
    assert table.labels.names == ("positive", "negative")
    assert table.labels.target.tolist() == [1, 0, 0]
    assert read_class_folder(tmp_path).labels.names == ("negative", "positive")
    assert table[1].id == "positive/a.txt"


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("ACGT", "a"), ("AC-T", "b")], {}, r"'sequence': row 2 holds '-' at base 2 \(from 0\)"),
        ([("ACGT", "a"), ("ACUT", "b")], {}, "is this RNA"),
        ([("ACGT", "a"), ("", "b")], {}, "row 2 has no sequence"),
        ([("ACGT", "a"), ("A", "")], {}, "row 2 has no label"),
        ([("ACGT", "a"), ("A", "c")], {"classes": ["a", "b"]}, "row 2 has label 'c'; the classes are a, b"),
        ([("ACGT", "1"), ("A", "x")], {"kind": "value"}, "row 2 has label = 'x', expected a finite number"),
        ([("ACGT", "1"), ("A", "nan")], {"kind": "value"}, "row 2 has label = 'nan'"),
        ([("ACGT", "1"), ("A", "2")], {"kind": "multi-label"}, "row 2 has label = 2; labels of a multi-label set"),
        ([("ACGT", "a")], {"label": "class"}, "no column 'class'"),
        ([], {}, "the table has no rows"),
        ([("A", f"{i}.5") for i in range(300)], {}, 'no classes; if they are numbers, say kind "value"'),
    ],
)
def test_wrong_rows_are_named(tmp_path, rows, options, message):
    with pytest.raises(InputError, match=message):
        read_sequences(write_rows(tmp_path / "a.csv", rows), **options)


def test_missing_cells_of_a_parquet_file_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"sequence": ["A", None], "label": [0, 1]}), path)
    with pytest.raises(InputError, match="row 2 has no 'sequence'"):
        read_sequences(path)


def test_layouts_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_class_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no class folders"):
        read_class_folder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"holds no \.txt files"):
        read_class_folder(tmp_path)
    with pytest.raises(InputError, match="expected the class folders a, b, found a"):
        read_class_folder(tmp_path, classes=["b", "a"])
    fasta = tmp_path / "a.fna"
    fasta.write_text(">s1|1\nA\n>s2\nC\n")
    with pytest.raises(InputError, match=r"a\.fna:3: the header 's2' does not end in \|label"):
        read_fasta(fasta, has_labels=True)
    with pytest.raises(ConfigError, match="multi-label"):
        parse_labels({"x": ["1"], "y": ["0"]}, "class", "here")


@given(st.lists(st.integers(-50, 50).map(str), min_size=1))
def test_integer_classes_are_sorted_by_value(values):
    assert list(map(int, class_names(values))) == sorted(set(map(int, values)))


@given(st.lists(st.text("ACGT", max_size=9), max_size=9), st.data())
def test_packed_sequences_select_like_a_list(texts, data):
    packed = PackedSequences.pack(np.frombuffer(t.encode(), np.uint8) for t in texts)
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9)) if texts else []
    chosen = packed.select(np.array(rows, dtype=np.int64))
    assert [chosen[i].tobytes().decode() for i in range(len(chosen))] == [texts[row] for row in rows]


def test_selected_rows_keep_their_names_and_survive_pickling(tmp_path):
    table = read_sequences(write_rows(tmp_path / "a.csv")).select(np.array([2, 0]))
    copy = pickle.loads(pickle.dumps(table))
    for source in (table, copy):
        assert text(source) == ["TTTTT", "ACGT"]
        assert [source[row].id for row in range(2)] == ["3", "1"]
        assert source.labels.target.tolist() == [1, 1]
    with pytest.raises(IndexError):
        table[2]


def test_the_official_promoter_test_set_reads_whole():
    path = shared_data("data/genomic_benchmarks/official_test/human_nontata_promoters.test.csv.gz")
    table = read_sequences(path)
    assert np.bincount(table.labels.target).tolist() == [4119, 4915]
    assert set(table.lengths_bp.tolist()) == {251}
