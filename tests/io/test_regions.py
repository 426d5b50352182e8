"""Intervals from files: coordinates, columns, line numbers in errors, and the check against a genome."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargaff.errors import InputError
from chargaff.io.fasta import Genome
from chargaff.io.regions import read_bed, read_gff, read_interval_table, read_regions
from chargaff.seq.interval import Interval, Strand
from tests.io.files import COMPRESSIONS, fasta, names, write

rows = st.lists(
    st.tuples(names, st.integers(0, 10**9), st.integers(1, 10**6), st.sampled_from("+-.")), min_size=1, max_size=20
)


@settings(deadline=None)
@given(rows, st.sampled_from(COMPRESSIONS), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_bed_rows_are_read_as_they_stand(tmp_path_factory, truth, compression, eol, last_eol):
    lines = [f"{c}\t{start}\t{start + width}\tn{i}\t0\t{strand}" for i, (c, start, width, strand) in enumerate(truth)]
    text = "# comment" + eol + eol.join(lines) + eol * last_eol
    ending = "" if compression == "plain" else ".gz"
    path = write(tmp_path_factory.mktemp("bed") / f"x.bed{ending}", text.encode(), compression)
    regions = read_regions(path)
    assert list(regions) == [Interval(c, start, start + width, Strand(s)) for c, start, width, s in truth]
    assert [regions[i] for i in range(len(regions))] == list(regions)
    assert regions.lines.tolist() == list(range(2, len(truth) + 2))
    assert regions.columns == {"name": tuple(f"n{i}" for i in range(len(truth))), "score": ("0",) * len(truth)}


def test_bed_layouts(tmp_path):
    text = "browser position chr1\ntrack name=x\n\nchr1 5 9\nchr2\t0 1\n".replace("2\t0", "2 0")
    assert list(read_bed(write(tmp_path / "x.bed", text.encode()))) == [Interval("chr1", 5, 9), Interval("chr2", 0, 1)]
    split = read_bed(write(tmp_path / "x.bed", b"chr1\t0\t5\ttrain\nchr1\t5\t9\ttest\n"), names=["split"])
    assert split.columns == {"split": ("train", "test")}
    assert list(split.select(np.array([False, True]))) == [Interval("chr1", 5, 9)]
    assert split.select([1]).columns == {"split": ("test",)}
    wide = read_bed(write(tmp_path / "x.bed", b"c\t0\t5" + b"\tx" * 10 + b"\n"), names=[f"k{i}" for i in range(10)])
    assert list(wide.columns) == [f"k{i}" for i in range(10)]
    wide = read_bed(write(tmp_path / "x.bed", b"c\t0\t5\tn\t0\t+" + b"\t1" * 8 + b"\n"))
    assert list(wide.columns)[-3:] == ["block_starts", "column_13", "column_14"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"# only\n\n", "holds no intervals"),
        (b"chr1\t0\n", r"x\.bed:1: expected contig, start and end, found 2 columns: 'chr1\\t0'"),
        (b"chr1\t0\t5\nchr1\t7\n", r"x\.bed:2: expected contig, start and end"),
        (b"chr1\t0\t5\tx\nchr1\t7\t9\n", r"x\.bed:2: has 3 columns, the lines before have 4"),
        (b"#c\nchr1\tzero\t5\n", r"x\.bed:2: start 'zero' is no whole number"),
        (b"chr1\t0\t5.0\n", r"x\.bed:1: end '5\.0' is no whole number"),
        (b"chr1\t0\t1_000\n", r"x\.bed:1: end '1_000' is no whole number"),
        (b"chrom\tstart\tend\nchr1\t0\t5\n", r"x\.bed:1: start 'start' is no whole number"),
        (b"chr1\t-1\t5\n", r"x\.bed:1: start -1 is before the first base"),
        (b"chr1\t5\t5\n", r"x\.bed:1: start 5, end 5: the interval is empty"),
        (b"chr1\t6\t5\n", r"x\.bed:1: start 6, end 5: the interval ends before it starts"),
        (b"\t5\t6\n", r"x\.bed:1: the contig name is empty"),
        (b"chr1\t5\t6\tn\t0\tx\n", r"x\.bed:1: strand 'x': expected '\+', '-' or '\.'"),
        (b"PK\x03\x04\t1\t2\n", "expected lines of text, found a zip archive"),
    ],
)
def test_malformed_bed_lines_are_named(tmp_path, content, words):
    with pytest.raises(InputError, match=words) as raised:
        read_bed(write(tmp_path / "x.bed", content))
    assert "\n" not in str(raised.value)


def test_bed_columns_need_as_many_names(tmp_path):
    with pytest.raises(InputError, match="2 names for 1 columns after the third"):
        read_bed(write(tmp_path / "x.bed", b"c\t0\t1\tx\n"), names=["a", "b"])


GFF3 = b"""##gff-version 3
chr1\tsrc\tgene\t1\t9\t.\t+\t.\tID=g1;Name=a%3Bb
chr1\tsrc\texon\t3\t5\t0.5\t-\t0\tParent=g1;Alias=x
chr1\tsrc\texon\t7\t7\t.\t?\t.\tParent=g1
##FASTA
>chr1
ACGTACGTA
"""
GTF = b"""#!genome-build x
20\tensembl\texon\t11\t20\t.\t-\t.\tgene_id "ENSG01"; gene_name "A B"; level 2;
"""


def test_gff_counts_from_one_and_includes_the_end(tmp_path):
    regions = read_regions(write(tmp_path / "x.gff3", GFF3))
    assert list(regions) == [
        Interval("chr1", 0, 9, Strand.FORWARD),
        Interval("chr1", 2, 5, Strand.REVERSE),
        Interval("chr1", 6, 7),
    ]
    assert regions.columns["type"] == ("gene", "exon", "exon")
    assert regions.attribute("Parent") == (None, "g1", "g1")
    assert regions.attribute("Name") == ("a;b", None, None)
    exons = read_gff(tmp_path / "x.gff3", types=["exon"])
    assert exons.lines.tolist() == [3, 4]
    gtf = read_regions(write(tmp_path / "x.gtf", GTF))
    assert (gtf.attribute("gene_id"), gtf.attribute("gene_name"), gtf.attribute("level")) == (
        ("ENSG01",),
        ("A B",),
        ("2",),
    )
    assert list(gtf) == [Interval("20", 10, 20, Strand.REVERSE)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"chr1\ts\tgene\t1\t9\t.\t+\t.\n", r"x\.gff:1: expected 9 tab-separated columns, found 8"),
        (b"chr1\ts\tgene\t0\t9\t.\t+\t.\tx\n", r"x\.gff:1: start 0: GFF and GTF count from 1"),
        (b"chr1\ts\tgene\t5\t3\t.\t+\t.\tx\n", r"x\.gff:1: start 4, end 3: the interval ends before"),
        (b"#\nchr1\ts\tgene\ta\t3\t.\t+\t.\tx\n", r"x\.gff:2: start 'a' is no whole number"),
        (b"chr1\ts\tgene\t1\t3\t.\t*\t.\tx\n", r"x\.gff:1: strand '\*'"),
        (b"##FASTA\n>x\nACGT\n", "holds no intervals"),
    ],
)
def test_malformed_gff_lines_are_named(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read_gff(write(tmp_path / "x.gff", content))


@pytest.mark.parametrize(
    "header", ["contig,start,end,label", "chrom,chromStart,chromEnd,label", "Chr,Start,Stop,label"]
)
def test_tables_with_the_usual_column_names(tmp_path, header):
    regions = read_regions(write(tmp_path / "x.csv", f"{header}\n1,4,9,a\nX,0,1,b\n".encode()))
    assert list(regions) == [Interval("1", 4, 9), Interval("X", 0, 1)]
    assert regions.columns == {"label": ("a", "b")}
    assert regions.lines.tolist() == [2, 3]


def test_contigs_of_tables_stay_text(tmp_path):
    assert read_regions(write(tmp_path / "x.csv", b"contig,start,end\n01,4,9\n"))[0].contig == "01"
    lacking = write(tmp_path / "x.jsonl", b'{"contig": "1", "start": 1, "end": 2}\n{"start": 1, "end": 2}\n')
    with pytest.raises(InputError, match=r"x\.jsonl:2: the contig name is empty"):
        read_regions(lacking)


def test_tables_may_count_from_one(tmp_path):
    path = write(tmp_path / "x.tsv", b"seqname\tstart\tend\tstrand\n7\t1\t3\t-\n")
    assert list(read_interval_table(path, counts_from=1)) == [Interval("7", 0, 3, Strand.REVERSE)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"contig,begin\n1,2\n", r"x\.csv: no end column, expected one called end, .* \(columns: 'contig', 'begin'\)"),
        (b"contig,start,end\n1,2,3\n1,5,\n", r"x\.csv:3: end None is no whole number"),
        (b"contig,start,end\n1,2,3.5\n", r"x\.csv:2: end 3\.5 is no whole number"),
        (b"contig,start,end\n1,9,3\n", r"x\.csv:2: start 9, end 3"),
    ],
)
def test_malformed_tables_are_named(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read_interval_table(write(tmp_path / "x.csv", content))


def test_intervals_are_checked_against_the_genome(tmp_path):
    genome = Genome(write(tmp_path / "g.fa", fasta({"1": b"ACGTACGT", "2": b"ACG"})))
    good = read_bed(write(tmp_path / "x.bed", b"2\t0\t3\n1\t0\t8\n"))
    assert good.contig_ids(genome).tolist() == [1, 0]
    past = read_bed(write(tmp_path / "x.bed", b"1\t0\t8\n2\t1\t4\n"))
    with pytest.raises(
        InputError, match=r"x\.bed:2: end 4 is past the end of 2 \(3 bp\) .*made for another assembly\?"
    ):
        past.contig_ids(genome)
    other = read_bed(write(tmp_path / "x.bed", b"# c\nchr1\t0\t8\n"))
    with pytest.raises(InputError, match=r"x\.bed:2: .*no contig 'chr1'; it is called '1' there"):
        other.contig_ids(genome)


def test_attributes_need_a_gff(tmp_path):
    with pytest.raises(InputError, match="only GFF and GTF"):
        read_bed(write(tmp_path / "x.bed", b"1\t0\t8\n")).attribute("ID")
