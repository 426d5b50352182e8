"""Borzoi and Flashzoi: a convolutional tower, a transformer, and the way back up to 32 bp (borzoi sheet 3)."""

from collections.abc import Collection
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.families.borzoi.attention import FlashAttention, angles_for
from chargaff.families.borzoi.config import BorzoiConfig
from chargaff.families.borzoi.positions import position_features
from chargaff.families.protocol import Encoded, InputRule
from chargaff.nn.conv_rows import NormGelu, RowConv, is_applicable, pieces, row_product
from chargaff.nn.one_hot import base_rows, one_hot
from chargaff.nn.relative_attention import RelativeAttention
from chargaff.nn.transformer_tower import Block, centre, run_tower
from chargaff.ops.gelu import gelu as fast_gelu
from chargaff.seq.grid import Grid
from chargaff.tokenizers.char import CharTokenizer

EPS = 1e-3
"""Of batch and layer norms."""
DNA_TAPS, TOWER_TAPS = 15, 5
ATTENTION_DROPOUT = 0.2
"""Of the attention branches, whatever the config says."""


def gelu(x: Tensor) -> Tensor:
    """The tanh form."""
    return F.gelu(x, approximate="tanh")


class ConvBlock(nn.Module):
    """Batch norm, GELU, "same" convolution."""

    def __init__(self, width: int, out_width: int, taps: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, EPS)
        self.conv_layer = nn.Conv1d(width, out_width, taps, padding=taps // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, l] -> [B, C', l]"""
        out: Tensor = self.conv_layer(gelu(self.norm(x)))
        return out

    @property
    def is_plain(self) -> bool:
        """Whether the weights may be used without the layer; one that an adapter wraps must be called."""
        return isinstance(self.conv_layer, nn.Conv1d)

    def mix(self, x: Tensor) -> Tensor:
        """The same for single positions (one tap) as rows: [B, l, C] -> [B, l, C']."""
        if is_applicable(x) and not self.training and self.is_plain:
            activate, layer = NormGelu.of(self.norm, "tanh"), self.conv_layer
            return torch.stack([row_product(activate(row), layer.weight[..., 0], layer.bias) for row in x])
        return self.forward(x.transpose(1, 2)).transpose(1, 2)

    def rows(self, x: Tensor, *, pooled: bool) -> Tensor:
        """The same for [l, C], a piece at a time; with `pooled`, the larger one of each pair of positions."""
        return _rows(x, RowConv.of(self.conv_layer), NormGelu.of(self.norm, "tanh"), pooled=pooled)


class DnaConv(nn.Module):
    """The first convolution, and pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv1d(4, width, DNA_TAPS, padding=DNA_TAPS // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4, L] -> [B, C, L / 2]"""
        return F.max_pool1d(self.conv_layer(x), 2)


class Separable(nn.Module):
    """Three taps for each channel, then a mix of the channels; no norm and no activation."""

    def __init__(self, width: int, out_width: int, *, bias: bool) -> None:
        super().__init__()
        depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False)
        self.conv_layer = nn.Sequential(depthwise, nn.Conv1d(width, out_width, 1, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, l, C] -> [B, l, C']"""
        depthwise, mix = self.conv_layer
        if not (is_applicable(x) and isinstance(depthwise, nn.Conv1d) and isinstance(mix, nn.Conv1d)):
            out: Tensor = mix(depthwise(x.transpose(1, 2))).transpose(1, 2)
            return out
        before, here, after = depthwise.weight[:, 0].t()
        summed = x * here
        summed[:, 1:].addcmul_(x[:, :-1], before)
        summed[:, :-1].addcmul_(x[:, 1:], after)
        return row_product(summed.flatten(0, 1), mix.weight[..., 0], mix.bias).view(*x.shape[:2], -1)


class Borzoi(nn.Module):
    """The trunk, up to what all heads read; a Backbone."""

    bases: Tensor
    """[V, 4] the channels of each token."""

    def __init__(self, config: BorzoiConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.final_width
        self.rule = InputRule(
            multiple_of=config.step_bp, min_tokens=config.min_input_bp, padding="never", n_bases="zero"
        )
        self.checkpointing = False
        first, *widths = config.conv_widths
        dim, up = config.dim, config.upsampled_width
        self.conv_dna = DnaConv(first)
        blocks: list[nn.Module] = []
        for a, b in pairwise([first, *widths]):
            blocks += [nn.MaxPool1d(2)] if blocks else []
            blocks.append(ConvBlock(a, b, TOWER_TAPS))
        self.res_tower = nn.Sequential(*blocks)
        self.unet1 = nn.Sequential(nn.MaxPool1d(2), ConvBlock(widths[-1], dim, TOWER_TAPS))
        self.horizontal_conv0 = ConvBlock(widths[-1], dim, 1)
        self.horizontal_conv1 = ConvBlock(dim, dim, 1)
        self.transformer = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.upsampling_unet1 = nn.Sequential(ConvBlock(dim, dim, 1))
        self.separable1 = Separable(dim, up, bias=config.separable_bias)
        self.upsampling_unet0 = nn.Sequential(ConvBlock(up, dim, 1))
        self.separable0 = Separable(dim, up, bias=config.separable_bias)
        self.final_joined_convs = nn.Sequential(ConvBlock(up, config.final_width, 1))
        self.init_buffers(None)

    def init_buffers(self, device: Any) -> None:
        """The channels of each token."""
        self.register_buffer("bases", base_rows(CharTokenizer.one_hot().vocab, device), persistent=False)

    def grid(self, length_bp: int) -> Grid:
        """Where the states of `length_bp` bases lie."""
        return self.config.state_grid(length_bp)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, L] ids, or [B, L, 4] channels A, C, G, T -> states [B, bins, 1920]; there is no mask.

        Taps, all [B, T, C]: "layer.k" after transformer block k ("layer.0": what goes in), "cropped" before the last
        convolution.

        Raises:
            InputError: the length is no multiple of 128 bases, or too short for the bins to return.
        """
        config = self.config
        if tokens.shape[1] == 0 or tokens.shape[1] % config.step_bp:
            raise InputError(f"Borzoi reads multiples of {config.step_bp} bases, got {tokens.shape[1]}")
        x = one_hot(tokens, self.bases.to(self.conv_dna.conv_layer.weight.dtype))
        fine, middle, x = self._convolve(x)
        positions: Tensor
        if config.flashed:
            positions = angles_for(x.shape[1], config, x.device)
        else:
            positions = position_features(x.shape[1], config.num_rel_pos_features, x.device)
        x, found = run_tower(self.transformer, x, positions, taps, recompute=self.checkpointing)
        x = self._ascend(x, middle, fine)
        if "cropped" in taps:
            found["cropped"] = x
        x = self.final_joined_convs[0].mix(x)  # type: ignore[operator]
        return Encoded(_activate(F.dropout(x, 0.1, self.training)), None, found)

    @property
    def _has_plain_tower(self) -> bool:
        """Whether no adapter wraps a convolution on the way down."""
        blocks = [block for block in (*self.res_tower, *self.unet1) if isinstance(block, ConvBlock)]
        return isinstance(self.conv_dna.conv_layer, nn.Conv1d) and all(block.is_plain for block in blocks)

    def _convolve(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, 4] -> states of 32, 64 and 128 bases, each [B, l, C]."""
        if self.training or not (is_applicable(x) and self._has_plain_tower):
            fine = self.res_tower(self.conv_dna(x.transpose(1, 2)))
            middle = self.unet1(fine)
            return fine.transpose(1, 2), middle.transpose(1, 2), F.max_pool1d(middle, 2).transpose(1, 2)
        states = [self._convolve_rows(row) for row in x]
        fine, middle = (torch.stack(level) for level in zip(*states, strict=True))
        return fine, middle, _larger_of_pairs(middle)

    def _convolve_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[L, 4] -> states of 32 and 64 bases."""
        x = _rows(x, RowConv.of(self.conv_dna.conv_layer), None, pooled=True)
        blocks = [block for block in self.res_tower if isinstance(block, ConvBlock)]
        for block in blocks:
            x = block.rows(x, pooled=block is not blocks[-1])
        deepest = self.unet1[1]
        assert isinstance(deepest, ConvBlock)
        return x, deepest.rows(_larger_of_pairs(x), pooled=False)

    def _ascend(self, x: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """States of 128, 64 and 32 bases -> the returned bins, [B, bins, C].

        Outside training only what the bins depend on is computed: themselves and one neighbour at either end.
        """
        bins = fine.shape[1]
        first, stop = centre(bins, self.config.returned_bins(bins))
        wide = (0, bins) if self.training else (max(first - 1, 0), min(stop + 1, bins))
        begin, end = wide[0] // 2, (wide[1] + 1) // 2
        outer = (0, bins // 2) if self.training else (max(begin - 1, 0), min(end + 1, bins // 2))
        x = self._join(x, middle, outer, self.upsampling_unet1[0], self.horizontal_conv1)
        x = self.separable1(x)[:, begin - outer[0] : end - outer[0]]
        x = self._join(x, fine, wide, self.upsampling_unet0[0], self.horizontal_conv0, offset=begin)
        bins_only: Tensor = self.separable0(x)[:, first - wide[0] : stop - wide[0]]
        return bins_only

    def _join(
        self,
        x: Tensor,
        skipped: Tensor,
        span: tuple[int, int],
        rise: nn.Module,
        across: nn.Module,
        offset: int = 0,
    ) -> Tensor:
        """Positions span[0]..span[1]-1 of upsample(rise(x)) + across(skipped); x begins at position `offset`."""
        assert isinstance(rise, ConvBlock)
        assert isinstance(across, ConvBlock)
        first, stop = span
        low, high = first // 2 - offset, (stop + 1) // 2 - offset
        risen = rise.mix(x[:, low:high]).repeat_interleave(2, 1)
        risen = risen[:, first % 2 : first % 2 + stop - first]
        return risen + across.mix(skipped[:, first:stop])


def _rows(x: Tensor, convolve: RowConv, activate: NormGelu | None, *, pooled: bool) -> Tensor:
    """[l, C] -> [l, C'] or [l / 2, C'], a piece at a time."""
    shrink = 2 if pooled else 1
    out = x.new_empty(x.shape[0] // shrink, convolve.width)
    for start, stop in pieces(x.shape[0]):
        y = convolve(x, start, stop, activate)
        out[start // shrink : stop // shrink] = _larger_of_pairs(y) if pooled else y
    return out


def _larger_of_pairs(x: Tensor) -> Tensor:
    """[..., l, C] -> [..., l / 2, C]"""
    return torch.maximum(x[..., 0::2, :], x[..., 1::2, :])


def _activate(x: Tensor) -> Tensor:
    return fast_gelu(x) if is_applicable(x) else gelu(x)


def _block(config: BorzoiConfig) -> Block:
    attention: nn.Module
    if config.flashed:
        attention = FlashAttention(config)
    else:
        attention = RelativeAttention(
            config.dim,
            config.heads,
            config.attn_dim_key,
            config.attn_dim_value,
            config.num_rel_pos_features,
            dropout=config.attn_dropout,
            feature_dropout=config.pos_dropout,
        )
    return Block(attention, config.dim, EPS, ATTENTION_DROPOUT, config.dropout_rate)
