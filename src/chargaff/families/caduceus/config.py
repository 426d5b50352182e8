"""Hyper-parameters under their published names (caduceus sheet 1.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config
from chargaff.nn.mamba import SsmConfig

STANDARD_COMPLEMENT = {**{token: token for token in range(12)}, 7: 10, 8: 9, 9: 8, 10: 7}
"""Complement of each id of the published vocabulary: A 7, C 8, G 9, T 10."""


@dataclass(frozen=True)
class InitializerConfig:
    """`initializer_cfg`."""

    initializer_range: float = 0.02
    """Standard deviation of the embedding."""
    rescale_prenorm_residual: bool = True
    """Divide out_proj by sqrt(n_residuals_per_layer * n_layer)."""
    n_residuals_per_layer: int = 1
    """Additions to the residual stream in one layer."""


@dataclass(frozen=True)
class CaduceusConfig:
    """Defaults are those of the published configuration class."""

    d_model: int = 2560
    """D."""
    n_layer: int = 64
    """Blocks."""
    vocab_size: int = 50277
    """Rows of the embedding before padding."""
    ssm_cfg: SsmConfig | None = None
    """Mixer options; None: its defaults."""
    rms_norm: bool = True
    """RMSNorm, else LayerNorm."""
    residual_in_fp32: bool = True
    """Keep the residual stream in float32."""
    fused_add_norm: bool = True
    """Names a GPU kernel; with `rcps` it also makes every block swap the two halves (sheet 2.5)."""
    pad_vocab_size_multiple: int = 8
    """The embedding is padded to a multiple of this."""
    norm_epsilon: float = 1e-5
    """eps of every norm."""
    initializer_cfg: InitializerConfig | None = None
    """Distribution of fresh weights; None: its defaults."""
    bidirectional: bool = True
    """Two directions in every block."""
    bidirectional_strategy: Literal["add", "ew_multiply"] | None = "add"
    """How they are combined."""
    bidirectional_weight_tie: bool = True
    """Both directions share in_proj and out_proj."""
    rcps: bool = False
    """Reverse-complement parameter sharing (Caduceus-PS)."""
    complement_map: Mapping[int, int] | None = None
    """Id -> id of the complementary base; None: the published vocabulary's."""
    pad_token_id: int | None = None
    """Ignored label of the loss; absent from published files, where it is 4."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple"):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.{name}: expected a positive integer, got {getattr(self, name)}")
        for source, target in (self.complement_map or {}).items():
            if not (0 <= source < self.padded_vocab_size and 0 <= target < self.padded_vocab_size):
                raise ConfigError(f"config.complement_map: {source} -> {target} is outside the vocabulary")

    @property
    def ssm(self) -> SsmConfig:
        return self.ssm_cfg or SsmConfig()

    @property
    def initializer(self) -> InitializerConfig:
        return self.initializer_cfg or InitializerConfig()

    @property
    def padded_vocab_size(self) -> int:
        """V, rows of the embedding."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    @property
    def complement(self) -> list[int]:
        """[V] complement of every row; identity where the map says nothing."""
        table = list(range(self.padded_vocab_size))
        given = self.complement_map
        if given is None:
            given = {k: v for k, v in STANDARD_COMPLEMENT.items() if max(k, v) < self.padded_vocab_size}
        for source, target in given.items():
            table[source] = target
        return table

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "CaduceusConfig":
        """From a published config.json, a checkpoint row or a run file."""
        return parse_config(cls, values, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """Published keys; `pad_token_id` only where it was given, as in the published files."""
        values = config_to_json(self)
        if self.pad_token_id is None:
            del values["pad_token_id"]
        return values
