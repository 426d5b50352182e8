"""Windows of long-context training: what lies outside a contig, and that a sample depends on its number alone."""

import numpy as np
import pytest

from chargaff.data.long_windows import (
    LabelledWindows,
    RegionWindows,
    SpeciesWindows,
    fixed_windows,
    legal_starts,
    species_chromosomes,
    window_around,
)
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import to_string
from chargaff.seq.interval import Interval

SEQUENCE = "ACGTACGTTTGACCANNNACGGTA"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(f">chr1\n{SEQUENCE}\n>chr2\n{SEQUENCE[::-1]}\n")
    return Genome(path)


@pytest.mark.parametrize(
    ("start", "end", "window_bp", "expected"),
    [(10, 20, 10, (10, 20)), (10, 20, 4, (10, 14)), (10, 20, 13, (9, 22)), (0, 2, 8, (-3, 5))],
)
def test_a_short_region_is_widened_and_a_long_one_loses_its_end(start, end, window_bp, expected):
    assert window_around(Interval("chr1", start, end), window_bp) == expected


def test_ends_of_the_contig_are_missing_or_filled(genome):
    regions = [Interval("chr1", 0, 2), Interval("chr1", 20, 24)]
    assert to_string(RegionWindows(genome, regions, window_bp=8)[0].views[0]) == SEQUENCE[:5]
    filled = RegionWindows(genome, regions, window_bp=8, fill_ends=True)
    assert [to_string(filled[row].views[0]) for row in range(2)] == ["..." + SEQUENCE[:5], SEQUENCE[18:] + ".."]


def test_fixed_windows_cover_their_range_once():
    found = list(fixed_windows({"chr1": (3, 20)}, 8))
    assert [(window.start, window.end) for window in found] == [(3, 11), (11, 19), (19, 20)]


def test_starts_keep_a_window_inside_what_is_left_of_the_contig():
    assert legal_starts(60, 20) == (0, 40)
    assert legal_starts(60, 20, 0.2) == (12, 28)
    assert legal_starts(60, 20, 0.2, as_published=True) == (12, 48)
    assert legal_starts(10, 20) == (0, 0)


def test_a_species_sample_depends_on_seed_and_number_alone(genome):
    def make(seed):
        return SpeciesWindows({"a": genome, "b": genome}, {"a": ["chr1"], "b": ["chr2"]}, 10, 50, seed=seed)

    first, again, other = make(1), make(1), make(2)
    rows = [3, 0, 49, 3]
    assert all(np.array_equal(first[row].views[0], again[row].views[0]) for row in rows)
    assert [first[row].id for row in range(50)] != [other[row].id for row in range(50)]
    assert {first[row].target for row in range(50)} == {0, 1}
    assert all(len(first[row].views[0]) == 10 for row in range(50))


def test_a_contig_shorter_than_the_window_is_filled_on_the_left(genome):
    source = SpeciesWindows({"a": genome}, {"a": ["chr1"]}, 30, 1)
    assert to_string(source[0].views[0]) == "N" * 6 + SEQUENCE


def test_splits_of_a_species_share_no_chromosome():
    for species in ("human", "gorilla", "mouse"):
        splits = [set(species_chromosomes(species, split)) for split in ("train", "valid", "test")]
        assert sum(map(len, splits)) == len(set.union(*splits))
    with pytest.raises(ConfigError, match="expected one of human"):
        species_chromosomes("dodo", "train")


def test_labelled_windows_are_centred(genome, tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text("Chr_No,Start,End,y_a,y_b\n0,4,8,True,False\n1,0,4,False,False\n")
    windows = LabelledWindows(genome, path, window_bp=8)
    assert to_string(windows[0].views[0]) == SEQUENCE[2:10]
    assert to_string(windows[1].views[0]) == ".." + SEQUENCE[::-1][:6]
    assert windows[0].target.tolist() == [1.0, 0.0]
    with pytest.raises(ConfigError, match="cannot be centred"):
        LabelledWindows(genome, path, window_bp=7)


def test_a_table_without_labels_is_refused(genome, tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text("Chr_No,Start,End\n0,4,8\n")
    with pytest.raises(InputError, match="expected the columns"):
        LabelledWindows(genome, path, window_bp=8)
