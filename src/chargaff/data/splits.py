"""Seeded and positional divisions of data into training, validation and test rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from chargaff.errors import ConfigError
from chargaff.seq.interval import Interval

Indices = NDArray[np.int64]


def torch_split(num_rows: int, seed: int, valid_fraction: float = 0.1) -> tuple[Indices, Indices]:
    """(validation, training) rows, those of torch's `random_split` with lengths [fraction, 1 - fraction] and a seed.

    The training part is rounded down and validation takes the rest, as in torch, which hands out what rounding
    leaves over from the first part on.
    """
    _check(num_rows, valid_fraction)
    num_valid = num_rows - math.floor(num_rows * (1 - valid_fraction))
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed)).numpy()
    return order[:num_valid], order[num_valid:]


def hub_split(num_rows: int, seed: int, valid_fraction: float = 0.1) -> tuple[Indices, Indices]:
    """(validation, training) rows, as `train_test_split(test_size=fraction, seed=seed)` of the `datasets` package.

    That function permutes with numpy's default generator, rounds the first part up and the second down.
    """
    _check(num_rows, valid_fraction)
    num_valid = math.ceil(num_rows * valid_fraction)
    order = np.random.default_rng(seed).permutation(num_rows)
    return order[:num_valid], order[num_valid:]


def contig_split(contigs: Sequence[str], held_out: Collection[str]) -> tuple[Indices, Indices]:
    """(rows on held-out contigs, all other rows), both in the given order."""
    unknown = set(held_out) - set(contigs)
    if unknown:
        raise ConfigError(f"held-out contigs {sorted(unknown)} have no row; contigs are {sorted(set(contigs))[:10]}")
    inside = np.fromiter((contig in held_out for contig in contigs), dtype=bool, count=len(contigs))
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def region_split(
    contigs: Sequence[str], starts: NDArray[np.int64], ends: NDArray[np.int64], regions: Collection[Interval]
) -> tuple[Indices, Indices]:
    """(rows wholly inside one of the regions, rows that touch none); rows that straddle a border are in neither.

    Args:
        starts, ends: [R], 0-based, end exclusive.
    """
    names = np.asarray(contigs, dtype=object)
    inside, touches = np.zeros(len(names), dtype=bool), np.zeros(len(names), dtype=bool)
    for region in regions:
        here = names == region.contig
        inside |= here & (starts >= region.start) & (ends <= region.end)
        touches |= here & (starts < region.end) & (ends > region.start)
    return np.flatnonzero(inside), np.flatnonzero(~touches)


def block_split(
    contigs: Sequence[str] | NDArray[np.integer],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    seed: int,
    valid_fraction: float = 0.1,
    block_bp: int = 1_000_000,
) -> tuple[Indices, Indices]:
    """(validation, training) rows, divided by position: whole blocks of `block_bp` go to one side.

    Blocks are drawn in seeded order until they hold `valid_fraction` of the rows, so neighbours rarely part. Rows that
    straddle a border between the sides are in neither.

    Args:
        contigs: [R] names or numbers.
        starts, ends: [R], 0-based, end exclusive.
    """
    _check(len(starts), valid_fraction)
    contig = np.unique(np.asarray(contigs), return_inverse=True)[1]
    number = np.concatenate([starts, ends - 1]) // block_bp
    key = np.tile(contig, 2) * (int(number.max()) + 1) + number
    block = np.unique(key, return_inverse=True)[1]
    first, last = np.split(block, 2)
    num_rows = np.bincount(first, minlength=int(block.max()) + 1)
    order = np.random.default_rng(seed).permutation(len(num_rows))
    before = np.cumsum(num_rows[order]) - num_rows[order]
    is_valid = np.zeros(len(num_rows), dtype=bool)
    is_valid[order[before < valid_fraction * len(starts)]] = True
    return np.flatnonzero(is_valid[first] & is_valid[last]), np.flatnonzero(~is_valid[first] & ~is_valid[last])


def _check(num_rows: int, valid_fraction: float) -> None:
    if num_rows < 2:
        raise ConfigError(f"a split needs at least 2 rows, got {num_rows}")
    if not 0 < valid_fraction < 1:
        raise ConfigError(f"valid_fraction: expected a number between 0 and 1, got {valid_fraction}")
