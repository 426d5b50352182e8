"""Splice windows: exact sites on a toy genome, and what may never be among the others."""

import numpy as np
import pytest

from chargaff.data.leakage import first_occurrence, seen_in, strandless_keys
from chargaff.data.splice import CLASSES, Exon, SpliceSpec, splice_windows
from chargaff.errors import ConfigError, InputError
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.seq.interval import Interval, Strand

RNG = np.random.default_rng(3)
TOY = "".join(RNG.choice(list("ACGT"), 2000))
for _start, _bases in ((100, "GT"), (298, "AG"), (700, "CT"), (898, "AC")):
    TOY = TOY[:_start] + _bases + TOY[_start + 2 :]


def exon(start, end, strand="+", transcript="t1", gene="g1", contig="c"):
    return Exon(Interval(contig, start, end, Strand(strand)), transcript, gene)


EXONS = [
    exon(50, 100),
    exon(300, 400),
    exon(900, 1000, "-", "t2", "g2"),
    exon(600, 700, "-", "t2", "g2"),
]


def rows(windows):
    strands = np.where(windows.is_reverse, "-", "+")
    return {
        (CLASSES[label], int(start), int(end), str(strand))
        for label, start, end, strand in zip(windows.label, windows.start, windows.end, strands, strict=True)
    }


def make(exons, toy=TOY, **options):
    return splice_windows({"c": to_array(toy)}.__getitem__, exons, SpliceSpec(window_bp=20, **options))


def test_sites_of_both_strands_are_exactly_the_annotated_ones():
    windows, counts = make(EXONS, neither_ratio=0)
    assert rows(windows) == {
        ("donor", 90, 110, "+"),
        ("acceptor", 290, 310, "+"),
        ("acceptor", 690, 710, "-"),
        ("donor", 890, 910, "-"),
    }
    assert sum(counts.values()) == 0
    for label, sequence in zip(windows.label, windows.sequence, strict=True):
        middle = to_string(sequence[10:12] if CLASSES[label] == "donor" else sequence[8:10])
        assert middle == {"donor": "GT", "acceptor": "AG"}[CLASSES[label]]


def test_every_window_reads_in_transcript_direction():
    windows, _ = make(EXONS, neither_ratio=20)
    for start, end, is_reverse, sequence in zip(
        windows.start, windows.end, windows.is_reverse, windows.sequence, strict=True
    ):
        piece = to_array(TOY[start:end])
        assert to_string(sequence) == to_string(reverse_complement(piece) if is_reverse else piece)


def test_introns_of_one_transcript_only_make_sites():
    exons = [*EXONS, exon(420, 450, transcript="t3"), exon(405, 415, transcript="t4"), exon(470, 480, "-", "t3")]
    assert rows(make(exons, neither_ratio=0)[0]) == rows(make(EXONS, neither_ratio=0)[0])


def test_the_same_site_in_several_transcripts_is_one_window():
    exons = [*EXONS, exon(10, 100, transcript="t5"), exon(300, 350, transcript="t5")]
    assert rows(make(exons, neither_ratio=0)[0]) == rows(make(EXONS, neither_ratio=0)[0])


def test_short_gaps_between_exons_are_no_introns():
    exons = [exon(50, 100), exon(119, 400)]
    with pytest.raises(InputError, match="hold no intron"):
        make(exons)
    assert len(make(exons, min_intron_bp=19, neither_ratio=0)[0]) == 2


def test_windows_past_an_edge_or_with_n_are_left_out_and_counted():
    exons = [exon(0, 9, transcript="a"), exon(300, 400, transcript="a")]
    windows, counts = make(exons, neither_ratio=0)
    assert (rows(windows), counts["past a contig's end"]) == ({("acceptor", 290, 310, "+")}, 1)
    windows, counts = make(EXONS, toy=TOY[:95] + "n" + TOY[96:], neither_ratio=0)
    assert (len(windows), counts["with unknown bases"]) == (3, 1)


def test_windows_that_contradict_each_other_are_dropped_on_either_strand():
    repeat = TOY[90:110]
    other = to_string(reverse_complement(to_array(repeat)))
    exons = [*EXONS, exon(1450, 1500, transcript="t6"), exon(1600, 1700, transcript="t6")]
    windows, counts = make(exons, toy=TOY[:1490] + repeat + TOY[1510:], neither_ratio=0)  # two donors
    assert (counts["contradicting"], len(windows)) == (0, 6)
    windows, counts = make(exons, toy=TOY[:1590] + other + TOY[1610:], neither_ratio=0)  # a donor and an acceptor
    assert counts["contradicting"] == 2
    assert rows(windows).isdisjoint({("donor", 90, 110, "+"), ("acceptor", 1590, 1610, "+")})
    assert len(windows) == 4


def test_others_keep_their_distance_and_decoys_look_like_sites():
    windows, _ = make(EXONS, neither_ratio=20, decoy_fraction=1, decoy_margin_bp=12)
    others = windows.select(windows.label == CLASSES.index("neither"))
    assert len(others) > 20
    sites = np.array([100, 300, 700, 900])
    middle = others.start + 10
    assert np.abs(middle[:, None] - sites).min() > 12
    for start, is_reverse, sequence in zip(middle, others.is_reverse, others.sequence, strict=True):
        assert to_string(sequence[10:12]) == "GT" or to_string(sequence[8:10]) == "AG"
        assert (600 <= start <= 1000) if is_reverse else (50 <= start <= 400)


def test_classes_are_of_about_equal_size_by_default():
    windows, _ = make(EXONS * 1, neither_ratio=2.0, decoy_fraction=0.5)
    assert np.bincount(windows.label).tolist() == [2, 2, 4]


def test_the_seed_decides_the_others_and_nothing_else_does():
    first, again, other = (make(EXONS, neither_ratio=8, seed=seed)[0] for seed in (1, 1, 2))
    assert rows(first) == rows(again)
    assert rows(first) != rows(other)
    assert rows(make(list(reversed(EXONS)), neither_ratio=8, seed=1)[0]) == rows(first)


def test_several_contigs_are_ordered_by_name_and_position():
    genome = {"b": to_array(TOY), "a": to_array(TOY[::-1])}
    exons = [
        exon(50, 100, contig="b"),
        exon(300, 400, contig="b"),
        exon(50, 100, contig="a"),
        exon(300, 400, contig="a"),
    ]
    windows, _ = splice_windows(genome.__getitem__, exons, SpliceSpec(window_bp=20, neither_ratio=0))
    places = list(zip(windows.contig, windows.start.tolist(), strict=True))
    assert places == [("a", 90), ("a", 290), ("b", 90), ("b", 290)]


def test_exons_without_strand_or_intron_are_refused():
    with pytest.raises(InputError, match=r"exon c:51-100 of 't1' has no strand"):
        make([exon(50, 100, ".")])
    with pytest.raises(InputError, match="hold no intron"):
        make([])


@pytest.mark.parametrize("options", [{"window_bp": 21}, {"window_bp": 2}, {"neither_ratio": -1}, {"decoy_fraction": 2}])
def test_impossible_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        SpliceSpec(**options)


def test_repeats_are_found_on_both_strands():
    sequences = [to_array(text) for text in ("AACG", "CGTT", "AACG", "TTTT", "AAAA", "ACG")]
    keys = strandless_keys(sequences)
    assert first_occurrence(keys).tolist() == [0, 0, 0, 3, 3, 5]
    others = strandless_keys([to_array("CGTT"), to_array("CGT")])
    assert seen_in(keys, others).tolist() == [True, True, True, False, False, True]
