"""Every base of a place is answered by some window, whatever the cut into pieces; windows stay inside their contig."""

import numpy as np
import pytest

from chargaff.data.tiling import Frame, Place, blend_weights, find_places, merge_intervals, plan_pieces
from chargaff.errors import ConfigError
from chargaff.seq.interval import Interval


def covered(pieces, contig):
    """How often each base of the contig is answered within its piece."""
    count = {}
    for piece in pieces:
        seen = np.zeros(piece.end - piece.start, int)
        for start in piece.windows.tolist():
            first, last = max(start, piece.start), min(start + piece.answered_bp, piece.end)
            seen[first - piece.start : last - piece.start] += 1
        for place, times in enumerate(seen.tolist(), piece.start):
            assert (piece.place.contig, place) not in count
            count[piece.place.contig, place] = times
    return {place: times for (name, place), times in count.items() if name == contig}


@pytest.mark.parametrize("length", [1, 20, 99, 100, 101, 500, 1234])
@pytest.mark.parametrize("piece", [1, 64, 300, 10_000])
@pytest.mark.parametrize("overlap", [0, 10, 50])
def test_every_base_of_a_contig_is_answered(length, piece, overlap):
    frame = Frame(100, multiple_bp=10)
    pieces = plan_pieces([Place("a", 0, length, 0, length)], frame, overlap_bp=overlap, piece_bp=piece)
    assert sorted(covered(pieces, "a")) == list(range(length))
    assert min(covered(pieces, "a").values()) >= 1
    for part in pieces:
        assert part.windows.min() >= 0
        assert part.answered_bp % 10 == 0
        assert length < 100 or (part.windows + part.answered_bp <= length).all()


@pytest.mark.parametrize("place", [(0, 1), (499, 500), (40, 60), (30, 470), (0, 500), (250, 251)])
def test_a_place_has_surroundings(place):
    pieces = plan_pieces([Place("a", *place, 0, 500)], Frame(100), overlap_bp=20, piece_bp=1000)
    (piece,) = pieces
    assert (piece.start, piece.end) == place
    assert min(covered(pieces, "a").values()) >= 1
    if place == (250, 251):
        assert piece.windows.tolist() == [201]  # in the middle


def test_windows_do_not_depend_on_the_cut_into_pieces():
    def windows(piece):
        plan = plan_pieces([Place("a", 7, 993, 0, 1000)], Frame(100), overlap_bp=25, piece_bp=piece)
        return sorted({start for part in plan for start in part.windows.tolist()})

    assert windows(10) == windows(137) == windows(5000)


def test_models_of_one_input_length_read_beyond_the_contig():
    frame = Frame(400, output_offset_bp=100, output_bp=200, is_fixed=True)
    pieces = plan_pieces([Place("a", 0, 333, 0, 333)], frame, overlap_bp=40, piece_bp=50)
    assert min(covered(pieces, "a").values()) >= 1
    assert all(piece.answered_bp == 200 for piece in pieces)


def test_weights_of_neighbours_add_up_to_a_constant():
    weight = blend_weights(100, 30)
    assert np.allclose(weight[-30:] + weight[:30], 1)
    assert (weight[30:70] == 1).all()
    assert (blend_weights(10, 0) == 1).all()
    assert blend_weights(5, 4).min() > 0


def test_unknown_stretches_are_left_out():
    intervals, unknown = [Interval("a", 0, 100), Interval("b", 5, 10)], {"a": [(0, 10), (50, 60), (90, 120)]}
    found = find_places(intervals, {"a": 130, "b": 12}, unknown, crosses_unknown=False)
    assert found == [Place("a", 10, 50, 10, 50), Place("a", 60, 90, 60, 90), Place("b", 5, 10, 0, 12)]
    found = find_places(intervals, {"a": 130, "b": 12}, unknown, crosses_unknown=True)
    assert found[0] == Place("a", 10, 50, 0, 130)
    assert not find_places([Interval("a", 3, 7)], {"a": 130}, unknown, crosses_unknown=True)


def test_overlapping_intervals_become_one():
    intervals = [Interval("b", 1, 5), Interval("a", 10, 20), Interval("a", 15, 30), Interval("a", 30, 31)]
    assert merge_intervals(intervals, ["a", "b"]) == [Interval("a", 10, 31), Interval("b", 1, 5)]


def test_impossible_options_are_named():
    with pytest.raises(ConfigError, match="overlap-bp"):
        plan_pieces([Place("a", 0, 9, 0, 9)], Frame(100), overlap_bp=100, piece_bp=10)
