"""Hyper-parameters under their published names (caduceus sheet 3.5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config

KERNEL_TAPS = 8
CHANNELS = (16, 8, 4)


@dataclass(frozen=True)
class CnnConfig:
    """Keys of the published configuration."""

    number_of_classes: int = 2
    """Outputs of the published head; a new head may have another number."""
    vocab_size: int = 12
    """Rows of the embedding."""
    embedding_dim: int = 100
    """Width of the embedding."""
    input_len: int = 1024
    """Bases of every input."""

    def __post_init__(self) -> None:
        if self.positions < 1:
            raise ConfigError(f"config.input_len: {self.input_len} bases are too few for three convolutions (least 64)")

    @property
    def positions(self) -> int:
        """Positions left after three rounds of convolution without padding and pooling by two."""
        length = self.input_len
        for _ in CHANNELS:
            length = max(length - KERNEL_TAPS + 1, 0) // 2
        return length

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "CnnConfig":
        """From a published config, a checkpoint row or a run file."""
        return parse_config(cls, values, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """Published keys."""
        return config_to_json(self)
