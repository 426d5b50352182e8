"""What both language-model tasks share."""

from __future__ import annotations

import torch
from torch import Tensor

from chargaff.data.augment import random_reverse_complement
from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.errors import ConfigError
from chargaff.model import Model
from chargaff.tasks.cross_entropy import cross_entropy
from chargaff.tasks.metrics import count_correct
from chargaff.tasks.protocol import LossOut
from chargaff.tokenizers.protocol import Tokenizer


def require_lm_head(model: Model, kind: str) -> None:
    if model.head is None or model.spec.head != "lm":
        name = model.spec.name or model.spec.family
        raise ConfigError(
            f"task.kind: {kind} needs a model with a language-model head; that of {name} is {model.spec.head!r}"
        )


def strand_augmented(batch: Batch, rng: SampleRng, tokenizer: Tokenizer, probability: float) -> Tensor:
    """Tokens of the batch, rows read from the other strand with that probability.

    For tokenizers without a complement table the loader has done it on the bytes already.
    """
    if probability <= 0 or tokenizer.complement is None:
        return batch.tokens
    complement = torch.as_tensor(tokenizer.complement, device=batch.tokens.device)
    return random_reverse_complement(batch.tokens, batch.index, complement, rng, probability, batch.mask)[0]


def unknown_as_pad(tokens: Tensor, tokenizer: Tokenizer) -> Tensor:
    """The tokens with N replaced by padding, as the published weights have seen it; unchanged where N has no token."""
    if "N" not in tokenizer.vocab:
        return tokens
    return tokens.masked_fill(tokens == tokenizer.vocab.index("N"), tokenizer.pad_id)


def count_targets(batch: Batch, pad_id: int) -> Tensor:
    """[] float32 positions that are asked for."""
    assert batch.target is not None
    return (batch.target != pad_id).sum().float()


def token_loss(model: Model, batch: Batch, pad_id: int) -> LossOut:
    """Mean cross entropy of the head's logits over the targets that are not padding."""
    assert batch.target is not None
    logits = model(batch.tokens, batch.mask).logits
    loss, count = cross_entropy(logits, batch.target, ignore=pad_id)
    return LossOut(loss, count, None if model.training else count_correct(logits, batch.target, pad_id))
