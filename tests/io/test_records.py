"""Streaming FASTA and FASTQ: any layout reads the same, and anything malformed is named with its line."""

import gzip
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargaff.errors import InputError
from chargaff.io import records
from chargaff.io.records import read_records
from tests.io.files import COMPRESSIONS, contigs, fasta, write

layouts = {"width": st.integers(1, 100), "eol": st.sampled_from([b"\n", b"\r\n"]), "last_eol": st.booleans()}


def found_in(path, **options):
    return {record.id: record.sequence.tobytes() for record in read_records(path, **options)}


@settings(deadline=None)
@given(contigs, st.sampled_from(COMPRESSIONS), st.integers(1, 40), st.fixed_dictionaries(layouts))
def test_fasta_reads_the_same_in_any_layout_and_compression(tmp_path_factory, truth, compression, block, layout):
    path = write(tmp_path_factory.mktemp("fasta") / "x.fa", fasta(truth, **layout), compression)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BLOCK_BYTES", block)  # so that blocks end anywhere
        assert found_in(path, keep_case=True) == truth
        assert found_in(path) == {name: sequence.upper() for name, sequence in truth.items()}
        line = 1
        for record in read_records(path):
            assert (record.line, record.description, record.quality) == (line, "some words", None)
            line += 1 - (-len(truth[record.id]) // layout["width"])


@settings(deadline=None)
@given(contigs, st.sampled_from(COMPRESSIONS), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_fastq_reads_the_same_in_any_compression(tmp_path_factory, truth, compression, eol, last_eol):
    lines = []
    for i, (name, sequence) in enumerate(truth.items()):
        quality = bytes(33 + (i + j) % 94 for j in range(len(sequence)))
        lines += [b"@" + name.encode() + b" 1:N", sequence, b"+", quality]
    path = write(tmp_path_factory.mktemp("fastq") / "x.fq", eol.join(lines) + last_eol * eol, compression)
    for i, record in enumerate(read_records(path, keep_case=True)):
        assert record.sequence.tobytes() == truth[record.id]
        assert record.quality.tolist() == [(i + j) % 94 for j in range(len(record.sequence))]
        assert (record.line, record.description) == (1 + 4 * i, "1:N")
    assert len(found_in(path)) == len(truth)


def test_sequences_are_writable_uint8(tmp_path):
    record = next(read_records(write(tmp_path / "x.fa", b">a\nAC\nGT\n")))
    assert record.sequence.dtype == np.uint8
    record.sequence[0] = 0


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_standard_input_is_read_from_a_pipe(tmp_path, compression):
    content = write(tmp_path / "x.fa", fasta({"a": b"ACGT" * 50_000, "b": b"GG"}), compression).read_bytes()
    code = "from chargaff.io.records import read_records; print([(r.id, r.sequence.size) for r in read_records('-')])"
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[('a', 200000), ('b', 2)]"


def test_blanks_and_blank_lines_do_not_matter(tmp_path):
    path = write(tmp_path / "x.fa", b"\n \n>a  two  words \nACG T\t\n\n  gt\n\n\n>b\n\nA\n")
    first, second = read_records(path)
    assert (first.id, first.description, first.sequence.tobytes()) == ("a", "two  words", b"ACGTGT")
    assert (second.id, second.line, second.sequence.tobytes()) == ("b", 9, b"A")


def test_a_byte_order_mark_is_left_out(tmp_path):
    assert found_in(write(tmp_path / "x.fa", b"\xef\xbb\xbf>a\nAC\n")) == {"a": b"AC"}


def test_empty_records_and_repeated_names_are_errors_unless_allowed(tmp_path):
    empty = write(tmp_path / "empty.fa", b">a\n>b\nA\n")
    assert [record.sequence.size for record in read_records(empty, allow_empty=True)] == [0, 1]
    twice = write(tmp_path / "twice.fa", b">a x\nC\n>a y\nG\n")
    assert [record.description for record in read_records(twice, allow_duplicates=True)] == ["x", "y"]
    mates = write(tmp_path / "mates.fq", b"@a\nC\n+\nI\n@a\nG\n+\nI\n")
    assert [record.id for record in read_records(mates)] == ["a", "a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"x\.fa: the file is empty"),
        (gzip.compress(b""), r"x\.fa: the file is empty"),
        (b"\n\n", "holds only blank lines"),
        (b"ACGT\n", r"x\.fa:1: expected a header line beginning with '>' \(FASTA\) or '@' \(FASTQ\), found 'ACGT'"),
        (b"\n\nchrom,start\n", r"x\.fa:3: expected a header line .* found 'chrom,start'"),
        (b"PK\x03\x04zip", "found a zip archive"),
        (b"PAR1....", "found a Parquet file"),
        (b"BZh91AY", "found a bzip2 file"),
        (b"\xff\xfe>\x00a\x00", "found UTF-16 text"),
        (gzip.compress(b"BAM\x01...."), "found a BAM file"),
        (b"\x00\x01\x02\x03", r"x\.fa:1: expected a header line"),
        (b">\nACGT\n", r"x\.fa:1: the header has no name"),
        (b"> a\nACGT\n", r"x\.fa:1: the header has no name; write it directly behind '>'"),
        (b">a\nAC\n>b\n", r"x\.fa:3: record 'b' has no sequence; remove it"),
        (b">a\nAC\n>b\nC\n>a\nC\n", r"x\.fa:5: record name 'a' was already used at line 1"),
        (b">a\nAC\nAC>GT\n", r"x\.fa:3: '>' is no sequence letter"),
        (b">a\nAC\nAC1\n", r"x\.fa:3: '1' is no sequence letter"),
        (b">a\nAC\n>b\nA\nA\xe9\n", r"x\.fa:5: '\\xe9' is no sequence letter"),
        (b">a\nAC\x00GT\n", r"x\.fa:2: '\\x00' is no sequence letter"),
        (b"@a\nACGT\n+\nII\n", r"x\.fa:4: record 'a' has 2 quality characters for 4 bases"),
        (b"@a\nACGT\n+\n", r"the file ends inside record 'a'; it is truncated"),
        (b"@a\nACGT\n", r"the file ends inside record 'a'"),
        (b"@a\nACGT\nIIII\n+\n", r"x\.fa:3: expected the '\+' line of record 'a'"),
        (b"@a\nAC\n+\nII\nACGT\n", r"x\.fa:5: expected a FASTQ header beginning with '@' .* found 'ACGT'"),
        (b"@a\nAC\n+\nI\x7f\n", r"x\.fa:4: record 'a' has a quality character outside"),
        (b"@a\nA!\n+\nII\n", r"x\.fa:2: '!' is no sequence letter"),
        (b"@a\n\n+\n\n", r"x\.fa:1: record 'a' has no sequence"),
    ],
)
def test_malformed_files_are_named_with_the_line(tmp_path, content, words):
    path = write(tmp_path / "x.fa", content)
    with pytest.raises(InputError, match=words) as raised:
        list(read_records(path))
    assert "\n" not in str(raised.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.fa: no such file"):
        list(read_records(tmp_path / "no.fa"))
    with pytest.raises(InputError, match="is a folder"):
        list(read_records(tmp_path))
