"""Enformer: convolutions that pool by attention, then a transformer with relative positions (enformer sheet 3)."""

from collections.abc import Collection
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.enformer.config import EnformerConfig
from chargaff.families.enformer.positions import position_features
from chargaff.families.protocol import Encoded, InputRule
from chargaff.nn.conv_rows import NormGelu, RowConv, is_applicable, pieces, row_product
from chargaff.nn.one_hot import base_rows, one_hot
from chargaff.nn.relative_attention import RelativeAttention
from chargaff.nn.transformer_tower import Block, exponential_widths, run_tower
from chargaff.seq.grid import Grid
from chargaff.tokenizers.char import CharTokenizer

STEM_TAPS, TOWER_TAPS = 15, 5


def gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the approximation the published weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


class Gelu(nn.Module):
    """`gelu` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]"""
        return gelu(x)


def conv_block(width: int, out_width: int, taps: int) -> nn.Sequential:
    """Batch norm, GELU, convolution."""
    return nn.Sequential(nn.BatchNorm1d(width), Gelu(), nn.Conv1d(width, out_width, taps, padding=taps // 2))


class Residual(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, l] -> [B, C, l]"""
        out: Tensor = x + self.fn(x)
        return out


class AttentionPool(nn.Module):
    """Softmax-weighted mean of each pair of positions, channel by channel; a last one without a partner stays."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_attn_logits = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, l] -> [B, C, ceil(l / 2)]"""
        paired = x.shape[-1] // 2 * 2
        if paired == 0:
            return x
        first, second = x[..., 0:paired:2], x[..., 1:paired:2]
        # a softmax over two logits is the sigmoid of their difference, and they are linear in x
        difference = first - second
        gate = torch.sigmoid(self._logits(difference))
        pooled = torch.addcmul(second, gate, difference)
        return pooled if paired == x.shape[-1] else torch.cat([pooled, x[..., paired:]], -1)

    def _logits(self, x: Tensor) -> Tensor:
        """[B, C, l] -> [B, C, l]"""
        if isinstance(self.to_attn_logits, nn.Conv2d):
            return F.conv1d(x, self.to_attn_logits.weight.squeeze(-1))
        wrapped: Tensor = self.to_attn_logits(x.unsqueeze(-1)).squeeze(-1)  # an adapter is around it
        return wrapped


class Stage(nn.Sequential):
    """A convolution (0), a residual one over single positions (1), pooling (2)."""

    @property
    def is_plain(self) -> bool:
        """Whether the weights may be used without their layers; those that adapters wrap must be called."""
        opening, residual, pool = self
        first = opening[2] if isinstance(opening, nn.Sequential) else opening
        convs = (first, residual.fn[2], pool.to_attn_logits)  # type: ignore[index]
        return all(isinstance(conv, nn.Conv1d | nn.Conv2d) for conv in convs)

    def rows(self, x: Tensor) -> Tensor:
        """[L, C] -> [ceil(L / 2), C'], a piece at a time."""
        opening, residual, pool = self
        assert isinstance(residual, Residual)
        assert isinstance(pool, AttentionPool)
        convolve, activate = (RowConv.of(opening), None) if isinstance(opening, nn.Conv1d) else _row_block(opening)
        mix, activate_again = _row_block(residual.fn)
        pool_weight = pool.to_attn_logits.weight[:, :, 0, 0]
        out = x.new_empty((x.shape[0] + 1) // 2, mix.width)
        for start, stop in pieces(x.shape[0]):
            y = convolve(x, start, stop, activate)
            y += mix(y, 0, stop - start, activate_again)
            paired = (stop - start) // 2 * 2
            first, second = y[0:paired:2], y[1:paired:2]
            difference = first - second
            gate = row_product(difference, pool_weight).sigmoid_()
            target = out[start // 2 : (stop + 1) // 2]
            torch.addcmul(second, gate, difference, out=target[: paired // 2])
            target[paired // 2 :] = y[paired:]
        return out


def _row_block(block: nn.Module) -> tuple[RowConv, NormGelu]:
    """A convolution of `conv_block` and what goes before it, for rows."""
    assert isinstance(block, nn.Sequential)
    norm, _, conv = block
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(conv, nn.Conv1d)
    return RowConv.of(conv), NormGelu.of(norm, "sigmoid")


class Enformer(nn.Module):
    """The trunk, up to the last transformer block; a Backbone."""

    bases: Tensor
    """[V, 4] the channels of each token."""

    def __init__(self, config: EnformerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.dim
        self.rule = InputRule(multiple_of=config.bin_bp, padding="never", n_bases="zero")
        self.checkpointing = config.use_checkpointing
        half = config.dim // 2
        widths = exponential_widths(half, config.dim, config.num_downsamples - 1, config.dim_divisible_by)
        self.stem = Stage(
            nn.Conv1d(4, half, STEM_TAPS, padding=STEM_TAPS // 2),
            Residual(conv_block(half, half, 1)),
            AttentionPool(half),
        )
        self.conv_tower = nn.Sequential(
            *(
                Stage(conv_block(a, b, TOWER_TAPS), Residual(conv_block(b, b, 1)), AttentionPool(b))
                for a, b in pairwise([half, *widths])
            )
        )
        self.transformer = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.init_buffers(None)

    def init_buffers(self, device: Any) -> None:
        """The channels of each token."""
        self.register_buffer("bases", base_rows(CharTokenizer.one_hot().vocab, device), persistent=False)

    def grid(self, length_bp: int) -> Grid:
        """Where the states of `length_bp` bases lie."""
        return self.config.state_grid(length_bp)

    def _convolve(self, x: Tensor, *, keeps_stem: bool) -> tuple[Tensor, Tensor]:
        """[B, L, 4] -> ([B, ceil(L / 2), C], or something else if the stem is not kept; [B, T, D])."""
        stages = (self.stem, *self.conv_tower)
        if self.training or not is_applicable(x) or not all(stage.is_plain for stage in stages):
            stem = self.stem(x.transpose(1, 2))
            return stem.transpose(1, 2), self.conv_tower(stem).transpose(1, 2)
        stems, towers = [], []
        for row in x:
            row = self.stem.rows(row)
            stems.append(row if keeps_stem else row.new_empty(0))
            for stage in self.conv_tower:
                row = stage.rows(row)  # type: ignore[operator]
            towers.append(row)
        return torch.stack(stems), torch.stack(towers)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, L] ids, or [B, L, 4] channels A, C, G, T -> states [B, ceil(L / 128), D]; there is no mask.

        Taps, all [B, T, C]: "stem", "conv_tower", and "layer.k" after transformer block k ("layer.0": what goes in).
        """
        weight = cast(nn.Conv1d, self.stem[0]).weight
        stem, x = self._convolve(one_hot(tokens, self.bases.to(weight.dtype)), keeps_stem="stem" in taps)
        found = {name: state for name, state in (("stem", stem), ("conv_tower", x)) if name in taps}
        config = self.config
        features = position_features(
            x.shape[1], config.dim // config.heads, by_feature=config.use_tf_gamma, device=x.device
        )
        x, layers = run_tower(self.transformer, x, features, taps, recompute=self.checkpointing)
        return Encoded(x, None, found | layers)


def _block(config: EnformerConfig) -> Block:
    value_width = config.dim // config.heads
    attention = RelativeAttention(
        config.dim,
        config.heads,
        config.attn_dim_key,
        value_width,
        value_width,
        dropout=config.attn_dropout,
        feature_dropout=config.pos_dropout,
    )
    return Block(attention, config.dim, 1e-5, config.dropout_rate, config.dropout_rate)
