"""The scripts around the bundled checkpoint: what is trained on, what is judged, what the card says of it."""

import re

import numpy as np
import pytest

from chargaff.io.fasta import Genome
from chargaff.io.regions import read_bed
from examples.mini import corpus
from examples.mini.card import verdict
from examples.mini.corpus import SPECIES, STAGES, Place, write_corpus
from examples.mini.counts import count
from examples.mini.evaluate import (
    REGION,
    WINDOW_BP,
    Masked,
    Windows,
    divide,
    held_out_windows,
    hide,
    repeated,
    training_part,
)

PYLORI, HUMAN = "Helicobacter_pylori", "Homo_sapiens"


def write_fasta(path, **records):
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in records.items()))
    return path


@pytest.fixture
def genomes(tmp_path, monkeypatch):
    """Two toy genomes, with one held-out place each."""
    rng = np.random.default_rng(0)
    bases = "".join("ACGT"[i] for i in rng.integers(0, 4, 120 * WINDOW_BP))
    places = [Place(PYLORI, "c1", 2048, 4096), Place(HUMAN, "20", 0, 9 * WINDOW_BP)]
    monkeypatch.setattr(corpus, "read_places", lambda: iter(places))
    return {
        "human_chr20": write_fasta(tmp_path / "human.fa", **{"20": bases}),
        "helicobacter_pylori": write_fasta(tmp_path / "pylori.fa", c1=bases[::-1]),
    }


def test_every_stage_names_known_species():
    for times in STAGES.values():
        assert set(times) <= set(SPECIES.values())
        assert min(times.values()) > 1


def test_held_out_places_are_left_out_of_every_copy(genomes, tmp_path):
    fasta, bed, held_out = write_corpus(genomes, tmp_path, {PYLORI: 3})
    copies = [f"{PYLORI}.c1", f"{PYLORI}.c1_copy2", f"{PYLORI}.c1_copy3"]
    assert Genome(fasta).contigs == (f"{HUMAN}.20", *copies)
    places = [(place.contig, place.start, place.end) for place in read_bed(bed)]
    assert places == [(f"{HUMAN}.20", 0, 9 * WINDOW_BP), *((copy, 2048, 4096) for copy in copies)]
    source = Genome(genomes["helicobacter_pylori"])
    assert bytes(Genome(held_out).fetch(f"{PYLORI}.c1:2048-4096")) == bytes(source.fetch("c1", 2048, 4096))
    assert bytes(Genome(fasta).fetch(copies[2])) == bytes(source.fetch("c1"))


def test_counts_see_each_base_once_and_no_held_out_one(genomes, tmp_path):
    write_corpus(genomes, tmp_path, {PYLORI: 3})
    train = training_part(tmp_path, PYLORI)
    assert len(train) == 1
    assert (train[0][2048:4096] == 4).all()
    assert (train[0] < 4).sum() == 118 * WINDOW_BP
    rest, kept = divide(train)
    assert len(kept.codes) == 12
    assert (rest[0] < 4).sum() == (118 - 12) * WINDOW_BP


def test_counts_are_those_of_a_search_on_both_strands():
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 5, 3000).astype(np.uint8) for _ in range(2)]
    windows = Masked(rng.integers(0, 5, (3, 60)).astype(np.uint8), rng.random((3, 60)) < 0.2, np.arange(3))
    asked = [windows.targets(see_all) for see_all in (False, True)]
    strands = ["".join("ACGTN"[i] for i in part) for part in train]
    strands += [strand[::-1].translate(str.maketrans("ACGT", "TGCA")) for strand in strands]
    for targets, counts in zip(asked, count(train, asked, 2), strict=True):
        text = "".join("ACGTN"[i] for i in targets.sequence)
        for k, seen in enumerate(counts.seen, 1):
            for at, found in zip(targets.position, seen, strict=True):
                left, right = text[max(0, at - k) : at], text[at + 1 : at + 1 + k]
                whole = len(left) == k == len(right) and "N" not in left + right
                patterns = [f"(?={left}{base}{right})" for base in "ACGT"]
                wanted = [sum(len(re.findall(p, s)) for s in strands) if whole else 0 for p in patterns]
                assert found.tolist() == wanted
    assert sum(seen.sum() for seen in counts.seen) > 100


def test_a_place_on_an_unknown_contig_stops(genomes, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "read_places", lambda: iter([Place(PYLORI, "c2", 0, 10)]))
    with pytest.raises(SystemExit, match="held-out contig 'c2' is not in the genome"):
        write_corpus(genomes, tmp_path, {})


@pytest.mark.parametrize(("most", "taken"), [(9, range(9)), (8, range(0, 9, 2)), (3, range(0, 9, 3)), (1, range(1))])
def test_windows_are_thinned_evenly(tmp_path, most, taken):
    bases = "".join("ACGT"[i % 4] * WINDOW_BP for i in range(9))
    genome = Genome(write_fasta(tmp_path / "heldout.fa", **{REGION: bases + "A", f"{HUMAN}.X:1-2": "A" * WINDOW_BP}))
    windows = held_out_windows(genome, HUMAN, most)
    assert windows.codes[:, 0].tolist() == [i % 4 for i in taken]
    assert windows.codes.shape[1] == WINDOW_BP
    assert len(windows.block) == len(windows.codes)


@pytest.mark.parametrize(("count", "rate", "times"), [(240, 0.15, 1), (240, 1 / 64, 6), (1250, 1 / 64, 1)])
def test_few_windows_are_read_again(count, rate, times):
    bases = np.zeros((count + 100, WINDOW_BP), np.uint8)
    bases[count:] = 4  # unknown bases do not count
    found = repeated(Windows(bases, np.arange(len(bases))), rate)
    assert found.block.tolist() == [*range(len(bases))] * times
    hidden = hide(found.codes, rate, seed=1).reshape(times, -1)
    assert len({row.tobytes() for row in hidden}) == times


def test_the_verdict_tells_three_cases_apart():
    def rates(nats, low, high):
        found = {"model_minus_counts": {"nats": nats, "low": low, "high": high}}
        same, everything = {"counts, same input": found}, {"counts, all seen": found}
        return {"15 %": same | everything, "1 in 64": everything}

    found = {HUMAN: rates(-0.02, -0.03, -0.01), "A_a": rates(0.01, -0.01, 0.03), "B_b": rates(-0.01, -0.03, 0.01)}
    for line in verdict(found).splitlines():
        assert "on human -0.020 nats, the goal of at least 0.01 below is reached. Not below them: *A a*;" in line
        assert line.endswith("below, by an interval that reaches zero: *B b*.")
    found = {HUMAN: rates(-0.007, -0.01, -0.002)}
    assert "is missed by 0.003. Not below them: none;" in verdict(found)
