"""State that transformers' `generate` carries from token to token."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from chargaff.families.protocol import State


class CarriedState:
    """What a causal model has read, under the name `past_key_values`."""

    is_compileable = False

    def __init__(self, state: State, tokens: int) -> None:
        self.state = state
        self.tokens = tokens
        """Read so far."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far."""
        return self.tokens

    def reorder_cache(self, beam_idx: Tensor) -> "CarriedState":
        """For beam search: row i continues what row beam_idx[i] was."""
        self.state = _rows(self.state, beam_idx)
        return self


def _rows(part: Any, index: Tensor) -> Any:
    """The same structure with rows chosen in every tensor; batch comes first in all of them."""
    if isinstance(part, Tensor):
        return torch.index_select(part, 0, index.to(part.device))
    if isinstance(part, tuple):
        rows = [_rows(each, index) for each in part]
        return type(part)(*rows) if hasattr(part, "_fields") else tuple(rows)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        changed = {field.name: _rows(getattr(part, field.name), index) for field in dataclasses.fields(part)}
        return dataclasses.replace(part, **changed)
    return part
