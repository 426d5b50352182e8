"""Random numbers that are a function of (seed, epoch, sample, position, purpose) and of nothing else.

They do not depend on the number of workers or ranks, on the batch a sample falls into, or on the device: everything is
integer arithmetic on int64 tensors, which wraps around alike everywhere. The generator is SplitMix64 (Steele, Lea,
Flood 2014): each (seed, epoch, sample, purpose) has its own 64-bit start, and position k takes the (k+1)-th output.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The 64 bits as a two's complement number, which is what torch's int64 holds."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: zeros come in from the left also for negative numbers."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64-bit words; int64, any shape."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def key64(*parts: int | str) -> int:
    """A signed 64-bit number from numbers and names; stable across versions, machines and processes."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True, slots=True)
class SampleRng:
    """Per-sample random numbers of one epoch. `stream` names the purpose: different names are independent draws."""

    seed: int
    epoch: int

    def bits(self, index: Tensor, columns: int, stream: str) -> Tensor:
        """[B, columns] int64, 64 random bits each, on the device of `index`.

        Args:
            index: [B] int64, row of each sample in its source.
        """
        start = mix64(mix64(index.long() + key64(self.seed, self.epoch, stream)) + _GOLDEN)  # [B]
        steps = torch.arange(1, columns + 1, device=index.device, dtype=torch.int64) * _GOLDEN  # [columns]
        return mix64(start.unsqueeze(1) + steps)

    def uniform(self, index: Tensor, columns: int, stream: str) -> Tensor:
        """[B, columns] float32 in [0, 1), multiples of 2^-24."""
        return _shift_right(self.bits(index, columns, stream), 40).float().mul_(2.0**-24)

    def integers(self, index: Tensor, columns: int, stream: str, *, high: int) -> Tensor:
        """[B, columns] int64 in 0..high-1, for high up to 2^31; no value is favoured by more than high / 2^32."""
        return _shift_right(_shift_right(self.bits(index, columns, stream), 32) * high, 32)

    def coins(self, index: Tensor, stream: str, *, probability: float) -> Tensor:
        """[B] bool, True with that probability."""
        return self.uniform(index, 1, stream).squeeze(1) < probability
