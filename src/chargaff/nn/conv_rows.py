"""Convolutions and matrix products for inference on the CPU: positions as rows, [L, C], a piece at a time.

A stage of a convolutional tower is local, so a piece of its output needs a piece of its input and a few rows around
it. Nothing inside a stage ever exists at full length, and what lies between two products stays in the cache.

All products go through the library's convolution, whose kernels use the processor's widest vectors whoever made it;
its matrix product does not everywhere (a factor of two on recent AMD processors).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.ops.affine_gelu import Form, affine_gelu

PIECE = 2048
"""Rows of one piece; even, so that pairs stay together."""
FEW_CHANNELS = 128
"""A convolution with fewer inputs, all taps counted, is one product over copies of them."""


def is_applicable(x: Tensor) -> bool:
    """Whether this way of computing is meant for a call: float32 on the CPU, without gradients, not traced."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def pieces(length: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the pieces of `length` rows."""
    yield from ((start, min(start + PIECE, length)) for start in range(0, length, PIECE))


def row_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: [l, C] with weight [C', C] -> [l, C']."""
    return _convolve(x, weight[:, :, None, None], bias)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x) for a linear layer, or for what an adapter has put around one: [..., C] -> [..., C']."""
    if not (is_applicable(x) and isinstance(layer, nn.Linear)):
        out: Tensor = layer(x)
        return out
    return row_product(x.flatten(0, -2), layer.weight, layer.bias).view(*x.shape[:-1], -1)


def softplus_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """softplus(x weight^T + bias) in float32: [B, l, C] with weight [C', C] -> [B, l, C']."""
    if not is_applicable(x):
        return F.softplus(F.linear(x, weight, bias).float())
    out = x.new_empty(*x.shape[:2], weight.shape[0])
    for row, target in zip(x, out, strict=True):
        for start, stop in pieces(len(row)):
            torch.ops.aten.softplus.out(row_product(row[start:stop], weight, bias), out=target[start:stop])
    return out


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[l + k - 1, C] with weight [C', C, 1, k] -> [l, C']."""
    image = x.contiguous()[None, None].permute(0, 3, 1, 2)  # [1, C, 1, l], channels last in memory
    return F.conv2d(image, weight, bias).permute(0, 2, 3, 1)[0, 0].contiguous()


@dataclass(frozen=True, slots=True)
class NormGelu:
    """A batch norm with its running statistics, then GELU."""

    scale: Tensor
    """[C]"""
    shift: Tensor
    """[C]"""
    form: Form
    """Of the GELU."""

    @classmethod
    def of(cls, norm: nn.BatchNorm1d, form: Form) -> "NormGelu":
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return cls(scale, norm.bias - norm.running_mean * scale, form)

    def __call__(self, x: Tensor) -> Tensor:
        """[l, C] -> [l, C]"""
        return affine_gelu(x, self.scale, self.shift, self.form)


@dataclass(frozen=True, slots=True)
class RowConv:
    """A "same" convolution of rows."""

    weight: Tensor
    """[C', C, 1, k], or [C', k C, 1, 1] where the taps of a few channels stand side by side."""
    bias: Tensor | None
    taps: int
    """k"""

    @classmethod
    def of(cls, conv: nn.Conv1d) -> "RowConv":
        weight, taps = conv.weight.unsqueeze(2), conv.kernel_size[0]
        if weight.shape[1] * taps < FEW_CHANNELS:
            weight = weight.permute(0, 3, 2, 1).flatten(1)[:, :, None, None]
        return cls(weight.contiguous(memory_format=torch.channels_last), conv.bias, taps)

    @property
    def width(self) -> int:
        """C'"""
        return self.weight.shape[0]

    def __call__(
        self, x: Tensor, start: int, stop: int, activation: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Rows start..stop-1 of the convolution of activation(x); x is [L, C], and zeros lie outside of it."""
        first, last = start - self.taps // 2, stop + self.taps - 1 - self.taps // 2
        piece = x[max(first, 0) : last]
        if activation is not None:
            piece = activation(piece)
        missing = (max(-first, 0), max(last - x.shape[0], 0))
        if any(missing):
            piece = F.pad(piece, (0, 0, *missing))
        if self.weight.shape[3] < self.taps:
            piece = piece.unfold(0, self.taps, 1).transpose(1, 2).flatten(1)  # [l, k C]
        return _convolve(piece, self.weight, self.bias)
