"""Which elements each base belongs to (segment sheet 2, 4, 5)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import nan
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chargaff.data.augment import RC_STREAM, mirror, reverse_complement
from chargaff.data.batch import NOT_LABELLED, Batch
from chargaff.data.rng import SampleRng
from chargaff.errors import ConfigError
from chargaff.model import Model
from chargaff.nn.heads import TokenHead
from chargaff.seq.segments import Segments, segment_overlap, segments_of
from chargaff.tasks.protocol import LossOut
from chargaff.tasks.token_loss import unknown_as_pad
from chargaff.tokenizers.protocol import Tokenizer

BINS = 1024
"""Steps of probability in which areas and calibration are counted."""


@dataclass(frozen=True)
class SegmentationTask:
    """Every base, every element: is it there? Elements are independent of each other."""

    tokenizer: Tokenizer
    elements: tuple[str, ...]
    opposite: tuple[int, ...]
    """For each element the one it becomes on the other strand."""
    objective: Literal["focal", "cross-entropy"] = "focal"
    gamma: float = 2.0
    """Of the focal loss: how little a base counts that is answered well already."""
    positive_weights: tuple[float, ...] = ()
    """Weight of the bases inside of each element; (): 1. They make rare elements heard; what a probability means stays
    as it was, since the logits are shifted by the logarithm of the weight while learning (Menon et al. 2021)."""
    shares: tuple[float, ...] = ()
    """Share of the bases that is inside of each element, which a fresh head starts from (Lin et al. 2017, 4.1); (): it
    starts from one half."""
    rc_probability: float = 0.0
    """Of reading a training window from the other strand."""
    n_as_pad: bool = False
    is_segmental: bool = False
    """Also judge segments (SOV), which takes longer."""

    def __post_init__(self) -> None:
        for name, values in (("positive_weights", self.positive_weights), ("shares", self.shares)):
            if values and len(values) != len(self.elements):
                raise ConfigError(f"task.{name}: {len(values)} for {len(self.elements)} elements")
        if self.rc_probability > 0 and self.tokenizer.complement is None:
            raise ConfigError("task.strands: augment needs one token per base")

    def head(self, model: Model) -> tuple[str, dict[str, Any]] | None:
        kind = "token" if self.tokenizer.complement is not None else "segmentation"
        if model.spec.head in ("token", "segmentation") and model.spec.labels == self.elements:
            return None
        options: dict[str, Any] = {"num_outputs": len(self.elements), "problem": "multi-label"}
        return kind, options | ({"opposite": list(self.opposite)} if kind == "token" else {})

    def start_head(self, head: nn.Module) -> None:
        """Begins with the elements' shares as probabilities."""
        if self.shares and isinstance(head, TokenHead) and head.linear.bias is not None:
            with torch.no_grad():
                head.linear.bias.copy_(torch.tensor(self.shares, dtype=torch.float64).logit())

    def prepare(self, batch: Batch, rng: SampleRng, *, is_training: bool) -> Batch:
        if is_training and self.rc_probability > 0:
            batch = self._augmented(batch, rng)
        tokens = unknown_as_pad(batch.tokens, self.tokenizer) if self.n_as_pad else batch.tokens
        return replace(batch, tokens=tokens)

    def _augmented(self, batch: Batch, rng: SampleRng) -> Batch:
        assert batch.target is not None
        is_flipped = rng.coins(batch.index, RC_STREAM, probability=self.rc_probability)
        complement = torch.as_tensor(self.tokenizer.complement, device=batch.tokens.device)
        other = reverse_complement(batch.tokens, complement, batch.mask)
        labels = mirror(batch.target, None)[..., list(self.opposite)]
        return replace(
            batch,
            tokens=torch.where(is_flipped[:, None], other, batch.tokens),
            target=torch.where(is_flipped[:, None, None], labels, batch.target),
        )

    def count(self, batch: Batch) -> Tensor:
        assert batch.target is not None
        return (batch.target != NOT_LABELLED).sum().float()

    def loss(self, model: Model, batch: Batch) -> LossOut:
        assert batch.target is not None
        logits = self.predict(model, batch)
        counts = batch.target != NOT_LABELLED
        truth = torch.where(counts, batch.target, 0).float()
        weight = torch.tensor(self.positive_weights or 1.0, device=logits.device)
        each = F.binary_cross_entropy_with_logits(logits + weight.log(), truth, reduction="none")
        if self.objective == "focal":
            each = (1 - torch.exp(-each)) ** self.gamma * each
        each = each * torch.where(truth > 0, weight, 1.0)
        if batch.weight is not None:
            each = each * batch.weight[:, None, None]
        count = self.count(batch)
        return LossOut((each * counts).sum() / count.clamp_min(1), count, None if model.training else logits)

    def predict(self, model: Model, batch: Batch) -> Tensor:
        """[B, L, elements] float32 logits."""
        logits: Tensor | None = model(batch.tokens, batch.mask).logits
        assert logits is not None
        return element_logits(logits)

    def metrics(self) -> SegmentationMetrics:
        return SegmentationMetrics(self.elements, self.is_segmental)


def element_logits(logits: Tensor) -> Tensor:
    """[B, L, elements] float32 log-odds, from those or from the two classes of a published head [B, L, elements, 2]."""
    logits = logits.float()
    return logits if logits.dim() == 3 else logits[..., 1] - logits[..., 0]


@dataclass
class SegmentationMetrics:
    """Counts of probabilities for each element, inside and outside of it; nothing of the size of the genome."""

    elements: tuple[str, ...]
    is_segmental: bool = False
    _counts: Tensor | None = None
    """[elements, 2, BINS] int64."""
    _loss: list[Tensor] = field(default_factory=list)
    _overlap: NDArray[np.float64] | None = None
    """[elements, 2] sums of the segment overlap, and their norm; windows count one by one."""

    def update(self, batch: Batch, out: LossOut) -> None:
        assert out.outputs is not None
        assert batch.target is not None
        probability = out.outputs.detach().float().sigmoid()
        counts = batch.target != NOT_LABELLED
        number = torch.arange(len(self.elements), device=probability.device)
        cell = (probability * BINS).long().clamp_max(BINS - 1) + BINS * (batch.target == 1).long() + 2 * BINS * number
        found = torch.bincount(cell[counts], minlength=2 * BINS * len(self.elements))
        found = found.view(len(self.elements), 2, BINS).cpu()
        self._counts = found if self._counts is None else self._counts + found
        self._loss.append(torch.stack([out.loss * out.count, out.count]).detach().double().cpu())
        if self.is_segmental:
            self._add_segments(probability.cpu().numpy() >= 0.5, batch.target.cpu().numpy())

    def _add_segments(self, called: NDArray[np.bool_], target: NDArray[np.uint8]) -> None:
        sums = np.zeros((len(self.elements), 2))
        for row in range(len(called)):
            counts = target[row, :, 0] != NOT_LABELLED
            for number in range(len(self.elements)):
                observed: Segments = segments_of(target[row, counts, number] == 1)
                sums[number] += segment_overlap(observed, segments_of(called[row, counts, number]))
        self._overlap = sums if self._overlap is None else self._overlap + sums

    def compute(self) -> dict[str, float]:
        """loss, and mcc, auprc, f1, jaccard (and sov) averaged over the elements that the rows hold."""
        table = self.by_element()
        total, count = torch.stack(self._loss).sum(0).tolist() if self._loss else (0.0, 0.0)
        names = [name for name in next(iter(table.values())) if name not in ("bases", "threshold")]
        means = {name: _mean([row[name] for row in table.values()]) for name in names}
        return {"loss": total / max(count, 1e-30), **means}

    def by_element(self) -> dict[str, dict[str, float]]:
        """Element -> scores at probability 0.5, area under precision and recall, calibration error, bases inside."""
        counts = self.counts().astype(np.float64)
        found = {}
        for number, name in enumerate(self.elements):
            row = count_scores(counts[number, 1], counts[number, 0])
            if self._overlap is not None:
                score, norm = self._overlap[number]
                row["sov"] = float(100 * score / norm) if norm else nan
            found[name] = row
        return found

    def counts(self) -> NDArray[np.int64]:
        """[elements, 2, BINS] bases outside and inside of each element, by probability."""
        assert self._counts is not None, "no rows were judged"
        found: NDArray[np.int64] = self._counts.numpy()
        return found

    def best_thresholds(self) -> dict[str, float]:
        """Element -> probability with the highest MCC, a whole step; one half for an element that is nowhere."""
        counts = zip(self.elements, self.counts(), strict=True)
        return {name: best_step(inside, outside)[0] / BINS for name, (outside, inside) in counts}

    def state(self) -> Any:
        return self._counts, self._loss, self._overlap

    def merge(self, states: list[Any]) -> None:
        counts = [state[0] for state in states if state[0] is not None]
        overlaps = [state[2] for state in states if state[2] is not None]
        self._counts = torch.stack(counts).sum(0) if counts else None
        self._loss = [part for state in states for part in state[1]]
        self._overlap = np.sum(overlaps, axis=0) if overlaps else None


def count_scores(inside: NDArray[np.float64], outside: NDArray[np.float64], threshold: float = 0.5) -> dict[str, float]:
    """Scores of one element from the bases in each step of probability, [BINS] inside and [BINS] outside of it.

    Args:
        threshold: probability from which a base is called, rounded down to a whole step.
    """
    total, half = inside.sum(), int(threshold * BINS)
    right, wrong = inside[half:].sum(), outside[half:].sum()
    missed, quiet = total - right, outside[:half].sum()
    product = (right + wrong) * (right + missed) * (quiet + wrong) * (quiet + missed)
    above, called = np.cumsum(inside[::-1]), np.cumsum((inside + outside)[::-1])
    steps = np.diff(above, prepend=0)
    precision = np.divide(above, called, out=np.zeros_like(above), where=called > 0)
    middle = (np.arange(BINS) + 0.5) / BINS
    everything = inside + outside
    gap = np.abs(inside - middle * everything).reshape(16, -1).sum(1) if everything.sum() else np.zeros(16)
    return {
        "mcc": float((right * quiet - wrong * missed) / np.sqrt(product)) if product else 0.0,
        "auprc": float((steps * precision).sum() / total) if total else nan,
        "f1": float(2 * right / (2 * right + wrong + missed)) if right + wrong + missed else nan,
        "jaccard": float(right / (right + wrong + missed)) if right + wrong + missed else nan,
        "calibration_error": float(gap.sum() / max(everything.sum(), 1)),
        "bases": float(total),
    }


def best_step(inside: NDArray[Any], outside: NDArray[Any]) -> tuple[int, float]:
    """(step, MCC): from which step on calling an element gives the highest MCC; the middle if none is above 0.

    Args:
        inside: [steps] bases inside of the element, by probability or score.
        outside: [steps] those outside of it.
    """
    right, wrong = (np.cumsum(counts[::-1])[::-1].astype(np.float64) for counts in (inside, outside))
    missed, quiet = right[0] - right, wrong[0] - wrong
    product = (right + wrong) * (right + missed) * (quiet + wrong) * (quiet + missed)
    mcc = np.divide(right * quiet - wrong * missed, np.sqrt(product), out=np.zeros_like(right), where=product > 0)
    return (int(mcc.argmax()), float(mcc.max())) if mcc.max() > 0 else (len(inside) // 2, 0.0)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else nan
