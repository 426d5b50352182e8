"""Heads on the trunk: tracks and segmentation; and fresh weights."""

from typing import Any

import torch
from torch import Tensor, nn

from chargaff.errors import ConfigError
from chargaff.families.borzoi.attention import FlashAttention
from chargaff.families.borzoi.config import BorzoiConfig
from chargaff.families.protocol import Encoded
from chargaff.nn.conv_rows import softplus_linear
from chargaff.nn.relative_attention import RelativeAttention
from chargaff.nn.unet1d import SegmentationHead
from chargaff.seq.grid import Grid

ALL = slice(None)


class TrackHead(nn.Module):
    """A linear layer and softplus for each set of tracks."""

    outside = "N"
    """Letter for what lies beyond a chromosome."""
    has_strand_pairs = True
    """Whether tracks of one strand have a partner for the other (borzoi sheet 4: `strand_pair`)."""

    def __init__(self, config: BorzoiConfig, backbone: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.config = config
        self.sizes = track_sets(config)
        for name, size in self.sizes.items():
            self.register_module(f"{name}_head", nn.Conv1d(config.final_width, size, 1))

    @property
    def slices(self) -> dict[str, slice]:
        """Where each set of tracks lies in the output."""
        ends: dict[str, slice] = {}
        start = 0
        for name, size in self.sizes.items():
            ends[name], start = slice(start, start + size), start + size
        return ends

    def grid(self, length_bp: int) -> Grid:
        """Where the bins that come from `length_bp` bases lie."""
        return self.config.state_grid(length_bp)

    def embed(self, encoded: Encoded) -> Tensor:
        """[B, bins, D] what the linear layers read."""
        if encoded.hidden_rc is not None:
            raise ConfigError("tracks have strands of their own: predict for each strand and match the tracks then")
        return encoded.hidden

    def predict(self, embedding: Tensor, name: str, tracks: Tensor | slice = ALL) -> Tensor:
        """[B, bins, tracks] of one set, or of some of its tracks; in float32 also under automatic mixed precision."""
        layer = self.get_submodule(f"{name}_head")
        assert isinstance(layer, nn.Conv1d)
        assert layer.bias is not None
        with torch.autocast(embedding.device.type, enabled=False):
            x, weight, bias = embedding.float(), layer.weight[tracks, :, 0].float(), layer.bias[tracks].float()
            return softplus_linear(x, weight, bias)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, bins, tracks] float32: all sets side by side, see `slices`."""
        embedding = self.embed(encoded)
        sets = [self.predict(embedding, name) for name in self.sizes]
        return sets[0] if len(sets) == 1 else torch.cat(sets, -1)


def track_sets(config: BorzoiConfig) -> dict[str, int]:
    """Name -> number of tracks."""
    sets = {
        "human": (config.enable_human_head, config.num_human),
        "mouse": (config.enable_mouse_head, config.num_mouse),
    }
    return {name: size for name, (is_there, size) in sets.items() if is_there}


def segmentation_head(config: BorzoiConfig, backbone: nn.Module, num_outputs: int) -> SegmentationHead:
    """For every base of the returned bins."""
    return SegmentationHead(
        config.final_width,
        config.dim,
        num_outputs,
        state_grid=config.state_grid,
        token_bp=config.bin_bp,
        levels=config.unet_levels,
        num_layers=config.num_layers_head,
    )


@torch.no_grad()
def init_weights(module: nn.Module, config: Any) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (borzoi sheet 5, 3.4).

    | tensor | distribution |
    |---|---|
    | matrices and convolutions | Xavier normal, biases 0 |
    | norms | 1, 0 |
    | attention: outgoing matrix and bias | 0 |
    | attention: biases of the positions | normal(0, 1) |
    | Flashzoi: packed projection | Kaiming normal, biases 1 |
    """
    if isinstance(module, SegmentationHead):
        module.reset_parameters()
        return
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Conv1d):
            nn.init.xavier_normal_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.LayerNorm | nn.BatchNorm1d):
            child.reset_parameters()
        elif isinstance(child, RelativeAttention):
            nn.init.normal_(child.rel_content_bias)
            nn.init.normal_(child.rel_pos_bias)
    for child in module.modules():
        if isinstance(child, RelativeAttention):
            nn.init.zeros_(child.to_out.weight)
        elif isinstance(child, FlashAttention):
            child.reset_parameters()
