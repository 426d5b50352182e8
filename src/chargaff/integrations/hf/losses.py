"""Losses as the published classes compute them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.errors import ConfigError, InputError
from chargaff.tasks.cross_entropy import cross_entropy

IGNORED = -100
"""Label that transformers leaves out of losses."""


def token_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignored: int | None = None,
    shifts: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy over the positions that count; 0 without any.

    Args:
        logits: [B, T, V].
        labels: [B, T] ids; -100 does not count.
        ignored: another label that does not.
        shifts: each position predicts the label of the next one.
        weights: [B, T] weight of each position in the mean.
    """
    if labels.shape != logits.shape[:2]:
        raise InputError(f"labels: expected shape {tuple(logits.shape[:2])}, got {tuple(labels.shape)}")
    labels = labels.to(logits.device)
    if ignored is not None:
        labels = labels.masked_fill(labels == ignored, IGNORED)
    if shifts:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return cross_entropy(logits, labels, ignore=IGNORED, weight=weights)[0]


def infer_problem(num_labels: int, labels: Tensor) -> str:
    """What labels without a problem_type mean."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classifier_loss(logits: Tensor, labels: Tensor, problem: str) -> Tensor:
    """Mean loss of a classifier's outputs [B, C].

    Raises:
        ConfigError: no such problem_type.
    """
    labels = labels.to(logits.device)
    if problem == "regression":
        return F.mse_loss(logits.squeeze(), labels.squeeze().to(logits.dtype))
    if problem == "single_label_classification":
        return F.cross_entropy(logits.float(), labels.flatten())
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    raise ConfigError(
        "config.problem_type: expected regression, single_label_classification or multi_label_classification, "
        f"got {problem!r}"
    )


def before_padding(tokens: Tensor, pad_id: int) -> Tensor:
    """[B, T] True up to the position whose state decides where the last one does and there is no mask.

    That is the position in front of the first padding, or the last one if there is none or a row begins with it
    (hyenadna sheet 2.6).
    """
    first = (tokens == pad_id).int().argmax(1)
    last = torch.where(first == 0, tokens.shape[1], first)
    return torch.arange(tokens.shape[1], device=tokens.device) < last.unsqueeze(1)
