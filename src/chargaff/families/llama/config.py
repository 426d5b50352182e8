"""Hyper-parameters under the names of the training configs (llama sheet 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config


@dataclass(frozen=True)
class LlamaConfig:
    """Defaults are those of the published training config."""

    d_model: int = 256
    """D."""
    n_layer: int = 4
    """Blocks."""
    n_heads: int = 16
    """Query heads H; the head width D / H is even."""
    n_kv_heads: int | None = None
    """Key and value heads, a divisor of n_heads; None: n_heads."""
    hidden_dim: int | None = None
    """Width of the feed-forward part; None: int(8 D / 3) rounded up to `multiple_of`."""
    multiple_of: int = 8
    """See hidden_dim."""
    bidirectional: bool = False
    """Every position attends to every other; else to those before it."""
    max_length: int = 1024
    """Tokens of the position table; the longest input."""
    vocab_size: int = 12
    """V, rows of the embedding."""
    norm_eps: float = 1e-5
    """eps of every norm."""
    dropout: float = 0.0
    """While training: embedding, attention weights, both branches."""

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ConfigError(f"config.n_heads: d_model {self.d_model} / {self.n_heads} is not an even head width")
        if self.n_heads % self.kv_heads:
            raise ConfigError(f"config.n_kv_heads: expected a divisor of n_heads {self.n_heads}, got {self.n_kv_heads}")

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def inner_width(self) -> int:
        if self.hidden_dim is not None:
            return self.hidden_dim
        return -(-int(2 * 4 * self.d_model / 3) // self.multiple_of) * self.multiple_of

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "LlamaConfig":
        """From a published model_config.json, a checkpoint row or a run file."""
        return parse_config(cls, values, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """Published keys."""
        return config_to_json(self)
