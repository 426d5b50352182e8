"""Inputs of any kind become the same named sequences."""

import gzip
import json

import numpy as np
import pysam
import pytest

from chargaff.errors import ConfigError, InputError
from chargaff.io.writers import Column, open_writer
from chargaff.workflows.sequences import as_sequences, inspect, read_sequences
from tests.workflows.toy import random_bases, write_fasta

RECORDS = {"one": random_bases(150, seed=1), "two": "acgtNNRY", "three": "A"}


def content(sequences) -> dict[str, str]:
    lengths = sequences.length_bp.tolist()
    letters = [sequences.fetch(row, 0, length).tobytes().decode() for row, length in enumerate(lengths)]
    return dict(zip(sequences.ids, letters, strict=True))


def table(path, names, column="seq"):
    rows = [{column: RECORDS[name], "id": name, "other": 5} for name in names]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        with open_writer(path, [Column("id", "text"), Column(column, "text")], num_rows=len(rows)) as writer:
            columns = {key: [row[key] for row in rows] for key in ("id", column)}
            writer.write(np.arange(len(rows)), columns)
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_give_what_fasta_gives(tmp_path, ending):
    fasta = read_sequences(write_fasta(tmp_path / "x.fa", RECORDS))
    assert content(fasta) == RECORDS
    assert content(read_sequences(table(tmp_path / f"x{ending}", RECORDS), column="seq")) == RECORDS


def test_fastq_crlf_gzip_and_bgzip_give_the_same(tmp_path):
    plain = write_fasta(tmp_path / "x.fa", RECORDS)
    (tmp_path / "crlf.fa").write_bytes(plain.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "x.fa.gz").write_bytes(gzip.compress(plain.read_bytes()))
    pysam.tabix_compress(str(plain), str(tmp_path / "bgzip.fa.gz"))
    fastq = "".join(f"@{name}\n{sequence}\n+\n{'I' * len(sequence)}\n" for name, sequence in RECORDS.items())
    (tmp_path / "x.fastq").write_text(fastq)
    for name in ("crlf.fa", "x.fa.gz", "bgzip.fa.gz", "x.fastq"):
        assert content(read_sequences(tmp_path / name)) == RECORDS


def test_names_of_a_table_come_from_id_then_name_then_the_row(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("seq,name,id\nACGT,a,b\nAC,c,d\n")
    assert read_sequences(path, column="seq").ids == ("b", "d")
    path.write_text("seq,name\nACGT,a\nAC,c\n")
    assert read_sequences(path, column="seq").ids == ("a", "c")
    path.write_text("seq\nACGT\nAC\n")
    assert read_sequences(path, column="seq").ids == ("0", "1")


def test_missing_sequences_of_a_table_are_empty_and_rejected(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"seq": "ACGT", "id": "a"}\n{"seq": null, "id": "b"}\n')
    found = inspect(read_sequences(path, column="seq"), max_unknown=0)
    assert found.accepted.tolist() == [0]
    assert [(record.row, record.id, record.reason) for record in found.rejected] == [(1, "b", "the sequence is empty")]


def test_intervals_are_read_in_their_own_direction(tmp_path):
    genome = write_fasta(tmp_path / "g.fa", {"chr1": "AACCGGTTAC" * 5, "chr2": "ACGTTTTTTT"})
    bed = tmp_path / "x.bed"
    bed.write_text("chr1\t0\t8\tfirst\t0\t+\nchr1\t2\t9\tback\t0\t-\nchr2\t5\t10\t.\t0\t.\n")
    found = read_sequences(bed, genome=genome)
    assert content(found) == {"first": "AACCGGTT", "back": "TAACCGG", "chr2:6-10": "TTTTT"}
    assert found.fetch(1, 2, 5).tobytes() == b"ACC"  # counted from the interval's own first base
    assert found.length_bp.tolist() == [8, 7, 5]
    (tmp_path / "x.tsv").write_text("chrom\tstart\tend\nchr2\t0\t4\n")
    assert content(read_sequences(tmp_path / "x.tsv", genome=genome)) == {"chr2:1-4": "ACGT"}


def test_sequences_from_memory_may_be_text_bytes_or_arrays():
    found = as_sequences({"a": "ACGT", "b": b"AC", "c": np.frombuffer(b"TT", np.uint8)})
    assert content(found) == {"a": "ACGT", "b": "AC", "c": "TT"}
    assert as_sequences(["A", "C"]).ids == ("0", "1")


def test_letters_are_counted_over_accepted_records_only():
    found = inspect(as_sequences({"a": "acgtNnRyACGT", "b": "LLLLL", "c": "ACGT"}), max_unknown=0.2)
    assert found.accepted.tolist() == [0, 2]
    letters = found.letters
    assert (letters.total_bp, letters.lower_bp, letters.n_bp, letters.unknown_bp) == (16, 6, 2, 2)
    text = "16 bp; 6 in lower case, read as upper case; 2 N; 2 other letters, read as unknown"
    assert str(letters) == text


def test_the_hash_follows_names_and_upper_case_letters_alone():
    def sha256(records, **options):
        return inspect(as_sequences(records), max_unknown=0.5, **options).sha256

    first = sha256({"a": "ACGT", "b": "AC"})
    assert sha256({"a": "acgt", "b": "AC"}) == first
    others = [{"a": "ACGTA", "b": "C"}, {"b": "AC", "a": "ACGT"}, {"a": "ACGT", "c": "AC"}, {"a": "ACGT"}]
    assert len({sha256(records) for records in others} | {first}) == 5


def test_models_that_cannot_read_n_reject_it():
    found = inspect(as_sequences({"a": "ACNNGT", "b": "ACGT"}), max_unknown=0, allow_n=False)
    assert found.rejected[0].reason == "2 N, which this model cannot read"


@pytest.mark.parametrize(
    ("name", "text", "options", "error", "message"),
    [
        ("x.bed", "chr1\t0\t5\n", {}, ConfigError, "--genome: .*x.bed holds intervals"),
        ("x.csv", "seq\nACGT\n", {}, ConfigError, "--column: which column of .*x.csv holds the sequences"),
        ("x.csv", "seq\nACGT\n", {"column": "sec"}, InputError, "no column 'sec'; did you mean 'seq'"),
        ("x.fa", ">a\nACGT\n", {"column": "seq"}, ConfigError, "--column: only tables"),
        ("x.bed", "chr1\t0\t50\n", {"genome": True}, InputError, "x.bed:1: end 50 is past the end of chr1"),
        ("x.bed", "1\t0\t5\n", {"genome": True}, InputError, "x.bed:1: .*no contig '1'; it is called 'chr1' there"),
        ("x.fa", "ACGT\n", {}, InputError, "x.fa:1: expected a header line beginning with '>'"),
        ("x.fa", ">a\nAC\n>a\nGT\n", {}, InputError, "x.fa:3: record name 'a' was already used at line 1"),
        ("x.fa", "", {}, InputError, "x.fa: the file is empty"),
    ],
)
def test_bad_input_is_named(tmp_path, name, text, options, error, message):
    path = tmp_path / name
    path.write_text(text)
    if "genome" in options:
        options = {"genome": write_fasta(tmp_path / "g.fa", {"chr1": "ACGTACGTAC"})}
    with pytest.raises(error, match=message):
        read_sequences(path, **options)
