"""Learning from examples inside the input: few-shot prompts and tuned prompt vectors (hyenadna sheet 3.10).

A demonstration is a sequence padded on the left to `max_length` tokens, the separator, the token that stands for its
class, and the separator; the query is a sequence and the separator, and the model's next token is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.model import Model

DEMONSTRATION_EXTRA = 3
"""Tokens of a demonstration besides its sequence: two separators and the label."""


def few_shot_prompt(
    demonstrations: Sequence[tuple[Tensor, int]], query: Tensor, *, max_length: int, pad_id: int, sep_id: int
) -> Tensor:
    """[T] ids of a prompt with T = (max_length + 3) demonstrations + max_length + 1.

    Args:
        demonstrations: (ids [L], id of the label) in the order they are shown.
        query: [L] ids; every sequence loses its end beyond max_length.
    """
    pieces = []
    for ids, label in demonstrations:
        pieces += [_padded(ids, max_length, pad_id), ids.new_tensor([sep_id, label, sep_id])]
    return torch.cat([*pieces, _padded(query, max_length, pad_id), query.new_tensor([sep_id])])


def _padded(ids: Tensor, max_length: int, pad_id: int) -> Tensor:
    kept = ids[:max_length]
    return F.pad(kept, (max_length - len(kept), 0), value=pad_id)


def label_positions(num_tokens: int, max_length: int) -> Tensor:
    """Where the labels stand in a prompt of `num_tokens` that ends with the query's label."""
    return torch.arange(max_length + 1, num_tokens, max_length + DEMONSTRATION_EXTRA)


class SoftPrompt(nn.Module):
    """Vectors in front of the embedded prompt, tuned while the model stays as it is."""

    def __init__(self, num_tokens: int, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.soft_tokens = nn.Parameter(torch.randn(num_tokens, width) * 0.02)
        self.dropout = dropout

    def forward(self, model: Model, tokens: Tensor) -> Tensor:
        """[B, T] ids of prompts -> [B, V] logits of the token after them."""
        return self._logits(model, tokens)[:, -1]

    def loss(self, model: Model, tokens: Tensor, labels: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
        """(mean cross entropy, share of right answers) at every label, each predicted from the token before it.

        Args:
            tokens: [B, T] prompts that end with the query's separator.
            labels: [B, 1] ids of the query's labels.
        """
        whole = torch.cat([tokens, labels], 1)
        places = label_positions(whole.shape[1], max_length).to(whole.device)
        answers = self._logits(model, whole)[:, places + len(self.soft_tokens) - 1].flatten(0, 1)
        target = whole[:, places].flatten()
        return F.cross_entropy(answers, target), (answers.argmax(-1) == target).float().mean()

    def _logits(self, model: Model, tokens: Tensor) -> Tensor:
        backbone = cast(Any, model.backbone)
        with torch.no_grad():
            embedded = backbone.embed(tokens)
        soft = F.dropout(self.soft_tokens, self.dropout, self.training).expand(len(tokens), -1, -1)
        assert model.head is not None
        logits: Tensor = model.head(backbone.finish(backbone.run(torch.cat([soft.to(embedded.dtype), embedded], 1))))
        return logits
