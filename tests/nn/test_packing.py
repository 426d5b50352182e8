"""Packing keeps the real tokens, in order, and nothing else."""

import pytest
import torch

from chargaff.nn.packing import pack, packing_of, unpack

MASKS = {
    "full": [[1, 1, 1], [1, 1, 1]],
    "right": [[1, 1, 0], [1, 0, 0]],
    "left": [[0, 1, 1], [0, 0, 1]],
    "empty row": [[0, 0, 0], [1, 1, 0]],
    "nothing": [[0, 0, 0]],
}


@pytest.mark.parametrize("values", [*MASKS.values(), [[1, 0, 1], [1, 1, 0]]], ids=[*MASKS, "hole"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_unpack_is_the_inverse_and_puts_zeros_elsewhere(values, dtype):
    mask = torch.tensor(values, dtype=dtype)
    x = torch.randn(*mask.shape, 2, 4)
    packing = packing_of(mask)
    packed = pack(x, packing)
    assert torch.equal(packed, x[mask.bool()])
    assert torch.equal(unpack(packed, packing), x * mask[..., None, None])
    assert packing.lengths == tuple(mask.sum(1).tolist())
    assert sum(packing.lengths) == len(packed)
    columns = torch.arange(mask.shape[1]).expand(mask.shape)
    assert torch.equal(packing.positions, columns[mask.bool()])


@pytest.mark.parametrize("values", MASKS.values(), ids=MASKS)
def test_consecutive_tokens_have_no_holes(values):
    assert not packing_of(torch.tensor(values)).has_holes


@pytest.mark.parametrize("values", [[[1, 0, 1]], [[1, 1, 1], [1, 0, 1]], [[0, 1, 0, 1, 0]]])
def test_holes_are_seen(values):
    assert packing_of(torch.tensor(values)).has_holes


def test_gradients_pass_through_both_ways():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    packing = packing_of(mask)
    x = torch.randn(2, 3, 2, requires_grad=True)
    unpack(2 * pack(x, packing), packing).sum().backward()
    assert torch.equal(x.grad, 2 * mask[..., None].expand(2, 3, 2).float())
