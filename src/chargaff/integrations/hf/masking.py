"""Backbones under an attention mask: positions it leaves out have no influence on the others, in every family.

What a backbone can do with padding is its `InputRule`. One that takes masks gets the mask. A causal one gets its rows
moved to the left, so that padding lies behind them. One that must not see padding at all reads the rows of each length
by themselves; but if its states are bins of many bases, padding is refused.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.errors import InputError
from chargaff.families.protocol import InputRule
from chargaff.nn.encoded import Encoded

Encode = Callable[[Tensor, Tensor | None], Encoded]
"""(tokens [B, T] or their embeddings [B, T, C], mask) -> states."""


def reads_bins(rule: InputRule) -> bool:
    """Whether states stand for bins of several tokens that all count: a mask per token says nothing about them."""
    return rule.padding == "never" and rule.multiple_of > 1


def encode_masked(backbone: Any, encode: Encode, x: Tensor, mask: Tensor | None, *, pad_id: int) -> Encoded:
    """States of a batch; those at positions that the mask leaves out mean nothing (most are zero).

    Args:
        backbone: its `rule` decides.
        encode: reads a batch that fits the rule.
        x: [B, T] tokens or [B, T, C] embeddings.
        mask: [B, T] True where real; None: all.
        pad_id: of the tokenizer.

    Raises:
        InputError: a mask with gaps, for a model that cannot skip positions; or with padding, for one that reads bins.
    """
    rule = backbone.rule
    if mask is None or rule.fixed_bp is not None:  # a model of one input length was trained with its padding
        return encode(x, None)
    if rule.padding == "masked":
        # some count positions by ids: what the mask leaves out must look like padding
        return encode(x if x.is_floating_point() else x.masked_fill(~mask, pad_id), mask)
    if bool(mask.all()):
        return encode(x, None)
    if reads_bins(rule):
        row = int((~mask.all(1)).nonzero()[0])
        raise InputError(
            f"attention_mask: row {row} leaves out {int((~mask[row]).sum())} of {mask.shape[1]} tokens, but this model "
            f"sums up bases in bins and reads padding like sequence: give sequences of one length, a multiple of "
            f"{rule.multiple_of} tokens, and no mask"
        )
    start, length = _spans(mask)
    if rule.padding == "causal":
        return _at_the_left(encode, x, start)
    return _by_length(encode, x, start, length)


def _spans(mask: Tensor) -> tuple[Tensor, Tensor]:
    """First real position and number of real positions of each row."""
    length = mask.sum(1)
    start = mask.int().argmax(1)
    position = torch.arange(mask.shape[1], device=mask.device)
    expected = (position >= start.unsqueeze(1)) & (position < (start + length).unsqueeze(1))
    if not torch.equal(expected, mask):
        row = int((expected != mask).any(1).nonzero()[0])
        raise InputError(
            f"attention_mask: row {row} has gaps, but this model reads sequences without them: mask padding at the "
            "ends only"
        )
    return start, length


def _at_the_left(encode: Encode, x: Tensor, start: Tensor) -> Encoded:
    """Rows begin at their first real position; what was in front goes behind."""
    position = torch.arange(x.shape[1], device=x.device)
    there = (position + start.unsqueeze(1)) % x.shape[1]  # [B, T]
    back = (position - start.unsqueeze(1)) % x.shape[1]
    return _mapped(encode(_rows(x, there), None), lambda part: _rows(part, back))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b, t]]."""
    if x.dim() == 3:
        index = index.unsqueeze(-1).expand(-1, -1, x.shape[2])
    return x.gather(1, index)


def _by_length(encode: Encode, x: Tensor, start: Tensor, length: Tensor) -> Encoded:
    """One call for all rows that share their place."""
    places = torch.stack([start, length], 1)
    kinds, owner = torch.unique(places, dim=0, return_inverse=True)
    found, order = [], []
    for kind, (first, count) in enumerate(kinds.tolist()):
        rows = (owner == kind).nonzero().squeeze(1)
        order.append(rows)
        if count == 0:  # nothing to read: as if the row were one padding token
            first, count = 0, 1
        after = x.shape[1] - first - count
        part = encode(x[rows, first : first + count], None)
        found.append(_mapped(part, lambda t, first=first, after=after: F.pad(t, (0, 0, first, after))))  # type: ignore[misc]
    back = torch.cat(order).argsort()
    return _joined(found, back)


def _mapped(encoded: Encoded, change: Callable[[Tensor], Tensor]) -> Encoded:
    other = None if encoded.hidden_rc is None else change(encoded.hidden_rc)
    return Encoded(change(encoded.hidden), other, {name: change(tap) for name, tap in encoded.taps.items()})


def _joined(parts: list[Encoded], back: Tensor) -> Encoded:
    def rows(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)[back]

    others = [part.hidden_rc for part in parts if part.hidden_rc is not None]
    names: Collection[str] = parts[0].taps
    return Encoded(
        rows([part.hidden for part in parts]),
        rows(others) if others else None,
        {name: rows([part.taps[name] for part in parts]) for name in names},
    )
