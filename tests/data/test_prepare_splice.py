"""The splice data set: splits by position, no leaks, equal files for equal input, and errors of one line."""

import gzip
import json
import re

import numpy as np
import pytest

from chargaff.cli.main import main
from chargaff.data.composition import table_keys
from chargaff.data.readers import read_sequences
from chargaff.io.records import read_records
from chargaff.io.tables import read_table
from chargaff.seq.alphabet import reverse_complement, to_array, to_string

CONTIGS = {"c1": 60_000, "c2": 40_000}


def gtf_line(contig, feature, start, end, strand, transcript):
    """0-based half-open in, GTF out."""
    attributes = f'gene_id "g{transcript}"; transcript_id "t{transcript}";'
    return f"{contig}\ttest\t{feature}\t{start + 1}\t{end}\t.\t{strand}\t.\t{attributes}\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A genome with genes of three exons every kilobase, canonical sites included."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(5)
    lines, text = [], []
    for contig, length in CONTIGS.items():
        bases = rng.choice(list(b"ACGT"), length).astype(np.uint8)
        for number, start in enumerate(range(500, length - 1500, 1000)):
            strand = "+-"[number % 2]
            for exon in range(3):
                begin, end = start + 300 * exon, start + 300 * exon + 100
                lines.append(gtf_line(contig, "exon", begin, end, strand, f"{contig}.{number}"))
                left, right = (b"AG", b"GT") if strand == "+" else (b"AC", b"CT")
                if exon > 0:
                    bases[begin - 2 : begin] = list(left)
                if exon < 2:
                    bases[end : end + 2] = list(right)
        text.append(f">{contig}\n{bases.tobytes().decode()}\n")
    (folder / "genome.fa").write_text("".join(text))
    (folder / "exons.gtf").write_text("# made for a test\n" + "".join(lines))
    return folder / "genome.fa", folder / "exons.gtf"


def prepare(genome, gtf, out, *words):
    return main(["data", "prepare", "splice", "--genome", str(genome), "--gtf", str(gtf), "-o", str(out), *words])


WORDS = ("--window-bp", "40", "--test-regions", "c1:10001-20000", "--valid-block-bp", "5000")


def columns(path):
    return read_table(path, types={"contig": "text"}).to_pydict()


def test_splits_are_divided_by_position_and_share_no_sequence(inputs, tmp_path, capsys):
    assert prepare(*inputs, tmp_path / "out", *WORDS) == 0
    printed = capsys.readouterr().out
    rows = {split: columns(tmp_path / "out" / f"{split}.parquet") for split in ("train", "valid", "test")}
    for split, table in rows.items():
        inside = [
            contig == "c1" and start >= 10_000 and end <= 20_000
            for contig, start, end in zip(table["contig"], table["start"], table["end"], strict=True)
        ]
        assert all(inside) if split == "test" else not any(inside)
        assert set(table["label"]) == {"acceptor", "donor", "neither"}
        counts = [str(table["label"].count(name)) for name in ("acceptor", "donor", "neither")]
        assert [split, *counts] in [line.split() for line in printed.splitlines()]
    keys = {split: table_keys(read_sequences(tmp_path / "out" / f"{split}.parquet")) for split in rows}
    assert not set(keys["train"]) & set(keys["valid"])
    assert not set(keys["test"]) & {*keys["train"], *keys["valid"]}
    sites = sum(label != "neither" for table in rows.values() for label in table["label"])
    assert sites == 4 * (58 + 38)  # two introns in each gene of the two contigs, none across a border
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert manifest["report"]["dinucleotides"] == {"acceptor": {"AG": 1.0}, "donor": {"GT": 1.0}}
    assert [item["name"] for item in manifest["provenance"]["inputs"]] == ["genome.fa", "exons.gtf"]


def test_every_row_is_the_genome_at_its_place(inputs, tmp_path):
    prepare(*inputs, tmp_path / "out", *WORDS, "--format", "tsv.gz")
    contigs = {record.id: record.sequence for record in read_records(inputs[0])}
    for split in ("train", "valid", "test"):
        table = columns(tmp_path / "out" / f"{split}.tsv.gz")
        for bases, contig, start, end, strand in zip(
            *(table[name] for name in ("sequence", "contig", "start", "end", "strand")), strict=True
        ):
            piece = contigs[contig][start:end]
            assert bases == to_string(reverse_complement(piece) if strand == "-" else piece)


def test_equal_input_gives_equal_bytes(inputs, tmp_path):
    for name in ("a", "b"):
        prepare(*inputs, tmp_path / name, *WORDS, "--format", "tsv.gz")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_excluded_places_are_in_no_training_or_validation_window(inputs, tmp_path):
    held_out = tmp_path / "held_out.bed"
    held_out.write_text("c2\t0\t30000\nc1\t15000\t25000\n")
    prepare(*inputs, tmp_path / "out", *WORDS, "--exclude", str(held_out))
    for split in ("train", "valid"):
        table = columns(tmp_path / "out" / f"{split}.parquet")
        for contig, start, end in zip(table["contig"], table["start"], table["end"], strict=True):
            assert (contig == "c2" and start >= 30_000) or (contig == "c1" and (end <= 15_000 or start >= 25_000))
    assert max(columns(tmp_path / "out" / "test.parquet")["start"]) > 15_000


def test_a_training_sequence_that_stands_in_the_test_set_is_dropped(inputs, tmp_path):
    genome, gtf = inputs
    contigs = {record.id: to_string(record.sequence) for record in read_records(genome)}
    # a gene of the test region, copied as it is to c2 and as its reverse complement to the end of c1
    gene = contigs["c1"][10_400:11_400]
    copied = contigs["c2"][:20_400] + gene + contigs["c2"][21_400:]
    turned = contigs["c1"][:50_400] + to_string(reverse_complement(to_array(gene))) + contigs["c1"][51_400:]
    other = tmp_path / "genome.fa"
    other.write_text(f">c1\n{turned}\n>c2\n{copied}\n")
    extra = tmp_path / "exons.gtf"
    kept = [line for line in gtf.read_text().splitlines(True) if "c1.50" not in line and "c2.20" not in line]
    flipped = [  # the gene has number 10, strand +, exons 100, 400 and 700 after 10,400
        gtf_line("c1", "exon", 51_400 - end, 51_400 - start, "-", "copy") for start, end in ((100, 200), (400, 500))
    ]
    straight = [gtf_line("c2", "exon", 20_400 + at, 20_500 + at, "+", "copy2") for at in (100, 400)]
    extra.write_text("".join([*kept, *flipped, *straight]))
    prepare(other, extra, tmp_path / "out", *WORDS, "--neither-ratio", "0")
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    dropped = manifest["report"]["dropped"]
    # donor and acceptor of the gene's first intron, both in the copy and in the reverse complement
    assert dropped["that stand in an evaluation split"] + dropped["repeated in their split"] == 4
    test = columns(tmp_path / "out" / "test.parquet")
    assert 10_400 + 200 - 20 in test["start"]


def test_classes_can_be_thinned(inputs, tmp_path):
    prepare(*inputs, tmp_path / "out", *WORDS, "--max-train-per-class", "20", "--max-eval-per-class", "7")
    report = json.loads((tmp_path / "out" / "dataset.json").read_text())["report"]
    assert set(report["rows"]["train"].values()) == {20}
    assert set(report["rows"]["test"].values()) == {7}


def test_plain_gzip_and_lower_case_give_the_same_rows(inputs, tmp_path):
    genome, gtf = inputs
    packed = tmp_path / "genome.fa.gz"
    head, *rest = genome.read_text().split("\n")
    packed.write_bytes(
        gzip.compress("\n".join([head, *(x if x.startswith(">") else x.lower() for x in rest)]).encode())
    )
    squeezed = tmp_path / "exons.gtf.gz"
    squeezed.write_bytes(gzip.compress(gtf.read_bytes()))
    prepare(genome, gtf, tmp_path / "a", *WORDS)
    prepare(packed, squeezed, tmp_path / "b", *WORDS)
    assert columns(tmp_path / "a" / "train.parquet") == columns(tmp_path / "b" / "train.parquet")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (gtf_line("chr1", "exon", 10, 20, "+", "x"), (), "exons.gtf:1: .*no contig 'chr1'"),
        (gtf_line("c2", "exon", 39_000, 40_001, "+", "x"), (), r"exons.gtf:1: end 40001 is past the end of c2 \(40000"),
        (gtf_line("c2", "gene", 10, 20, "+", "x"), (), "exons.gtf: .*exon"),
        ('c2\ttest\texon\t1\t5\t.\t+\t.\tgene_id "g";\n', (), "exons.gtf:1: the exon has neither transcript_id nor"),
        (gtf_line("c2", "exon", 10, 20, ".", "x"), (), "exon c2:11-20 of 'tx' has no strand"),
        (gtf_line("c2", "exon", 10, 20, "+", "x"), (), "the exons hold no intron"),
        ("", (), "exons.gtf: the file is empty"),
        (None, ("--window-bp", "41"), "window_bp: expected an even number"),
        (None, ("--test-regions", "c3:1-100"), "no contig 'c3'"),
        (None, ("--test-regions", "c2:1-50000"), r"test region c2:1-50000: past the end of c2 \(40,000 bp\)"),
        (None, ("--test-regions", "c1:1-60"), "no window is left for the test split"),
        (None, ("--test-regions", "c1:1-60000", "--test-regions", "c2:1-40000"), "no window is left for the train"),
        (None, ("--valid-fraction", "1.5"), "valid_fraction: expected a number between 0 and 1"),
        (None, ("--exclude", "nowhere.bed"), "nowhere.bed: no such file"),
        (None, ("--format", "xlsx"), "xlsx"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(inputs, tmp_path, capsys, text, words, message):
    genome, gtf = inputs
    if text is not None:
        gtf = tmp_path / "exons.gtf"
        gtf.write_text(text)
    assert prepare(genome, gtf, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(inputs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert prepare(*inputs, tmp_path / "out", *WORDS) == 2
    assert "exists already" in capsys.readouterr().err
    assert prepare(*inputs, tmp_path / "out", *WORDS, "--overwrite") == 0
    assert (tmp_path / "out" / "test.parquet").exists()


def test_contigs_without_sequence_are_left_out_and_named(inputs, tmp_path):
    genome, gtf = inputs
    more = tmp_path / "more.gtf"
    more.write_text(gtf.read_text() + gtf_line("MT", "exon", 10, 20, "+", "x"))
    prepare(genome, more, tmp_path / "out", *WORDS)
    report = json.loads((tmp_path / "out" / "dataset.json").read_text())["report"]
    assert report["contigs_without_sequence"] == ["MT"]
