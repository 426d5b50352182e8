"""Next-token prediction (caduceus sheet 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.model import Model
from chargaff.tasks.metrics import TokenMetrics
from chargaff.tasks.protocol import LossOut
from chargaff.tasks.token_loss import count_targets, require_lm_head, strand_augmented, token_loss, unknown_as_pad
from chargaff.tokenizers.protocol import Tokenizer


def next_tokens(tokens: Tensor, last_id: int, mask: Tensor | None = None) -> Tensor:
    """Each position's successor, [B, T] -> [B, T]; that of a row's last real token is `last_id`.

    Args:
        mask: [B, T] True where real; None: all real.
    """
    if mask is None:
        return torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], last_id)], 1)
    successor = torch.cat([tokens[:, 1:], tokens[:, -1:]], 1)  # after padding comes padding
    goes_on = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    return successor.masked_fill(mask & ~goes_on, last_id)


@dataclass(frozen=True)
class CausalLM:
    """Predict each token from those before it."""

    tokenizer: Tokenizer
    add_eos: bool = True
    """After the last token of a row comes the separator; off: the last position is not asked."""
    n_as_pad: bool = True
    """Show N as padding and never ask for it."""
    rc_probability: float = 0.0
    """Of reading a training sample from the other strand."""

    def head(self, model: Model) -> None:
        require_lm_head(model, "causal-lm")

    def prepare(self, batch: Batch, rng: SampleRng, *, is_training: bool) -> Batch:
        tokens = strand_augmented(batch, rng, self.tokenizer, self.rc_probability if is_training else 0.0)
        if self.n_as_pad:
            tokens = unknown_as_pad(tokens, self.tokenizer)
        last_id = self.tokenizer.vocab.index("[SEP]") if self.add_eos else self.tokenizer.pad_id
        return replace(batch, tokens=tokens, target=next_tokens(tokens, last_id, batch.mask))

    def count(self, batch: Batch) -> Tensor:
        return count_targets(batch, self.tokenizer.pad_id)

    def loss(self, model: Model, batch: Batch) -> LossOut:
        return token_loss(model, batch, self.tokenizer.pad_id)

    def metrics(self) -> TokenMetrics:
        return TokenMetrics()
