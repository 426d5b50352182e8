"""Sampling from a causal language model, one token at a time with a carried state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chargaff.errors import ConfigError, InputError
from chargaff.families.protocol import Encoded, State, StatefulBackbone
from chargaff.seq.alphabet import require_letters
from chargaff.tokenizers.protocol import Tokenizer

PREFILL_TOKENS = 65_536
"""Tokens of a prompt that pass the model together."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen from its probabilities."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int | None = None
    """Choose among the k likeliest tokens only."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have at least this probability."""
    seed: int = 0
    """Sequence i is a function of model, prompt, (seed, i) and these options, whatever is sampled beside it."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigError(f"temperature: expected at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top-k: expected at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p: expected a probability above 0 and at most 1, got {self.top_p}")

    def draws(self, numbers: Sequence[int], length: int) -> Tensor:
        """[n, length] float64 uniform random numbers of these sequences."""
        rows = []
        for number in numbers:
            generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + number) % (1 << 63))
            rows.append(torch.rand(length, generator=generator, dtype=torch.float64))
        return torch.stack(rows)

    def choose(self, logits: Tensor, draw: Tensor) -> Tensor:
        """[B] indices from [B, V] logits and [B] uniform random numbers."""
        if self.temperature == 0:
            return logits.argmax(1)
        values, order = torch.sort(logits.double() / self.temperature, dim=1, descending=True, stable=True)
        probability = values.softmax(1)
        if self.top_k is not None:
            probability[:, self.top_k :] = 0
        if self.top_p is not None:  # a token is kept if those before it do not reach the share
            before = probability.cumsum(1) - probability
            probability = probability.masked_fill(before >= self.top_p * probability.sum(1, keepdim=True), 0)
        reached = probability.cumsum(1)
        rank = torch.searchsorted(reached, (draw.to(reached.device) * reached[:, -1]).unsqueeze(1), right=True)
        chosen: Tensor = order.gather(1, rank.clamp_max(probability.shape[1] - 1)).squeeze(1)
        return chosen


def continuations(
    backbone: StatefulBackbone,
    head: nn.Module,
    tokenizer: Tokenizer,
    prompt: str | NDArray[np.uint8],
    *,
    length: int,
    sampling: Sampling,
    num: int,
    letters: str,
    on_token: Callable[[], None],
    device: torch.device,
) -> list[str]:
    """See `Model.generate`."""
    if length < 1 or num < 1:
        raise ConfigError(f"generation: expected a length and a number of at least 1, got {length} and {num}")
    text = prompt if isinstance(prompt, str) else prompt.tobytes().decode("latin-1")
    if not text:
        raise InputError("prompt: is empty; the model needs at least one letter to go on from")
    unknown = [letter for letter in letters if letter not in tokenizer.vocab]
    if unknown or not letters:
        raise ConfigError(f"generation: the vocabulary has no tokens for the letters {unknown or letters!r}")
    bases = np.frombuffer(text.upper().encode(), np.uint8)
    require_letters(bases, "ACGTN", where="prompt")
    tokens = tokenizer.encode(bases, special=False)
    limit = backbone.rule.max_tokens
    if limit is not None and len(tokens) + length > limit:
        raise ConfigError(f"generation: {len(tokens)} + {length} letters are more than the {limit} the model takes")
    allowed = torch.tensor([tokenizer.vocab.index(letter) for letter in letters], device=device)
    given = torch.as_tensor(tokens.astype(np.int64), device=device)
    options: dict[str, Any] = {"length": length, "sampling": sampling, "numbers": range(num), "allowed": allowed}
    steps = []
    for token in sample_tokens(backbone, head, given, **options):
        steps.append(token)
        on_token()
    return [tokenizer.decode(row) for row in torch.stack(steps, 1).cpu().numpy()]


@torch.inference_mode()
def sample_tokens(
    backbone: StatefulBackbone,
    head: nn.Module,
    prompt: Tensor,
    *,
    length: int,
    sampling: Sampling,
    numbers: Sequence[int],
    allowed: Tensor,
) -> Iterator[Tensor]:
    """The continuations of a prompt, token by token: yields [n] ids, `length` times.

    Args:
        prompt: [P >= 1] ids.
        numbers: of the sequences to sample, see `Sampling.seed`.
        allowed: [A] ids that may be chosen.
    """
    draws = sampling.draws(numbers, length)
    state, hidden = backbone.init_state(1), None
    for piece in torch.split(prompt.unsqueeze(0), PREFILL_TOKENS, 1):
        encoded, state = backbone.forward_chunk(piece, state)
        hidden = encoded.hidden[:, -1:]
    assert hidden is not None
    logits = _logits(head, hidden, allowed).expand(len(numbers), -1)
    state = repeat_state(state, len(numbers))
    for step in range(length):
        token = allowed[sampling.choose(logits, draws[:, step])]
        yield token
        if step + 1 < length:
            encoded, state = backbone.forward_chunk(token.unsqueeze(1), state)
            logits = _logits(head, encoded.hidden, allowed)


def _logits(head: nn.Module, hidden: Tensor, allowed: Tensor) -> Tensor:
    """[B, A] of the last position."""
    logits: Tensor = head(Encoded(hidden))[:, -1]
    return logits[:, allowed]


def repeat_state(state: State, count: int) -> State:
    """The state of one sequence for `count` of them; tensors are batch first."""
    repeated: State = _repeat(state, count)
    return repeated


def _repeat(part: Any, count: int) -> Any:
    if isinstance(part, Tensor):
        return part.repeat_interleave(count, 0)
    if isinstance(part, tuple):
        items = [_repeat(item, count) for item in part]
        return part._make(items) if hasattr(part, "_make") else tuple(items)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        values = {entry.name: _repeat(getattr(part, entry.name), count) for entry in dataclasses.fields(part)}
        return dataclasses.replace(part, **values)
    return part
