"""How likely a language model finds each letter of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from chargaff.errors import ConfigError
from chargaff.model import Model
from chargaff.nn.encoded import Encoded

HEAD_TOKENS = 1 << 16
"""Positions whose logits exist at once."""


def is_causal(model: Model) -> bool:
    """Whether the model reads from left to right only: it can then carry a state."""
    return hasattr(model.backbone, "forward_chunk")


def log_likelihood(
    model: Model, tokens: Tensor, mask: Tensor | None = None, *, mask_every: int = 10, among: Tensor | None = None
) -> Tensor:
    """[B, T] float32 log-probability in nats of each token, given the others that the model may see.

    A causal model gives log p(token t | tokens before t); the first token has none (NaN). Another one gives the
    pseudo-likelihood: in pass r of `mask_every` the positions r, r + mask_every, ... are replaced by the mask token
    together, and each is predicted from all that remain. `mask_every` >= T hides one at a time.

    Args:
        tokens: [B, T].
        mask: [B, T] True where not padding.
        among: [A] ids that share the probability; None: the whole vocabulary. Other tokens get NaN.

    Raises:
        ConfigError: a model without language-model head, or one that has no mask token and looks both ways.
    """
    if model.head is None or model.spec.head != "lm":
        name = model.spec.name or model.spec.family
        raise ConfigError(f"likelihoods need a language-model head; that of {name} is {model.spec.head!r}")
    wanted = tokens.long()
    found = torch.full(tokens.shape, torch.nan, device=tokens.device)
    if is_causal(model):
        encoded = model.encode(tokens, mask)
        found[:, 1:] = _chosen(model, Encoded(encoded.hidden[:, :-1]), wanted[:, 1:], among)
        return found
    hidden_id = model.tokenizer.mask_id
    if hidden_id is None:
        raise ConfigError(f"pseudo-likelihoods need a mask token, which {model.spec.family} has not")
    if mask_every < 1:
        raise ConfigError(f"mask-every: expected at least 1, got {mask_every}")
    for first in range(min(mask_every, tokens.shape[1])):
        part = slice(first, None, mask_every)
        masked = tokens.clone()
        masked[:, part] = hidden_id
        encoded = model.encode(masked, mask)
        other = None if encoded.hidden_rc is None else encoded.hidden_rc[:, part]
        found[:, part] = _chosen(model, Encoded(encoded.hidden[:, part], other), wanted[:, part], among)
    return found


def _chosen(model: Model, encoded: Encoded, target: Tensor, among: Tensor | None) -> Tensor:
    """[B, T] log-probability of the target tokens; the logits of at most HEAD_TOKENS positions live at once."""
    assert model.head is not None
    out = torch.empty(target.shape, device=target.device)
    step = max(1, HEAD_TOKENS // target.shape[0])
    for start in range(0, target.shape[1], step):
        part = slice(start, start + step)
        other = None if encoded.hidden_rc is None else encoded.hidden_rc[:, part]
        logits = model.head(Encoded(encoded.hidden[:, part], other))
        total = (logits if among is None else logits[..., among]).logsumexp(-1)
        out[:, part] = logits.gather(-1, target[:, part].unsqueeze(-1)).squeeze(-1) - total
    if among is not None:
        out = out.masked_fill(~torch.isin(target, among), torch.nan)
    return out
