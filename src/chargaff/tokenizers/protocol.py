"""What a tokenizer offers (DESIGN 2.2)."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Tokenizer(Protocol):
    """Sequences to token ids and back. Padding is the batch's business, not the tokenizer's."""

    @property
    def vocab(self) -> tuple[str, ...]:
        """Token of each id."""
        ...

    @property
    def pad_id(self) -> int: ...

    @property
    def mask_id(self) -> int | None: ...

    @property
    def token_bp(self) -> NDArray[np.integer[Any]]:
        """[V] bases covered by each id; 0 for special tokens."""
        ...

    @property
    def complement(self) -> NDArray[np.integer[Any]] | None:
        """[V] id of the complement, where one token is one base; else None."""
        ...

    def encode(self, seq: NDArray[np.uint8], *, special: bool = True) -> NDArray[Any]:
        """[L] uint8 ASCII -> [T] ids, uint8 where the vocabulary fits, else int16."""
        ...

    def decode(self, ids: NDArray[Any]) -> str:
        """Text of the ids, special tokens by name."""
        ...
