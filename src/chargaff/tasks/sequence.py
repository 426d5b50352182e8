"""One answer per sequence: a class, several labels, or values (caduceus sheet 2.6, 3.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.errors import ConfigError
from chargaff.model import Model
from chargaff.tasks.metrics import Problem, SequenceMetrics
from chargaff.tasks.protocol import LossOut
from chargaff.tasks.token_loss import strand_augmented, unknown_as_pad
from chargaff.tokenizers.protocol import Tokenizer


def infer_problem(num_outputs: int, target: Tensor) -> Problem:
    """What is learnt if nobody says so: one output is regression, integer targets are classes, others are labels."""
    if num_outputs == 1:
        return "regression"
    return "multi-label" if target.is_floating_point() else "single-label"


@dataclass(frozen=True)
class SequenceTask:
    """Pool the states of a sequence and predict.

    Models that see both strands at once average them, unless `is_oriented`. For others `conjoin_train` and
    `conjoin_eval` add a second pass over the other strand and average the outputs; `rc_probability` shows single
    strands in either direction.
    """

    tokenizer: Tokenizer
    num_outputs: int
    problem: Problem = "single-label"
    pooling: str = "mean"
    positions: int | None = None
    """For pooling "none": the length of all sequences, in tokens of one base each."""
    head_bias: bool = True
    rc_probability: float = 0.0
    """Of reading a training sample from the other strand."""
    conjoin_train: bool = False
    conjoin_eval: bool = False
    is_oriented: bool = False
    """The two views of a model that sees both strands at once are not averaged but weighed apart."""
    counts_padding: bool = False
    """Padding goes through the model and the pool as if it were sequence, as in the published fine-tuning."""
    n_as_pad: bool = False
    """Show N as padding, as in pre-training, instead of as its own token."""
    class_weights: tuple[float, ...] | None = None
    """Single-label: weight of each class in the loss, normalised by the weights of the batch's rows."""
    is_per_batch: bool = False
    """Average metrics over batches instead of scoring all predictions at once."""

    def __post_init__(self) -> None:
        if self.num_outputs < (2 if self.problem == "single-label" else 1):
            raise ConfigError(f"task.num_outputs: {self.num_outputs} is too few for {self.problem} prediction")
        if self.class_weights is not None:
            if self.problem != "single-label":
                raise ConfigError(f"task.class_weights: only for single-label prediction, not {self.problem}")
            if len(self.class_weights) != self.num_outputs:
                raise ConfigError(f"task.class_weights: {len(self.class_weights)} for {self.num_outputs} classes")
        if self.pooling == "none" and self.tokenizer.complement is None:
            raise ConfigError("task.pooling: none needs one token per base; this model has longer ones")
        if self.conjoin_train and self.rc_probability > 0:
            raise ConfigError("task.rc_probability: has no use beside conjoin_train, which shows both strands anyway")

    def head(self, model: Model) -> tuple[str, dict[str, Any]] | None:
        options: dict[str, Any] = {
            "num_outputs": self.num_outputs,
            "problem": self.problem,
            "pooling": self.pooling,
            "bias": self.head_bias,
        }
        if self.positions is not None:
            options["positions"] = self.positions
        if self.is_oriented:
            if model.spec.strands != "equivariant":
                raise ConfigError(
                    "task.strands: oriented is for models that see both strands at once; with forward, "
                    f"{model.spec.family} reads a sequence in its direction anyway"
                )
            options["oriented"] = True
        has_it = model.spec.head == "sequence" and all(
            model.spec.head_options.get(name) == value
            for name, value in {"oriented": None, "positions": None, **options}.items()
        )
        return None if has_it else ("sequence", options)

    def prepare(self, batch: Batch, rng: SampleRng, *, is_training: bool) -> Batch:
        tokens = strand_augmented(batch, rng, self.tokenizer, self.rc_probability if is_training else 0.0)
        if self.n_as_pad:
            tokens = unknown_as_pad(tokens, self.tokenizer)
        return replace(batch, tokens=tokens)

    def count(self, batch: Batch) -> Tensor:
        assert batch.target is not None
        if self.class_weights is None:
            return torch.tensor(float(batch.target.numel()), device=batch.target.device)
        return self._class_weights(batch.target.device)[batch.target].sum()

    def loss(self, model: Model, batch: Batch) -> LossOut:
        assert batch.target is not None
        outputs = self.predict(model, batch).float()
        return LossOut(self._loss(outputs, batch.target), self.count(batch), None if model.training else outputs)

    def predict(self, model: Model, batch: Batch) -> Tensor:
        """[B, outputs] logits or values, strands averaged as the options say."""
        mask = None if self.counts_padding else batch.mask
        both = self.conjoin_train if model.training else self.conjoin_train or self.conjoin_eval
        logits: Tensor | None = model(batch.tokens, mask, both_strands=both).logits
        assert logits is not None
        return logits

    def _loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        if self.problem == "single-label":
            weights = None if self.class_weights is None else self._class_weights(outputs.device)
            return F.cross_entropy(outputs, target, weight=weights)
        if self.problem == "multi-label":
            return F.binary_cross_entropy_with_logits(outputs, target.float())
        return F.mse_loss(outputs, target.float().reshape(outputs.shape))

    def _class_weights(self, device: torch.device) -> Tensor:
        return torch.tensor(self.class_weights, dtype=torch.float32, device=device)

    def metrics(self) -> SequenceMetrics:
        return SequenceMetrics(self.problem, self.is_per_batch)
