"""Interval and variant arithmetic against naive sets of positions, and the notations people write."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargaff.errors import InputError
from chargaff.seq.interval import Interval, Strand, Variant

strands = st.sampled_from(list(Strand))
intervals = st.builds(
    lambda contig, start, width, strand: Interval(contig, start, start + width, strand),
    st.sampled_from(["chr1", "2", "HLA-A*01:01"]),
    st.integers(-30, 60),
    st.integers(0, 40),
    strands,
)


def places(interval: Interval) -> set[tuple[str, int]]:
    return {(interval.contig, position) for position in range(interval.start, interval.end)}


@given(intervals, intervals)
def test_overlap_and_intersection_agree_with_sets_of_positions(a, b):
    shared = places(a) & places(b)
    assert a.overlaps(b) == bool(shared)
    common = a.intersect(b)
    assert (places(common) if common else set()) == shared
    assert common is None or common.strand == a.strand
    if b.width_bp:
        assert a.contains(b) == (places(b) <= places(a))


@given(intervals, st.integers(0, 70))
def test_clip_keeps_exactly_the_positions_on_the_contig(interval, length):
    clipped = interval.clip(length)
    expected = {(contig, position) for contig, position in places(interval) if 0 <= position < length}
    assert (places(clipped) if clipped else set()) == expected


@given(intervals, st.integers(-20, 20))
def test_shift_moves_in_reading_direction(interval, offset):
    sign = -1 if interval.strand is Strand.REVERSE else 1
    expected = {(contig, position + sign * offset) for contig, position in places(interval)}
    assert places(interval.shift(offset)) == expected
    assert interval.shift(offset).shift(-offset) == interval


@given(intervals, st.integers(0, 50))
def test_resize_keeps_the_centre_and_can_be_undone(interval, width):
    resized = interval.resize(width)
    assert resized.width_bp == width
    assert abs((resized.start + resized.end) - (interval.start + interval.end)) <= 1
    assert resized.resize(interval.width_bp) == interval


@given(intervals, st.integers(0, 50))
def test_resize_treats_both_strands_alike(interval, width):
    def mirror(i: Interval) -> Interval:
        return Interval(i.contig, -i.end, -i.start, i.strand)

    forward = Interval(interval.contig, interval.start, interval.end, Strand.FORWARD)
    reverse = Interval(interval.contig, -interval.end, -interval.start, Strand.REVERSE)
    a, b = forward.resize(width), mirror(reverse.resize(width))
    assert (a.start, a.end) == (b.start, b.end)


@given(intervals)
def test_printed_intervals_parse_back(interval):
    if interval.start >= 0 and interval.width_bp:
        assert Interval.parse(str(interval)) == interval
    assert pickle.loads(pickle.dumps(interval)) == interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chr1:1,000-2,000", Interval("chr1", 999, 2000)),
        ("chr1:1000", Interval("chr1", 999, 1000)),
        (" 20:5-5:- ", Interval("20", 4, 5, Strand.REVERSE)),
        ("HLA-A*01:01:3-7", Interval("HLA-A*01:01", 2, 7)),
    ],
)
def test_common_notations(text, expected):
    assert Interval.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chr1", "expected contig:first-last"),
        ("chr1:0-5", "counts from 1"),
        ("chr1:9-5", "last base 5 is before first base 9"),
        ("chr1:a-b", "expected contig:first-last"),
        (":1-5", "expected contig:first-last"),
        ("", "expected contig:first-last"),
    ],
)
def test_bad_notations_are_explained(text, words):
    with pytest.raises(InputError, match=words):
        Interval.parse(text)


def test_impossible_intervals_are_refused():
    with pytest.raises(InputError, match="end 3 is before start 4"):
        Interval("chr1", 4, 3)
    with pytest.raises(InputError, match="empty"):
        Interval("", 0, 1)
    with pytest.raises(InputError, match="'x'"):
        Interval("chr1", 0, 1, "x")
    with pytest.raises(InputError, match="negative"):
        Interval("chr1", 0, 1).resize(-1)


def test_intervals_sort_by_contig_start_end():
    rows = [Interval("b", 0, 1), Interval("a", 5, 6), Interval("a", 2, 9), Interval("a", 2, 3)]
    assert sorted(rows) == [rows[3], rows[2], rows[1], rows[0]]


def test_strand_text_becomes_a_strand():
    assert Interval("c", 0, 1, "-").strand is Strand.REVERSE
    assert [strand.flip() for strand in Strand] == [Strand.REVERSE, Strand.FORWARD, Strand.NONE]


@pytest.mark.parametrize(
    "text", ["chr1:12,345:A>G", "chr1:12345:a:g", "chr1:12345A>G", "chr1-12345-A-G", "chr1:12345:A/G"]
)
def test_variant_notations(text):
    variant = Variant.parse(text)
    assert variant == Variant("chr1", 12344, b"A", b"G")
    assert str(variant) == "chr1:12345:A>G"
    assert variant.is_snv
    assert variant.interval == Interval("chr1", 12344, 12345)


def test_indels_cover_their_reference_bases():
    variant = Variant.parse("2:10:ACG>A")
    assert not variant.is_snv
    assert (variant.interval.start, variant.interval.end) == (9, 12)
    assert Variant.parse(str(variant)) == variant


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Variant.parse("rs123"), "expected contig:position:REF>ALT"),
        (lambda: Variant.parse("1:0:A>G"), "counts from 1"),
        (lambda: Variant("1", 5, b"A", b"A"), "ref and alt are the same"),
        (lambda: Variant("1", 5, b"", b"A"), "ref '' must be"),
        (lambda: Variant("1", 5, b"A", b"<DEL>"), "alt '<DEL>' must be"),
        (lambda: Variant("1", -1, b"A", b"G"), "before the first base"),
        (lambda: Variant("", 1, b"A", b"G"), "contig name is empty"),
    ],
)
def test_impossible_variants_are_explained(make, words):
    with pytest.raises(InputError, match=words):
        make()
