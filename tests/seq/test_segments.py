"""Segments are the runs of a label; their agreement is SOV'99 as its formula says."""

import numpy as np
import pytest

from chargaff.seq.segments import Segments, segment_overlap, segments_of


def runs(text):
    return segments_of(np.array([letter == "#" for letter in text]))


def naive_sov(observed, predicted):
    """The formula of the segment sheet, pair by pair."""
    score = norm = 0.0
    for a, b in zip(*observed, strict=True):
        partners = [(c, d) for c, d in zip(*predicted, strict=True) if min(b, d) > max(a, c)]
        norm += (b - a) * max(len(partners), 1)
        for c, d in partners:
            low, high = min(b, d) - max(a, c), max(b, d) - min(a, c)
            delta = min(high - low, low, (b - a) // 2, (d - c) // 2)
            score += (low + delta) / high * (b - a)
    return 100 * score / norm if norm else float("nan")


@pytest.mark.parametrize(
    ("text", "expected"), [("", []), ("...", []), ("###", [(0, 3)]), ("#..##", [(0, 1), (3, 5)]), (".#", [(1, 2)])]
)
def test_segments_are_the_runs(text, expected):
    assert list(zip(*(part.tolist() for part in runs(text)), strict=True)) == expected


def test_equal_segments_agree_fully_and_none_not_at_all():
    observed = runs("..####...###..")
    assert segment_overlap(observed, observed).sov == 100
    assert segment_overlap(observed, runs("." * 14)).sov == 0
    assert np.isnan(segment_overlap(runs("..."), runs("###")).sov)


def test_overlap_is_the_formula_on_random_labels():
    rng = np.random.default_rng(0)
    for _ in range(100):
        observed, predicted = (segments_of(np.repeat(rng.random(20) < 0.5, rng.integers(1, 6, 20))) for _ in range(2))
        expected = naive_sov(observed, predicted)
        assert segment_overlap(observed, predicted).sov == pytest.approx(expected, nan_ok=True)


def test_sums_add_up_over_sequences():
    one, two = segment_overlap(runs("###..."), runs(".###..")), segment_overlap(runs("##"), runs(".#"))
    far = Segments(*(np.concatenate(part) for part in zip(runs("###..."), (x + 10 for x in runs("##")), strict=True)))
    other = Segments(*(np.concatenate(part) for part in zip(runs(".###.."), (x + 10 for x in runs(".#")), strict=True)))
    both = segment_overlap(far, other)
    assert (both.score, both.norm) == pytest.approx((one.score + two.score, one.norm + two.norm))
