"""Hyper-parameters under the names of the torch port; those of the JAX port are understood (borzoi sheet 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config
from chargaff.nn.transformer_tower import centre, exponential_widths
from chargaff.seq.grid import Grid

_JAX_NAMES = {
    "embed_dim": "dim",
    "num_transformer_layers": "depth",
    "num_attention_heads": "heads",
    "attention_dim_key": "attn_dim_key",
    "target_length": "bins_to_return",
    "num_human_output_heads": "num_human",
    "num_mouse_output_heads": "num_mouse",
    "final_conv_block_embed_dim": "final_width",
    "separable_out_channels": "separable_width",
}
_JAX_TOWER = {
    "int_embed_dim": 512,
    "res_tower_embed_dim_init": 608,
    "num_downsamples": 7,
    "dim_divisible_by": 32,
}
"""Keys that the widths follow from, and their published values."""
_IGNORED = ("posiional_encoding_type", "positional_encoding_type", "model_name", "head_name", "num_unet_conv")
_ATTENTION_STEP = 4
"""Bins of one position of the transformer."""
_UNCENTRED_MARGIN = 16
"""Bins left out at either end when not only the centre is returned."""


@dataclass(frozen=True)
class BorzoiConfig:
    """Keys of the published configuration, and the widths that the published code fixes."""

    dim: int = 1536
    """Width of the transformer."""
    depth: int = 8
    """Transformer blocks."""
    heads: int = 8
    """Attention heads."""
    return_center_bins_only: bool = True
    """Cut to the central `bins_to_return`; otherwise 16 bins are left out at either end."""
    attn_dim_key: int = 64
    """Width of a head's queries and keys."""
    attn_dim_value: int = 192
    """Width of a head's values."""
    dropout_rate: float = 0.2
    """Of the feed-forward branches."""
    attn_dropout: float = 0.05
    """Of the attention weights."""
    pos_dropout: float = 0.01
    """Of the position features."""
    enable_human_head: bool = True
    """Human tracks are predicted."""
    enable_mouse_head: bool = False
    """Mouse tracks are predicted."""
    bins_to_return: int = 6144
    """Central bins; -1: all."""
    flashed: bool = False
    """Flashzoi: grouped queries and rotary positions."""
    conv_widths: tuple[int, ...] = (512, 608, 736, 896, 1056, 1280)
    """Channels of the first convolution and of the tower."""
    final_width: int = 1920
    """Channels that the heads read."""
    separable_width: int | None = None
    """Channels after the separable convolutions; None: dim."""
    separable_bias: bool = True
    """The separable convolutions have a bias; those of the JAX program have none."""
    num_human: int = 7611
    """Human tracks."""
    num_mouse: int = 2608
    """Mouse tracks."""
    num_rel_pos_features: int = 32
    """Position features."""
    rotary_emb_dim: int = 128
    """Rotated channels of each of Flashzoi's heads."""
    rotary_emb_base: float = 20_000.0
    """Base of the rotation's rates."""
    features: tuple[str, ...] = ()
    """Elements that a segmentation head tells apart."""
    num_layers_head: int = 2
    """Convolutions of each block of a segmentation head."""
    unet_levels: int = 2
    """Halvings inside a segmentation head; not part of published files, where it is always 2."""

    def __post_init__(self) -> None:
        if len(self.conv_widths) < 3:
            raise ConfigError(f"config.conv_widths: expected at least 3 widths, got {self.conv_widths}")
        if self.bins_to_return < -1 or self.bins_to_return == 0:
            raise ConfigError(f"config.bins_to_return: expected a positive number or -1, got {self.bins_to_return}")
        if self.flashed and (self.heads % 2 or self.dim % self.heads):
            raise ConfigError(f"config.heads: Flashzoi needs an even number that divides {self.dim}, got {self.heads}")
        if self.flashed and (self.rotary_emb_dim % 2 or self.rotary_emb_dim > self.dim // self.heads):
            raise ConfigError(
                f"config.rotary_emb_dim: expected an even number up to {self.dim // self.heads}, got "
                f"{self.rotary_emb_dim}"
            )

    @property
    def bin_bp(self) -> int:
        """Bases of one output bin."""
        return int(2 ** (len(self.conv_widths) - 1))

    @property
    def step_bp(self) -> int:
        """Bases of one position of the transformer; inputs are a multiple of it."""
        return self.bin_bp * _ATTENTION_STEP

    @property
    def upsampled_width(self) -> int:
        """Channels after the separable convolutions."""
        return self.dim if self.separable_width is None else self.separable_width

    def returned_bins(self, bins: int) -> int:
        """How many of `bins` bins are returned, as `transformer_tower.centre` wants it."""
        return self.bins_to_return if self.return_center_bins_only else bins - 2 * _UNCENTRED_MARGIN

    @property
    def min_input_bp(self) -> int:
        """Bases of the shortest input that has a bin to return."""
        bins = max(self.bins_to_return, 1) if self.return_center_bins_only else 2 * _UNCENTRED_MARGIN + 1
        return -(-bins // _ATTENTION_STEP) * self.step_bp

    def state_grid(self, length_bp: int) -> Grid:
        """Where the returned bins of `length_bp` bases lie."""
        bins = length_bp // self.step_bp * _ATTENTION_STEP
        first, stop = centre(bins, self.returned_bins(bins))
        return Grid(first * self.bin_bp, self.bin_bp, stop - first)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "BorzoiConfig":
        """From a published config, a checkpoint row or a run file."""
        named = {_JAX_NAMES.get(key, key): value for key, value in values.items() if key not in _IGNORED}
        # sizes that follow from others in the files of the torch port
        bases, positions = named.pop("bases", None), named.pop("attention_positions", None)
        if "embed_dim" in values:
            named = _from_jax(named)
        for key in ("conv_widths", "features"):
            if key in named:
                named[key] = tuple(named[key])
        bin_bp = named.pop("nucl_per_token", None)
        config = parse_config(cls, named, strict=strict)
        if bin_bp not in (None, config.bin_bp):
            raise ConfigError(f"config.nucl_per_token: expected {config.bin_bp}, got {bin_bp}")
        if bases is not None and positions is not None and bases != positions * config.step_bp:
            raise ConfigError(f"config.attention_positions: expected {bases // config.step_bp}, got {positions}")
        return config

    def to_json(self) -> dict[str, Any]:
        """Published keys."""
        lists = {"conv_widths": list(self.conv_widths), "features": list(self.features)}
        return {**config_to_json(self), **lists}


def _from_jax(named: dict[str, Any]) -> dict[str, Any]:
    """With what the JAX program derives or fixes: widths by one ratio, no mouse head, no bias after depthwise taps."""
    tower = {key: named.pop(key, default) for key, default in _JAX_TOWER.items()}
    widths = exponential_widths(
        tower["res_tower_embed_dim_init"], named["dim"], tower["num_downsamples"] - 1, tower["dim_divisible_by"]
    )
    value_width = named["dim"] // named.get("heads", BorzoiConfig.heads)
    fixed = {"attn_dim_value": value_width, "separable_bias": False, "enable_mouse_head": False}
    return {"conv_widths": (tower["int_embed_dim"], *widths[:-1]), **fixed, **named}
