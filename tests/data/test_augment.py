"""Augmentation on tokens and on bytes decides and changes alike."""

import numpy as np
import pytest
import torch

from chargaff.data.augment import (
    HostAugment,
    mirror,
    random_mutation,
    random_reverse_complement,
    random_shift,
    reverse_complement,
)
from chargaff.data.batch import Example
from chargaff.data.loader import Collate, TokenRule
from chargaff.data.rng import SampleRng
from chargaff.seq.alphabet import reverse_complement as reverse_complement_bytes
from chargaff.seq.interval import Interval, Strand
from chargaff.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer.standard()
COMPLEMENT = torch.as_tensor(TOKENIZER.complement)
RNG = SampleRng(11, 2)
BASES = torch.tensor([7, 8, 9, 10], dtype=torch.uint8)


def examples(lengths: list[int]) -> list[Example]:
    rng = np.random.default_rng(3)
    letters = np.frombuffer(b"ACGTN", np.uint8)
    return [
        Example((letters[rng.integers(0, 5, length)],), interval=Interval("c", 5, 5 + length)) for length in lengths
    ]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_tokens_of_the_reverse_complement_are_those_of_its_bytes(padding):
    rows = examples([1, 63, 100, 7])
    collate = Collate(TOKENIZER, TokenRule(padding=padding))
    batch = collate(rows, np.arange(4))
    other = collate([Example((reverse_complement_bytes(row.views[0]),)) for row in rows], np.arange(4))
    got = reverse_complement(batch.tokens, COMPLEMENT, batch.mask)
    assert got.dtype == torch.uint8
    assert torch.equal(got, other.tokens)
    assert torch.equal(reverse_complement(got, COMPLEMENT, batch.mask), batch.tokens)


def test_mirror_of_unpadded_rows_is_a_flip():
    values = torch.arange(12).reshape(3, 4)
    assert torch.equal(mirror(values, None), values.flip(1))
    assert torch.equal(mirror(values, torch.ones(3, 4, dtype=torch.bool)), values.flip(1))


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_device_and_host_flip_the_same_rows_the_same_way(probability):
    rows = examples([40] * 200)
    index = np.arange(1000, 1200)
    collate = Collate(TOKENIZER, TokenRule())
    batch = collate(rows, index)
    on_device, is_flipped = random_reverse_complement(batch.tokens, batch.index, COMPLEMENT, RNG, probability)
    on_host = HostAugment(rc_probability=probability)(rows, index, RNG)
    assert torch.equal(collate(on_host, index).tokens, on_device)
    assert abs(float(is_flipped.float().mean()) - probability) < 0.15
    strands = [item.interval.strand == Strand.REVERSE for item in on_host if item.interval.strand != Strand.NONE]
    assert all(strands)


def test_shift_moves_rows_both_ways_and_fills_with_padding():
    tokens = torch.arange(100, 130, dtype=torch.uint8).repeat(500, 1)
    moved = random_shift(tokens, torch.arange(500), RNG, max_shift=3, fill_id=4)
    offsets = set()
    for row in moved:
        real = row != 4
        first = int(real.int().argmax())
        offset = first if row[0] == 4 else 100 - int(row[0])
        offsets.add(offset)
        expected = torch.full((30,), 4, dtype=torch.uint8)
        if offset >= 0:
            expected[offset:] = tokens[0, : 30 - offset]
        else:
            expected[:offset] = tokens[0, -offset:]
        assert torch.equal(row, expected)
    assert offsets == set(range(-3, 4))
    assert torch.equal(random_shift(tokens, torch.arange(500), RNG, 0, 4), tokens)


def test_mutation_changes_bases_only_to_each_of_the_others():
    tokens = torch.tensor([7, 8, 9, 10, 11, 4, 3], dtype=torch.uint8).repeat(3000, 1)
    changed = random_mutation(tokens, torch.arange(3000), RNG, 0.3, BASES)
    assert torch.equal(changed[:, 4:], tokens[:, 4:])
    is_changed = changed[:, :4] != tokens[:, :4]
    assert abs(float(is_changed.float().mean()) - 0.3) < 0.02
    for column in range(4):
        found = changed[is_changed[:, column], column]
        assert sorted(found.unique().tolist()) == sorted({7, 8, 9, 10} - {7 + column})
        shares = torch.bincount(found.long(), minlength=11)[7:].float() / len(found)
        assert (shares[torch.arange(4) != column] - 1 / 3).abs().max() < 0.07


def test_host_mutates_as_the_device_does():
    rows = [Example((np.frombuffer(b"ACGTACGTNNACGT" * 4, np.uint8),)) for _ in range(50)]
    index = np.arange(50)
    collate = Collate(TOKENIZER, TokenRule())
    batch = collate(rows, index)
    on_host = collate(HostAugment(mutation_probability=0.2)(rows, index, RNG), index)
    assert torch.equal(on_host.tokens, random_mutation(batch.tokens, batch.index, RNG, 0.2, BASES))
    assert not torch.equal(on_host.tokens, batch.tokens)
