"""A one-dimensional U-Net over token states that labels every base (segment sheet 2)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.nn.encoded import Encoded
from chargaff.seq.grid import Grid

CLASSES = 2
"""Absent and present, for each element on its own."""


class ConvBlock(nn.Module):
    """Convolutions of three taps, each followed by SiLU; the last one of the final block is not."""

    def __init__(self, width: int, out_width: int, num_layers: int, *, transposed: bool, closes: bool = True) -> None:
        super().__init__()
        kind = nn.ConvTranspose1d if transposed else nn.Conv1d
        widths = [width, *[out_width] * num_layers]
        self.conv_layers = nn.ModuleList(kind(a, out_width, 3, padding=1) for a in widths[:-1])
        self.closes = closes

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T]"""
        for number, conv in enumerate(self.conv_layers, start=1):
            x = conv(x)
            if self.closes or number < len(self.conv_layers):
                x = F.silu(x)
        return x


class UNet(nn.Module):
    """Halves the length `levels` times and comes back, adding what it saw on the way."""

    def __init__(self, input_width: int, width: int, levels: int, num_layers: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self._downsample_blocks = nn.ModuleList(
            ConvBlock(a, b, num_layers, transposed=False) for a, b in zip([input_width, *widths], widths, strict=False)
        )
        rising = widths[::-1]
        self._upsample_blocks = nn.ModuleList(
            ConvBlock(a, b, num_layers, transposed=True) for a, b in zip([rising[0], *rising], rising, strict=False)
        )
        out_width = width // 2 * 2
        self.final_block = ConvBlock(width, out_width, num_layers, transposed=False, closes=False)
        self.width = out_width

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] with T a multiple of 2^levels -> [B, width, T]"""
        skipped = []
        for block in self._downsample_blocks:
            x = block(x)
            skipped.append(x)
            x = F.avg_pool1d(x, 2)
        for block in self._upsample_blocks:
            x = F.interpolate(block(x), scale_factor=2.0) + skipped.pop()
        out: Tensor = self.final_block(x)
        return out


class SegmentationHead(nn.Module):
    """For every base and element two logits: absent, present."""

    def __init__(
        self,
        input_width: int,
        width: int,
        num_features: int,
        *,
        state_grid: Callable[[int], Grid],
        token_bp: int,
        levels: int = 2,
        num_layers: int = 2,
        num_special: int = 0,
    ) -> None:
        """
        Args:
            input_width: D of the states.
            width: C of the first level; each further one has twice as many channels.
            num_features: elements to tell apart.
            state_grid: where the states of so many bases lie.
            token_bp: bases of a state.
            num_special: states in front that stand for no base; they are left out.
        """
        super().__init__()
        self._state_grid = state_grid
        self.num_features, self.token_bp, self.num_special = num_features, token_bp, num_special
        self.multiple_of = 2**levels
        """The number of states, special ones excluded, must divide by this."""
        self.unet = UNet(input_width, width, levels, num_layers)
        self.fc = nn.Linear(self.unet.width, token_bp * CLASSES * num_features)

    def grid(self, length_bp: int) -> Grid:
        """Where the labels of `length_bp` bases lie: one a base."""
        states = self._state_grid(length_bp)
        return Grid(states.offset_bp, 1, states.size * states.step_bp)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, L, F, 2] float32 logits, L = T * token_bp; with two strands the mean of both.

        Raises:
            InputError: the number of states does not divide, or some are padding, which would leak into the others.
        """
        if mask is not None and not torch.compiler.is_compiling() and not bool(mask.all()):
            raise InputError("segmentation: padded batches change the result near the padding; batch equal lengths")
        logits = self._label(encoded.hidden)
        return logits if encoded.hidden_rc is None else (logits + self._label(encoded.hidden_rc)) / 2

    def _label(self, hidden: Tensor) -> Tensor:
        states = hidden[:, self.num_special :]
        if states.shape[1] % self.multiple_of:
            raise InputError(
                f"segmentation: {states.shape[1]} tokens do not divide by {self.multiple_of}; give sequences of a "
                f"multiple of {self.multiple_of * self.token_bp} bp"
            )
        x = F.silu(self.unet(states.transpose(1, 2))).transpose(1, 2)
        logits: Tensor = self.fc(x).float().reshape(x.shape[0], -1, self.num_features, CLASSES)
        return logits

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fresh weights from torch's global generator (segment sheet 2).

        Convolutions: truncated normal with deviation 1 / sqrt(inputs), bias 0. The last layer: uniform with variance
        2 / inputs.
        """
        for child in self.unet.modules():
            if isinstance(child, nn.Conv1d | nn.ConvTranspose1d):
                deviation = (child.in_channels * child.kernel_size[0]) ** -0.5
                nn.init.trunc_normal_(child.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
                assert child.bias is not None
                nn.init.zeros_(child.bias)
        bound = (6 / self.fc.in_features) ** 0.5
        nn.init.uniform_(self.fc.weight, -bound, bound)
        nn.init.uniform_(self.fc.bias, -bound, bound)
