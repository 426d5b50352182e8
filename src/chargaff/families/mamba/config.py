"""Hyper-parameters under their published names (caduceus sheet 1.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config
from chargaff.nn.mamba import SsmConfig


@dataclass(frozen=True)
class MambaConfig:
    """Defaults are those of the published MambaConfig."""

    d_model: int = 2560
    """D."""
    n_layer: int = 64
    """Blocks."""
    vocab_size: int = 50277
    """Rows of the embedding before padding."""
    ssm_cfg: SsmConfig | None = None
    """Mixer options; None or an empty table: its defaults."""
    rms_norm: bool = True
    """RMSNorm, else LayerNorm."""
    residual_in_fp32: bool = True
    """Keep the residual stream in float32."""
    fused_add_norm: bool = True
    """Names a GPU kernel; changes no number here."""
    pad_vocab_size_multiple: int = 8
    """The embedding is padded to a multiple of this."""
    tie_embeddings: bool = True
    """The head's weight is the embedding's."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple"):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.{name}: expected a positive integer, got {getattr(self, name)}")

    @property
    def ssm(self) -> SsmConfig:
        return self.ssm_cfg or SsmConfig()

    @property
    def padded_vocab_size(self) -> int:
        """V, rows of the embedding."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "MambaConfig":
        """From a published config.json, a checkpoint row or a run file."""
        return parse_config(cls, values, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """Published keys."""
        return config_to_json(self)
