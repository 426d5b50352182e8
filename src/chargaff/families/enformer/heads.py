"""Heads on the trunk: tracks and segmentation; and fresh weights."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import ConfigError
from chargaff.families.enformer.config import EnformerConfig
from chargaff.families.enformer.model import AttentionPool, conv_block, gelu
from chargaff.families.protocol import Encoded
from chargaff.nn.conv_rows import softplus_linear
from chargaff.nn.relative_attention import RelativeAttention
from chargaff.nn.transformer_tower import centre
from chargaff.nn.unet1d import SegmentationHead
from chargaff.seq.grid import Grid

ALL = slice(None)


class TrackHead(nn.Module):
    """Crop, one more convolution, then a linear layer and softplus for each set of tracks."""

    outside = "."
    """Letter for what lies beyond a chromosome (enformer sheet 2)."""
    has_strand_pairs = False
    """Whether tracks of one strand have a partner for the other."""

    def __init__(self, config: EnformerConfig, backbone: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * config.dim
        self.final_pointwise = nn.Sequential(nn.Identity(), conv_block(config.dim, self.width, 1))
        # names in order, so that a config written and read again gives the same order of tracks
        self._heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(self.width, config.output_heads[name]))
                for name in sorted(config.output_heads)
            }
        )

    @property
    def slices(self) -> dict[str, slice]:
        """Where each set of tracks lies in the output."""
        ends: dict[str, slice] = {}
        start = 0
        for name in self._heads:
            stop = start + self.config.output_heads[name]
            ends[name], start = slice(start, stop), stop
        return ends

    def grid(self, length_bp: int) -> Grid:
        """Where the bins that come from `length_bp` bases lie."""
        return self.config.track_grid(length_bp)

    def embed(self, encoded: Encoded) -> Tensor:
        """[B, bins, 2D] what the linear layers read."""
        if encoded.hidden_rc is not None:
            raise ConfigError("tracks have strands of their own: predict for each strand and match the tracks then")
        first, stop = centre(encoded.hidden.shape[1], self.config.target_length)
        x: Tensor = self.final_pointwise(encoded.hidden[:, first:stop].transpose(1, 2)).transpose(1, 2)
        return gelu(F.dropout(x, self.config.dropout_rate / 8, self.training))

    def predict(self, embedding: Tensor, name: str, tracks: Tensor | slice = ALL) -> Tensor:
        """[B, bins, tracks] float32 of one set, or of some of its tracks."""
        layer = cast(nn.Sequential, self._heads[name])[0]
        assert isinstance(layer, nn.Linear)
        return softplus_linear(embedding, layer.weight[tracks], layer.bias[tracks])

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, bins, tracks] float32: all sets side by side, see `slices`."""
        embedding = self.embed(encoded)
        sets = [self.predict(embedding, name) for name in self._heads]
        return sets[0] if len(sets) == 1 else torch.cat(sets, -1)


def segmentation_head(config: EnformerConfig, backbone: nn.Module, num_outputs: int) -> SegmentationHead:
    """On the uncropped states, for every base."""
    return SegmentationHead(
        config.dim,
        config.dim,
        num_outputs,
        state_grid=config.state_grid,
        token_bp=config.bin_bp,
        levels=config.unet_levels,
        num_layers=config.num_layers_head,
    )


@torch.no_grad()
def init_weights(module: nn.Module, config: Any) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (enformer sheet 3.6).

    | tensor | distribution |
    |---|---|
    | attention: outgoing matrix and bias | 0 |
    | attention: biases of the positions | normal(0, 1) |
    | pooling | twice the identity |
    | norms | 1, 0 |
    | the rest | torch's own |
    """
    if isinstance(module, SegmentationHead):
        module.reset_parameters()
        return
    for child in module.modules():
        if isinstance(child, RelativeAttention):
            continue
        if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Linear | nn.LayerNorm | nn.BatchNorm1d):
            child.reset_parameters()
    for child in module.modules():
        if isinstance(child, RelativeAttention):
            child.reset_parameters()
        elif isinstance(child, AttentionPool):
            nn.init.dirac_(child.to_attn_logits.weight)
            child.to_attn_logits.weight.mul_(2)
