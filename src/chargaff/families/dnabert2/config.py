"""Hyper-parameters under the names of the published config.json (dnabert sheet 1.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config


@dataclass(frozen=True)
class Dnabert2Config:
    """Defaults are those of DNABERT-2 and DNABERT-S."""

    vocab_size: int = 4096
    """V, rows of the embedding."""
    hidden_size: int = 768
    """D."""
    num_hidden_layers: int = 12
    """Blocks."""
    num_attention_heads: int = 12
    """H, a divisor of D; any number has its slopes."""
    intermediate_size: int = 3072
    """I, width of the gated MLP; its input matrix has 2 I rows."""
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"
    """Only of the language-model head; the MLP always takes the exact GELU."""
    layer_norm_eps: float = 1e-12
    """eps of every norm but the language-model head's, which is 1e-12."""
    hidden_dropout_prob: float = 0.1
    """While training: embedding, both branches."""
    attention_probs_dropout_prob: float = 0.0
    """While training: attention probabilities."""
    classifier_dropout: float | None = None
    """While training: what a classifier reads; None: hidden_dropout_prob."""
    initializer_range: float = 0.02
    """Standard deviation of fresh matrices."""
    type_vocab_size: int = 2
    """Segments of a sequence pair."""
    pad_token_id: int = 0
    """Row of the embedding that starts at zero and gets no gradient from inputs. The tokenizer pads with another id."""
    alibi_starting_size: int = 512
    """Of the published code's bias table, which grows on demand: no effect here."""
    max_position_embeddings: int = 512
    """Size of an unused buffer of the published code: no limit, no effect."""

    def __post_init__(self) -> None:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"config.num_attention_heads: expected a divisor of hidden_size {self.hidden_size}, "
                f"got {self.num_attention_heads}"
            )
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ConfigError(f"config.pad_token_id: expected 0 to {self.vocab_size - 1}, got {self.pad_token_id}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "Dnabert2Config":
        """From a published config.json, a checkpoint row or a run file."""
        return parse_config(cls, values, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """Published keys."""
        return config_to_json(self)
