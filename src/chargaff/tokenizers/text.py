"""Truncation, padding and batches of token ids, as the published tokenizers' calls define them.

The rules are those of transformers 4.38 (slow tokenizers), which the published checkpoints were written with.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from chargaff.errors import ConfigError

Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Truncation = bool | Literal["longest_first", "only_first", "only_second", "do_not_truncate"]


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """Ids of one text (lists of int) or of several (lists of such lists)."""

    input_ids: list[int] | list[list[int]]
    """Token ids."""
    attention_mask: list[int] | list[list[int]]
    """1 for tokens, 0 for padding."""
    special_tokens_mask: list[int] | list[list[int]]
    """1 for tokens that were added (padding too), 0 for what the text holds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded text or pair on its way to a batch."""

    ids: list[int]
    added: list[int]
    """1 where the tokenizer put the token."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How calls shape their rows; all lengths in tokens."""

    padding: Padding = False
    """True or "longest": to the longest of the call; "max_length"."""
    truncation: Truncation | None = None
    """True or "longest_first": shorten the longer of a pair first. None cuts only if just `max_length` is given."""
    max_length: int | None = None
    """Limit of truncation and of "max_length" padding, added tokens included."""
    pad_to_multiple_of: int | None = None
    """Round padded lengths up to a multiple."""
    padding_side: Literal["left", "right"] = "left"

    def truncate(
        self, first: list[int], second: list[int] | None, num_added: int
    ) -> tuple[list[int], list[int] | None]:
        """Both texts cut at their ends so that they and `num_added` tokens fit.

        A text that would have to lose all its tokens is left whole, except in a pair shortened "longest_first"
        (reference quirk: the published tokenizers only log an error there).
        """
        rule = self._truncation()
        excess = len(first) + len(second or ()) + num_added - (self.max_length or math.inf)
        if rule == "do_not_truncate" or excess <= 0:
            return first, second
        excess = int(excess)
        if rule == "only_first" or (rule == "longest_first" and second is None):
            return (first[:-excess] if len(first) > excess else first), second
        if second is None:
            return first, second
        if rule == "only_second":
            return first, (second[:-excess] if len(second) > excess else second)
        keep_first, keep_second = len(first), len(second)
        for _ in range(excess):
            if keep_first > keep_second:
                keep_first -= 1
            else:
                keep_second = max(0, keep_second - 1)
        return first[:keep_first], second[:keep_second]

    def batch(self, rows: list[Row], pad_id: int, *, single: bool) -> TextEncoding:
        """Rows padded together; `single` unpacks the only row.

        A single row without any token stays empty (reference quirk), while in a batch it is padded like the others.
        """
        width = self._width(rows)
        padded = [self._pad(row, 0 if single and not row.ids else width, pad_id) for row in rows]
        ids, attention, added = ([columns[i] for columns in padded] for i in range(3))
        if single:
            return TextEncoding(ids[0], attention[0], added[0])
        return TextEncoding(ids, attention, added)

    def _truncation(self) -> str:
        if self.truncation is None:
            implied = self.max_length is not None and self.padding is False
            return "longest_first" if implied else "do_not_truncate"
        if isinstance(self.truncation, bool):
            return "longest_first" if self.truncation else "do_not_truncate"
        if self.truncation not in ("longest_first", "only_first", "only_second", "do_not_truncate"):
            raise ConfigError(
                "truncation: expected true, false, 'longest_first', 'only_first', 'only_second' or 'do_not_truncate', "
                f"got {self.truncation!r}"
            )
        return self.truncation

    def _width(self, rows: list[Row]) -> int:
        if self.padding is False or self.padding == "do_not_pad":
            return 0
        if self.padding is True or self.padding == "longest":
            width = max((len(row.ids) for row in rows), default=0)
        elif self.padding == "max_length":
            if self.max_length is None:
                raise ConfigError("padding: 'max_length' needs a max_length")
            width = self.max_length
        else:
            raise ConfigError(
                f"padding: expected true, false, 'longest', 'max_length' or 'do_not_pad', got {self.padding!r}"
            )
        multiple = self.pad_to_multiple_of or 1
        if self._truncation() != "do_not_truncate" and (self.max_length or 0) % multiple:
            raise ConfigError(f"max_length: {self.max_length} is no multiple of pad_to_multiple_of, {multiple}")
        return -(-width // multiple) * multiple

    def _pad(self, row: Row, width: int, pad_id: int) -> tuple[list[int], list[int], list[int]]:
        missing = max(0, width - len(row.ids))
        real = [1] * len(row.ids)
        columns = ((row.ids, pad_id), (real, 0), (row.added, 1))
        place: Callable[[list[int], int], list[int]] = (
            (lambda values, filler: [filler] * missing + values)
            if self.padding_side == "left"
            else (lambda values, filler: values + [filler] * missing)
        )
        ids, attention, added = (place(values, filler) for values, filler in columns)
        return ids, attention, added
