"""Overlap with held-out places, against plain loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chargaff.data.holdout import HeldOut
from chargaff.seq.interval import Interval

CONTIGS = ("1", "2", "3")

places = st.tuples(st.sampled_from(CONTIGS), st.integers(0, 60), st.integers(0, 12))
queries = st.tuples(st.integers(0, 2), st.integers(-10, 90), st.integers(0, 20))


@given(st.lists(places, max_size=12), st.lists(queries, min_size=1, max_size=30))
def test_overlap_is_that_of_a_plain_loop(held_out, asked):
    intervals = [Interval(contig, start, start + width) for contig, start, width in held_out]
    contig, start, width = (np.array(column, dtype=np.int64) for column in zip(*asked, strict=True))
    found = HeldOut(intervals, CONTIGS).overlap(contig, start, start + width)
    bases = {(i.contig, b) for i in intervals for b in range(i.start, i.end)}
    for row, (c, s, w) in enumerate(asked):
        assert found[row] == any((CONTIGS[c], b) in bases for b in range(s, s + w))


def test_touching_intervals_are_one_and_foreign_contigs_are_none():
    held_out = HeldOut([Interval("1", 0, 5), Interval("1", 5, 9), Interval("1", 3, 4), Interval("X", 0, 5)], CONTIGS)
    assert len(held_out) == 1
