"""Masked language modelling (caduceus sheet 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.errors import ConfigError
from chargaff.model import Model
from chargaff.tasks.metrics import TokenMetrics
from chargaff.tasks.protocol import LossOut
from chargaff.tasks.token_loss import count_targets, require_lm_head, strand_augmented, token_loss, unknown_as_pad
from chargaff.tokenizers.protocol import Tokenizer


@dataclass(frozen=True, slots=True)
class MaskingRule:
    """Which positions are hidden, and how."""

    probability: float = 0.15
    """Of a position to be selected; every position can be, padding included."""
    mask_fraction: float = 0.8
    """Of the selected: replaced by the mask token."""
    random_fraction: float = 0.1
    """Of the selected: replaced by an id drawn from the whole vocabulary; the rest stays as it is."""


def mask_tokens(
    tokens: Tensor, index: Tensor, rng: SampleRng, rule: MaskingRule, *, mask_id: int, pad_id: int, num_ids: int
) -> tuple[Tensor, Tensor]:
    """(corrupted tokens, target), each [B, T] in the dtype of `tokens`.

    The target is the original id where a position was selected, the pad id elsewhere; a selected pad is corrupted but
    its target is the pad id too, so it is ignored.

    Args:
        tokens: [B, T].
        index: [B] row of each sample in its source.
        num_ids: random replacements are drawn from 0..num_ids-1, special tokens included; they may hit the original.
    """
    draw = rng.uniform(index, tokens.shape[1], "mask-select")
    selected = draw < rule.probability
    # given that a position is selected, draw / probability is uniform again and decides what becomes of it
    masked = draw < rule.probability * rule.mask_fraction
    randomised = ~masked & (draw < rule.probability * (rule.mask_fraction + rule.random_fraction))
    random_ids = rng.integers(index, tokens.shape[1], "mask-random", high=num_ids).to(tokens.dtype)
    corrupted = torch.where(randomised, random_ids, tokens).masked_fill(masked, mask_id)
    return corrupted, torch.where(selected, tokens, torch.full_like(tokens, pad_id))


@dataclass(frozen=True)
class MaskedLM:
    """Predict the tokens that were hidden."""

    tokenizer: Tokenizer
    masking: MaskingRule = MaskingRule()
    n_as_pad: bool = True
    """Show N as padding and never ask for it."""
    rc_probability: float = 0.0
    """Of reading a training sample from the other strand."""

    def __post_init__(self) -> None:
        if self.tokenizer.mask_id is None:
            raise ConfigError("task.kind: masked-lm needs a tokenizer with a mask token; use causal-lm")
        if not 0 < self.masking.probability <= 1:
            raise ConfigError(f"task.probability: expected more than 0 and at most 1, got {self.masking.probability}")

    def head(self, model: Model) -> None:
        require_lm_head(model, "masked-lm")

    def prepare(self, batch: Batch, rng: SampleRng, *, is_training: bool) -> Batch:
        tokens = strand_augmented(batch, rng, self.tokenizer, self.rc_probability if is_training else 0.0)
        if self.n_as_pad:
            tokens = unknown_as_pad(tokens, self.tokenizer)
        mask_id = self.tokenizer.mask_id
        assert mask_id is not None
        corrupted, target = mask_tokens(
            tokens,
            batch.index,
            rng,
            self.masking,
            mask_id=mask_id,
            pad_id=self.tokenizer.pad_id,
            num_ids=len(self.tokenizer.vocab),
        )
        if self.tokenizer.complement is None:
            is_kept = torch.as_tensor(self._kept_ids, device=tokens.device)[tokens.int()]
            corrupted = torch.where(is_kept, tokens, corrupted)
            target = target.masked_fill(is_kept, self.tokenizer.pad_id)
        return replace(batch, tokens=corrupted, target=target)

    @cached_property
    def _kept_ids(self) -> NDArray[np.bool_]:
        """[V] what is never hidden where tokens are longer than bases: special tokens, unknown letters."""
        kept: NDArray[np.bool_] = self.tokenizer.token_bp == 0
        unknown = getattr(self.tokenizer, "unk_id", None)
        if unknown is not None:
            kept[unknown] = True
        return kept

    def count(self, batch: Batch) -> Tensor:
        return count_targets(batch, self.tokenizer.pad_id)

    def loss(self, model: Model, batch: Batch) -> LossOut:
        return token_loss(model, batch, self.tokenizer.pad_id)

    def metrics(self) -> TokenMetrics:
        return TokenMetrics()
