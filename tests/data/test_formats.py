"""Every row of every data set table can be read, checked and prepared; copies that differ are told so."""

import json

import numpy as np
import pytest

from chargaff.cli.main import main
from chargaff.data.composition import describe, table_keys
from chargaff.data.formats import get_dataset, list_datasets, parse_table
from chargaff.data.readers import read_labelled_regions, read_sequences
from chargaff.errors import ConfigError, InputError
from tests.conftest import shared_data

ROWS = list_datasets()


def write_copy(row, root, rng, per_class=3):
    """A made-up local copy with `per_class` sequences of each class in each split."""
    for place in row.files.values():
        labels = [name for name in row.classes for _ in range(per_class)]
        bases = ["".join(rng.choice(list("ACGT"), min(row.max_length_bp, 50))) for _ in labels]
        path = root / place
        if row.format == "folder-of-classes":
            for number, (label, text) in enumerate(zip(labels, bases, strict=True)):
                (path / label).mkdir(parents=True, exist_ok=True)
                (path / label / f"{number}.txt").write_text(text)
        elif row.format == "fasta-label":
            path.parent.mkdir(parents=True, exist_ok=True)
            records = enumerate(zip(labels, bases, strict=True))
            path.write_text("".join(f">s{number}|{label}\n{text}\n" for number, (label, text) in records))
        else:
            pytest.fail(f"{row.name}: teach this test the layout {row.format}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_known_data_set_reads_into_its_classes(row, tmp_path):
    write_copy(row, tmp_path, np.random.default_rng(0))
    for split in row.files:
        table = row.read(tmp_path, split)
        assert table.labels.names == row.classes
        assert np.bincount(table.labels.target).tolist() == [3] * len(row.classes)
    valid, train = row.split_rows(row.rows["train"], seed=1)
    assert len(valid) + len(train) == row.rows["train"]
    assert len(valid) == -(-row.rows["train"] // 10)
    # the folder of the task may be named instead of the suite's
    assert len(row.read(tmp_path / row.name.partition("/")[2], "test")) == 3 * len(row.classes)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_numbers_of_a_row_agree_with_each_other(row):
    assert row.rows["train"] > row.rows["test"] > 0
    assert len(set(row.classes)) == len(row.classes) >= 2
    if row.name.startswith("genomic_benchmarks/"):
        assert row.schedule_rows == row.rows["train"] + row.rows["test"]
        assert row.length_bp["min"] <= row.length_bp["median"] <= row.length_bp["max"]
    assert row.suite.get
    assert row.suite.licence


def test_a_data_set_is_found_by_either_name_and_misspelt_ones_are_suggested():
    assert get_dataset("H3") is not None
    assert get_dataset("nt_tasks/H3") == get_dataset("H3")
    with pytest.raises(ConfigError, match="did you mean genomic_benchmarks/human_enhancers_cohn"):
        get_dataset("human_enhancer_cohn")


TABLE = """
[suite]
title = "t"
source = "s"
paper = "p"
licence = "l"
get = "g"
[task]
format = "csv"
files = { train = "train.csv" }
rows = { train = 2 }
classes = ["a", "b"]
metric = "mcc"
max_length_bp = 10
valid_split = "torch"
schedule_rows = 2
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[suite]", "[sweet]", r"made.toml: no data set table with a \[suite\]"),
        ('format = "csv"', 'format = "cvs"', "made/task.format: expected one of bed-label, csv, .* got 'cvs'"),
        ('metric = "mcc"', 'metrics = "mcc"', "made/task.metrics: unknown key, did you mean 'metric'"),
        ('metric = "mcc"', 'metric = "auc"', "made/task.metric: expected one of accuracy, f1, mcc"),
        ('metric = "mcc"', "", "made/task: .*metric"),
        ("rows = { train = 2 }", "rows = { test = 2 }", r"files has the splits \['train'\]"),
        ('"torch"', '"sklearn"', "made/task.valid_split: expected one of hub, torch"),
        ('title = "t"', "title = t", "made.toml: no data set table"),
    ],
)
def test_tables_with_mistakes_are_named(old, new, message):
    assert parse_table("made.toml", TABLE)[0].name == "made/task"
    with pytest.raises(ConfigError, match=message):
        parse_table("made.toml", TABLE.replace(old, new))


def test_a_copy_that_differs_from_the_published_set_is_told(tmp_path, capsys):
    row = get_dataset("human_nontata_promoters")
    write_copy(row, tmp_path, np.random.default_rng(0))
    assert main(["data", "check", str(tmp_path), "--dataset", row.name]) == 3
    printed = capsys.readouterr().out
    assert "problem: train: 6 rows, the published set has 27,097" in printed
    assert "problem: lengths are 50 to 50 bp, those of the published set 251 to 251" in printed


def test_missing_files_say_where_to_get_them(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path), "--dataset", "H4"]) == 2
    error = capsys.readouterr().err
    assert "H4/train.fna: no such file or folder; to obtain nt_tasks/H4: copy" in error
    assert len(error.splitlines()) == 1


def test_known_sets_are_prepared_by_their_authors_split(tmp_path):
    row = get_dataset("demo_human_or_worm")
    write_copy(row, tmp_path / "raw", np.random.default_rng(0), per_class=20)
    words = ["data", "prepare", "known", row.name, str(tmp_path / "raw"), "-o", str(tmp_path / "out"), "--seed", "3"]
    assert main(words) == 0
    raw = row.read(tmp_path / "raw", "train")
    valid, train = row.split_rows(len(raw), 3)
    for split, rows in (("valid", valid), ("train", train)):
        table = read_sequences(tmp_path / "out" / f"{split}.parquet", id="id", classes=row.classes)
        assert [table[i].id for i in range(len(table))] == [raw[i].id for i in rows]
        assert table.labels.names == row.classes
        assert table.labels.target.tolist() == raw.labels.target[rows].tolist()
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert manifest["rows"] == {"train": 36, "valid": 4, "test": 40}
    assert manifest["dataset"]["name"] == row.name


def write_csv(path, rows):
    path.write_text("sequence,label\n" + "".join(f"{bases},{label}\n" for bases, label in rows))
    return str(path)


def test_check_counts_repeats_contradictions_and_leaks_on_both_strands(tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", [("AACG", 0), ("CGTT", 1), ("AACG", 0), ("TTNN", 1)])
    test = write_csv(tmp_path / "test.csv", [("CGTT", 0), ("GGGG", 1), ("CCCC", 1)])
    assert main(["data", "check", train, test, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train.csv"] == {
        "rows": 4,
        "length_bp": [4, 4, 4],
        "classes": {"0": 2, "1": 2},
        "unknown_bases": {"N": 2},
        "repeated": 2,
        "contradicting": 1,
    }
    assert found["splits"]["test.csv"]["repeated"] == 1
    assert {(item["split"], item["other"]): item["rows"] for item in found["shared"]} == {
        ("train.csv", "test.csv"): 3,
        ("test.csv", "train.csv"): 1,
    }


def test_a_sound_set_has_no_problems(tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", [("AACG", "x"), ("TTTG", "y")])
    test = write_csv(tmp_path / "test.csv", [("GGGG", "x"), ("CACA", "y")])
    assert main(["data", "check", train, test]) == 0
    assert capsys.readouterr().out.endswith("no problems\n")


def test_splits_with_other_classes_are_told(tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", [("AACG", "x"), ("TTTG", "y")])
    test = write_csv(tmp_path / "test.csv", [("GGGG", "x")])
    assert main(["data", "check", train, test]) == 3
    printed = capsys.readouterr().out
    assert "problem: test.csv: all rows are of class x" in printed
    assert "problem: the splits differ in their labels: train.csv has x, y; test.csv has x" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one file"),
        (["{}/a.csv", "{}/a.csv"], "the same path is given twice"),
        (["{}/a.csv", "--format", "excel"], "format: expected one of bed-label"),
        (["{}/a.csv", "--label", "class"], "no column 'class'"),
        (["{}/missing.csv"], "missing.csv: no such file"),
        (["{}/a.csv", "--dataset", "H3K4me4"], "'H3K4me4' is no known data set; did you mean nt_tasks/H3K4me"),
        (["{}", "{}/a.csv", "--dataset", "H3"], "--dataset takes one folder, got 2"),
        (["{}/text.csv"], "text.csv"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_exit_code_two(tmp_path, capsys, words, message):
    write_csv(tmp_path / "a.csv", [("AACG", "x")])
    (tmp_path / "text.csv").write_text("sequence,label\nthis is no DNA,1\n")
    assert main(["data", "check", *(word.format(tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_list_names_every_set(capsys):
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(row.name in printed for row in ROWS)
    assert main(["data", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [row.name for row in ROWS]
    assert main(["data", "list", "H3K4me1"]) == 0
    assert "H3K4me1/train.fna (28,509 sequences)" in capsys.readouterr().out


def test_regions_with_a_label_column_are_cut_from_the_genome(tmp_path):
    genome = tmp_path / "g.fa"
    genome.write_text(">c\nAACCGGTTNA\n")
    bed = tmp_path / "a.bed"
    bed.write_text("c\t0\t4\tx\t0\t+\nc\t0\t4\ty\t0\t-\nc\t6\t10\tx\t0\t.\n")
    table = read_labelled_regions(bed, genome=genome)
    assert [table[i].views[0].tobytes() for i in range(3)] == [b"AACC", b"GGTT", b"TTNA"]
    assert table.labels.target.tolist() == [0, 1, 0]
    assert [table[i].id for i in range(3)] == ["c:1-4:+", "c:1-4:-", "c:7-10"]
    assert table[1].interval == table.intervals[1]
    with pytest.raises(InputError, match=r"no column 'class' \(columns: name, score\)"):
        read_labelled_regions(bed, genome=genome, label="class")
    bed.write_text("c\t0\t4\tx\nc\t6\t11\tx\n")
    with pytest.raises(InputError, match=r"a\.bed:2: end 11 is past the end of c"):
        read_labelled_regions(bed, genome=genome)


@pytest.mark.parametrize("task", ["human_enhancers_cohn", "human_nontata_promoters"])
def test_official_test_sets_have_the_recorded_size_and_lengths(task):
    table = read_sequences(shared_data(f"data/genomic_benchmarks/official_test/{task}.test.csv.gz"))
    row = get_dataset(task)
    found = describe(table, table_keys(table))
    assert found.rows == row.rows["test"]
    assert found.length_bp == tuple(row.length_bp[key] for key in ("min", "median", "max"))


def test_the_leaks_of_a_published_set_are_found(capsys):
    folder = shared_data("data/gue/prom/prom_core_tata")
    assert main(["data", "check", str(folder / "train.csv.gz"), str(folder / "test.csv.gz"), "--json"]) == 3
    shared = {item["split"]: item["rows"] for item in json.loads(capsys.readouterr().out)["shared"]}
    # 2.6 % of the 613 test sequences also stand in the training file
    assert shared["test.csv.gz"] == 16
