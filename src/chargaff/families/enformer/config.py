"""Hyper-parameters under the names of the torch port; those of the JAX port are understood (enformer sheet 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config
from chargaff.nn.transformer_tower import centre
from chargaff.seq.grid import Grid

_JAX_NAMES = {
    "embed_dim": "dim",
    "num_transformer_layers": "depth",
    "num_attention_heads": "heads",
    "attention_dim_key": "attn_dim_key",
}
_JAX_HEADS = {"num_human_output_heads": "human", "num_mouse_output_heads": "mouse"}
_IGNORED = ("positional_encoding_type", "model_name", "head_name")


@dataclass(frozen=True)
class EnformerConfig:
    """Keys of the published configuration."""

    dim: int = 1536
    """Width of the transformer."""
    depth: int = 11
    """Transformer blocks."""
    heads: int = 8
    """Attention heads."""
    attn_dim_key: int = 64
    """Width of a head's queries and keys; values have dim / heads."""
    output_heads: Mapping[str, int] = field(default_factory=lambda: {"human": 5313, "mouse": 1643})
    """Tracks of each head."""
    target_length: int = 896
    """Central bins that the track heads return; -1: all."""
    dropout_rate: float = 0.4
    """Of the transformer's branches."""
    attn_dropout: float = 0.05
    """Of the attention weights."""
    pos_dropout: float = 0.01
    """Of the position features."""
    use_checkpointing: bool = False
    """Recompute transformer blocks in the backward pass."""
    use_convnext: bool = False
    """Published, without effect."""
    num_downsamples: int = 7
    """Halvings: a bin has 2^num_downsamples bases."""
    dim_divisible_by: int = 128
    """Widths of the convolutions are multiples of this."""
    use_tf_gamma: bool = False
    """Gamma features as the original TensorFlow weights want them."""
    features: tuple[str, ...] = ()
    """Elements that a segmentation head tells apart."""
    num_layers_head: int = 2
    """Convolutions of each block of a segmentation head."""
    unet_levels: int = 2
    """Halvings inside a segmentation head; not part of published files, where it is always 2."""

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 6:
            raise ConfigError(
                f"config.dim: expected a multiple of 6 * heads ({6 * self.heads}), got {self.dim}: the position "
                "features of a head come in six groups"
            )
        if self.num_downsamples < 2:
            raise ConfigError(f"config.num_downsamples: expected at least 2, got {self.num_downsamples}")
        if self.target_length < -1 or self.target_length == 0:
            raise ConfigError(f"config.target_length: expected a positive number or -1, got {self.target_length}")

    @property
    def bin_bp(self) -> int:
        """Bases of one position of the transformer."""
        return int(2**self.num_downsamples)

    def state_grid(self, length_bp: int) -> Grid:
        """Where the states of `length_bp` bases lie; the last one may have fewer bases than the others."""
        return Grid(0, self.bin_bp, -(-length_bp // self.bin_bp))

    def track_grid(self, length_bp: int) -> Grid:
        """Where the bins that the track heads return lie."""
        first, stop = centre(self.state_grid(length_bp).size, self.target_length)
        return Grid(first * self.bin_bp, self.bin_bp, stop - first)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "EnformerConfig":
        """From a published config, a checkpoint row or a run file."""
        named = {_JAX_NAMES.get(key, key): value for key, value in values.items() if key not in _IGNORED}
        heads = {head: named.pop(key) for key, head in _JAX_HEADS.items() if key in named}
        if heads:
            named["output_heads"] = heads
        if "features" in named:
            named["features"] = tuple(named["features"])
        bin_bp = named.pop("nucl_per_token", None)
        config = parse_config(cls, named, strict=strict)
        if bin_bp not in (None, config.bin_bp):
            raise ConfigError(f"config.nucl_per_token: expected {config.bin_bp} (2^num_downsamples), got {bin_bp}")
        return config

    def to_json(self) -> dict[str, Any]:
        """Published keys."""
        return {**config_to_json(self), "features": list(self.features)}
