"""Opening a genome for training: splits by region file, contigs or blocks, and places that are never shown."""

import numpy as np
import pytest

from chargaff.data.holdout import read_held_out
from chargaff.data.sources import Partition, open_windows
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.seq.interval import Interval
from tests.conftest import shared_data


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    contigs = {"1": 10_240, "2": 5_000, "3": 3_000}
    path.write_text("".join(f">{name}\n{''.join(rng.choice(list('ACGT'), n))}\n" for name, n in contigs.items()))
    return path


def bases(source):
    return {
        (source.genome.contigs[contig], base)
        for contig, start in zip(*source.places(range(len(source))), strict=True)
        for base in range(start, start + source.window_bp)
    }


def test_the_fourth_column_of_a_region_file_names_the_split(genome, tmp_path):
    bed = tmp_path / "regions.bed"
    bed.write_text("1\t0\t100\ttrain\n2\t50\t60\tvalid\n1\t512\t600\ttrain\n")
    source = open_windows(genome, 64, regions=bed, parent_bp=256)
    assert [source[row].id for row in (0, 3, 4)] == ["1:1-64", "1:193-256", "1:513-576"]
    assert len(open_windows(genome, 64, regions=bed, parent_bp=256, split="valid")) == 4


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        (
            "1\t0\t10\ttrain\n",
            {"split": "test"},
            InputError,
            "no region of split 'test'; the fourth column holds train",
        ),
        ("1\t0\t10\n", {}, InputError, "fourth must name the split"),
        ("1\t0\t10\ttrain\n1\t10000\t10241\ttrain\n", {}, InputError, r"bed:2: end 10241 is past the end of 1 \(10240"),
        ("chr1\t0\t10\ttrain\n", {}, InputError, "bed:1: .*no contig 'chr1'"),
        ("1\t0\t10\ttrain\n", {"partition": Partition()}, ConfigError, "a partition has no use beside it"),
    ],
)
def test_region_files_that_do_not_fit_are_refused(genome, tmp_path, rows, options, error, message):
    bed = tmp_path / "regions.bed"
    bed.write_text(rows)
    with pytest.raises(error, match=message):
        open_windows(genome, 64, regions=bed, parent_bp=256, **options)


def test_contigs_divide_a_genome(genome):
    partition = Partition(valid_contigs=("3",), test_contigs=("2",))
    parts = {s: bases(open_windows(genome, 100, split=s, partition=partition)) for s in ("train", "valid", "test")}
    assert {s: {contig for contig, _ in part} for s, part in parts.items()} == {
        "train": {"1"},
        "valid": {"3"},
        "test": {"2"},
    }


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.0), (0.0, 0.2), (0.2, 0.3)])
def test_fractions_divide_a_genome_into_disjoint_parts(genome, valid, test):
    partition = Partition(valid_fraction=valid, test_fraction=test, seed=4)
    wanted = [("train", 1 - valid - test), *([("valid", valid)] if valid else []), *([("test", test)] if test else [])]
    parts = [(fraction, bases(open_windows(genome, 64, split=s, partition=partition))) for s, fraction in wanted]
    union = set().union(*(part for _, part in parts))
    assert sum(len(part) for _, part in parts) == len(union)
    assert union == bases(open_windows(genome, 64))
    for fraction, part in parts:
        assert abs(len(part) / len(union) - fraction) < 0.03


def test_without_a_partition_all_is_training_data(genome):
    assert len(open_windows(genome, 1000)) == 10 + 5 + 3
    with pytest.raises(ConfigError, match="give valid_contigs or valid_fraction"):
        open_windows(genome, 1000, split="valid")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_fraction": 0.6, "test_fraction": 0.4}, "less than 1 together"),
        ({"valid_fraction": -0.1}, "at least 0 each"),
        ({"valid_fraction": 0.1, "test_contigs": ("1",)}, "both are given"),
        ({"valid_contigs": ("1",), "test_contigs": ("1", "2")}, "contigs 1 are named for validation and for test"),
    ],
)
def test_impossible_partitions_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Partition(**options)


def test_unknown_contigs_of_a_partition_are_named(genome):
    with pytest.raises(InputError, match="no contig 'chr3'; it is called '3' there"):
        open_windows(genome, 100, partition=Partition(valid_contigs=("chr3",)))


@pytest.mark.parametrize("name", ["held_out.bed", "held_out.tsv"])
def test_no_window_shows_a_held_out_base(genome, tmp_path, name):
    path = tmp_path / name
    rows = [("a", "1", 300, 420), ("a", "1", 5_000, 5_001), ("b", "2", 0, 4_000), ("b", "X", 0, 9)]
    if name.endswith(".bed"):
        path.write_text("".join(f"{contig}\t{start}\t{end}\n" for _, contig, start, end in rows))
    else:
        lines = [f"{species}\tsomewhere\t{contig}\t{start}\t{end}" for species, contig, start, end in rows]
        path.write_text("\n".join(["# a comment", "species\tsource\tsource_sequence\tstart\tend", *lines, ""]))
    banned = {(contig, base) for _, contig, start, end in rows for base in range(start, end)}
    source = open_windows(genome, 100, exclude=path)
    assert not bases(source) & banned
    assert len(source) == (102 - 3) + (50 - 40) + 30


def test_the_species_of_a_list_can_be_chosen(genome, tmp_path):
    path = tmp_path / "held_out.tsv"
    path.write_text("species\tcontig\tstart\tend\na\t1\t0\t10\nb\t2\t5\t9\n")
    contigs = Genome(genome).contigs
    assert read_held_out(path, contigs) == [Interval("1", 0, 10), Interval("2", 5, 9)]
    assert read_held_out(path, contigs, species="b") == [Interval("2", 5, 9)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("contig\tstart\tend\nchr1\t0\t10\n", "no interval lies on the genome; it names chr1, the genome 1, 2, 3"),
        ("contig\tstart\tend\n1\t0\tten\n", "tsv:2: no interval"),
        ("contig\tstart\tend\n1\t9\t3\n", "tsv:2: no interval .*end 3 is before start 9"),
        ("contig\tstart\tend\n1\t9\n", "tsv:2: no interval"),
        ("contig\tfrom\tend\n1\t0\t10\n", "tsv:1: expected columns start, end and one of contig"),
        ("# nothing\n", "no interval lies on the genome"),
    ],
)
def test_lists_that_would_hold_nothing_out_are_refused(genome, tmp_path, content, message):
    path = tmp_path / "held_out.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_held_out(path, Genome(genome).contigs)


def test_the_projects_list_keeps_the_human_test_region_unseen(tmp_path):
    held_out = shared_data("data/holdout.tsv")
    path = tmp_path / "20.fa"
    path.write_text(">20\n" + "ACGT" * 300_000 + "\n")
    source = open_windows(path, 1024, exclude=held_out, exclude_species="Homo_sapiens")
    assert source.places(range(len(source)))[1].max() + 1024 <= 1_000_000
    assert len(source) == 1_000_000 // 1024
