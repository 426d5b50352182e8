"""What every backbone returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Encoded:
    """Final states of a backbone, for one or both strands."""

    hidden: Tensor
    """[B, T, D] after the final norm; what a language-model head reads."""
    hidden_rc: Tensor | None = None
    """[B, T, D] the other strand's view, in forward coordinates and channel order: row t belongs to token t."""
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    """Only what was asked for: "layer.12" [B, T, C], "layer.12.branch" [B, T, C]."""
