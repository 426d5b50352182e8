"""One vector a row: which positions each pooling takes."""

import pytest
import torch

from chargaff.nn.encoded import Encoded
from chargaff.nn.pooling import pool, pool_strands

HIDDEN = torch.arange(2 * 6 * 3, dtype=torch.float32).view(2, 6, 3)


@pytest.mark.parametrize(
    ("mask", "columns"),
    [
        (None, [(2, 3), (2, 3)]),
        ([[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]], [(2,), (3, 4)]),
        ([[1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1]], [(2,), (5,)]),
    ],
)
def test_the_centre_is_the_middle_of_what_counts(mask, columns):
    found = pool(HIDDEN, None if mask is None else torch.tensor(mask).bool(), "centre")
    wanted = torch.stack([HIDDEN[row, list(picked)].mean(0) for row, picked in enumerate(columns)])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("how", ["mean", "max", "first", "last", "centre"])
def test_a_row_without_anything_that_counts_is_zero(how):
    mask = torch.tensor([[True] * 6, [False] * 6])
    found = pool(HIDDEN, mask, how)
    assert found[0].any()
    assert not found[1].any()


def test_both_strands_share_the_centre():
    both = pool_strands(Encoded(HIDDEN, HIDDEN + 100), None, "centre")
    torch.testing.assert_close(both[1], both[0] + 100)
