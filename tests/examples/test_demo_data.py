"""The demo's data: small, as its README says, held out where it must be, and free of leaks."""

import hashlib
import re

import numpy as np
import pytest
from conftest import REPOSITORY

from chargaff.data.holdout import HeldOut, read_held_out
from chargaff.data.leakage import strandless_keys
from chargaff.data.splice import CLASSES, read_exons
from chargaff.io.fasta import Genome
from chargaff.io.records import read_records
from chargaff.io.tables import read_table
from chargaff.seq.interval import Interval, Strand

DATA = REPOSITORY / "examples" / "data"
HELD_OUT_REGION = Interval("20", 1_000_000, 11_000_000)
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def held_out():
    return HeldOut(read_held_out(DATA / "holdout.tsv.gz", ["20"], species="Homo_sapiens"), ["20"])


@pytest.fixture(scope="module")
def windows():
    return {split: read_table(DATA / f"splice_{split}.tsv.gz").to_pydict() for split in SPLITS}


@pytest.fixture(scope="module")
def slices():
    """(interval on chromosome 20, bases) of each record."""
    found = []
    for record in read_records(DATA / "chr20_slices.fa.gz"):
        first, last = map(int, re.fullmatch(r"chr20_(\d+)_(\d+)", record.id).groups())
        found.append((Interval("20", first - 1, last), record.sequence))
    return found


def test_everything_is_under_two_megabytes():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 2_000_000


def test_the_readme_holds_every_checksum():
    listed = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|", (DATA / "README.md").read_text(), flags=re.M))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in DATA.glob("*.gz")}
    assert listed == found


def overlaps(held_out, starts, ends):
    return held_out.overlap(np.zeros(len(starts), np.int64), np.asarray(starts), np.asarray(ends))


def test_training_sees_nothing_that_is_held_out(held_out, windows, slices):
    (training, _), _ = slices
    assert not overlaps(held_out, [training.start], [training.end]).any()
    for split in ("train", "valid"):
        assert not overlaps(held_out, windows[split]["start"], windows[split]["end"]).any()


def test_tests_lie_in_the_held_out_region(windows, slices):
    _, (genes, _) = slices
    assert HELD_OUT_REGION.start <= genes.start < genes.end <= HELD_OUT_REGION.end
    assert min(windows["test"]["start"]) >= HELD_OUT_REGION.start
    assert max(windows["test"]["end"]) <= HELD_OUT_REGION.end


def test_slices_are_as_long_as_their_names_say_and_have_no_gap(slices):
    for interval, bases in slices:
        assert len(bases) == interval.end - interval.start
        assert set(bases.tobytes()) == set(b"ACGT")


def test_windows_are_the_bases_at_their_coordinates(windows, slices):
    """Checked where a window lies in one of the slices, on both strands."""
    complement = bytes.maketrans(b"ACGT", b"TGCA")
    checked = set()
    for columns in windows.values():
        for sequence, start, end, strand in zip(
            *(columns[c] for c in ("sequence", "start", "end", "strand")), strict=True
        ):
            for interval, bases in slices:
                if interval.start <= start and end <= interval.end:
                    here = bases[start - interval.start : end - interval.start].tobytes()
                    expected = here if strand == "+" else here.translate(complement)[::-1]
                    assert sequence.encode() == expected
                    checked.add(strand)
    assert checked == {"+", "-"}


def test_windows_are_centred_on_their_site(windows):
    """Nearly all introns begin with GT and end with AG."""
    for columns in windows.values():
        middle = len(columns["sequence"][0]) // 2
        rows = list(zip(columns["sequence"], columns["label"], strict=True))
        donors = [sequence[middle : middle + 2] == "GT" for sequence, label in rows if label == "donor"]
        acceptors = [sequence[middle - 2 : middle] == "AG" for sequence, label in rows if label == "acceptor"]
        assert np.mean(donors) > 0.95
        assert np.mean(acceptors) > 0.95


def test_no_window_occurs_twice_on_either_strand(windows):
    every = [row for split in SPLITS for row in windows[split]["sequence"]]
    keys = strandless_keys(np.array([np.frombuffer(row.encode(), np.uint8) for row in every]))
    assert len(set(keys)) == len(every)


def test_classes_are_balanced(windows):
    for split in SPLITS:
        counts = [windows[split]["label"].count(name) for name in CLASSES]
        assert sum(counts) == len(windows[split]["label"])
        assert min(counts) > 0.7 * max(counts)


def test_the_exons_lie_in_the_gene_record(slices):
    _, (genes, _) = slices
    name = f"chr20_{genes.start + 1}_{genes.end}"
    exons, elsewhere = read_exons(DATA / "chr20_genes.gtf.gz", Genome(DATA / "chr20_slices.fa.gz"))
    assert not elsewhere
    assert {exon.interval.contig for exon in exons} == {name}
    assert {exon.interval.strand for exon in exons} == {Strand.FORWARD, Strand.REVERSE}


def test_contigs_are_twenty_of_each_species():
    records = list(read_records(DATA / "six_bacteria.fa.gz"))
    species = [record.id.rpartition("_")[0] for record in records]
    assert {name: species.count(name) for name in species} == dict.fromkeys(species, 20)
    assert len(set(species)) == 6
    assert {len(record.sequence) for record in records} == {5_000}
