"""Log-likelihood of every base under a language model, and perplexity of every record."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.windows import WindowPlan, plan_batches, plan_windows
from chargaff.errors import ConfigError
from chargaff.families.protocol import Backbone
from chargaff.hub.load import load
from chargaff.model import Model, autocast, evaluating
from chargaff.seq.alphabet import upper
from chargaff.tasks.likelihood import is_causal, log_likelihood
from chargaff.tokenizers.char import CharTokenizer
from chargaff.tokenizers.protocol import Tokenizer
from chargaff.workflows.cost import LONGEST_PROBE_TOKENS, Cost, Workload, estimate_inference
from chargaff.workflows.embed import BATCH_TOKENS, LITTLE_WORK
from chargaff.workflows.provenance import provenance
from chargaff.workflows.sequences import (
    Inspection,
    Rejected,
    Sequences,
    inspect,
    read_sequences,
)

BASES = "ACGT"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What the numbers mean; None takes the default of the model."""

    strands: Literal["forward", "both"] = "forward"
    """"both": also the log-likelihood read from the other strand; the score is the mean of the two."""
    among: Literal["vocabulary", "bases"] = "vocabulary"
    """Tokens that share the probability: all of the vocabulary, as in the training loss, or A, C, G and T."""
    mask_every: int = 10
    """Models that look both ways: one base in so many is hidden at once, in that many passes."""
    window_bp: int | None = None
    """Longer records are read in windows; None: the checkpoint's context."""
    overlap_bp: int | None = None
    """Bases that a window shares with the one before it; None: a quarter of the window."""
    n_as_pad: bool = False
    """Show N to the model as its pad token."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products."""
    batch_tokens: int | None = None
    """Most tokens read at once; a longer window is read alone."""
    max_unknown: float = 0.05
    """A record with a larger share of letters other than A, C, G, T, N is rejected."""


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """Everything fixed before the first batch is computed."""

    model: Model
    sequences: Sequences
    inspection: Inspection
    options: ScoreOptions
    windows: WindowPlan
    keep: NDArray[np.int64]
    """[2, W, 2] for each strand, the bases of a window (from, to) whose value is taken from it."""
    batches: list[NDArray[np.int64]]
    source: str

    @property
    def rows(self) -> NDArray[np.int64]:
        return self.inspection.accepted

    @property
    def length_bp(self) -> NDArray[np.int64]:
        return self.sequences.length_bp[self.rows]

    @property
    def passes(self) -> int:
        """How often the model reads each window."""
        each = 1 if is_causal(self.model) else self.options.mask_every
        return each * (2 if self.reads_twice else 1)

    @property
    def reads_twice(self) -> bool:
        return self.options.strands == "both" and self.model.spec.strands != "equivariant"

    @property
    def num_tokens(self) -> int:
        return int(self.windows.length_bp.sum()) * (2 if self.reads_twice else 1)

    def describe(self) -> str:
        """The plan in words."""
        kind = (
            "next-base" if is_causal(self.model) else f"pseudo-likelihood, one base in {self.options.mask_every} masked"
        )
        rejected = f", rejected: {len(self.inspection.rejected):,}" if self.inspection.rejected else ""
        counts = f"windows: {len(self.windows):,}, batches: {len(self.batches):,}, passes: {self.passes}"
        return f"records: {len(self.rows):,} ({self.inspection.letters}){rejected}, {counts} ({kind})"

    def cost(self) -> Cost:
        """Estimated time and memory; runs the model on a short random sequence."""
        sizes = self.windows.length_bp
        work = [Workload(len(batch), int(sizes[batch].max()), self.passes) for batch in self.batches]
        dtype = torch.bfloat16 if self.options.dtype == "bfloat16" else None
        return estimate_inference(self.model, work, dtype=dtype)

    def log_plan(self) -> None:
        """Says what will be done and, before much work, what it will take."""
        _LOG.info("%s", self.describe())
        if self.passes * self.windows.length_bp.sum() > LITTLE_WORK * LONGEST_PROBE_TOKENS:
            _LOG.info("%s", self.cost())

    def provenance(self) -> dict[str, Any]:
        """What goes into the output."""
        files: list[Any] = [self.source] if Path(self.source).is_file() else []
        records = {"records": len(self.rows), "sha256": self.inspection.sha256}
        facts = {"kind": "causal" if is_causal(self.model) else "pseudo-likelihood", "unit": "nats"}
        return provenance(self.model, inputs=[*files, records], options={**asdict(self.options), **facts})


@dataclass(frozen=True, slots=True)
class Scores:
    """Per base and per record, in the order of the input."""

    ids: tuple[str, ...]
    length_bp: NDArray[np.int64]
    """[R]"""
    offset_bp: NDArray[np.int64]
    """[R + 1] where each record begins in `by_strand`."""
    by_strand: NDArray[np.float32]
    """[S, total bases] log-likelihood in nats read from each strand, in forward coordinates; NaN: not scored."""
    rejected: tuple[Rejected, ...]
    provenance: dict[str, Any]

    @property
    def log_likelihood(self) -> NDArray[np.float32]:
        """[total bases] mean of the strands; NaN where one of them has none."""
        mean: NDArray[np.float32] = self.by_strand.mean(0)
        return mean

    def record(self, number: int) -> NDArray[np.float32]:
        """[L] of one record."""
        return self.log_likelihood[self.offset_bp[number] : self.offset_bp[number + 1]]

    def summary(self) -> dict[str, NDArray[Any]]:
        """Per record: scored_bp, log_likelihood (their sum), perplexity (exp of minus their mean; NaN without any)."""
        counts, sums = [], []
        for number in range(len(self.ids)):
            values = self.record(number).astype(np.float64)
            counts.append(int((~np.isnan(values)).sum()))
            sums.append(float(np.nansum(values)))
        count, total = np.array(counts, np.int64), np.array(sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            perplexity = np.exp(-total / count)
        return {"scored_bp": count, "log_likelihood": total, "perplexity": perplexity}


def plan_scoring(
    model: Model | str | Path,
    source: str,
    options: ScoreOptions | None = None,
    *,
    genome: str | os.PathLike[str] | None = None,
    column: str | None = None,
    device: str = "auto",
    config: Mapping[str, Any] | None = None,
) -> ScoreJob:
    """Reads and checks the input, and plans the windows.

    Args:
        source: FASTA, FASTQ, BED with `genome`, or table with `column`.
        config: config keys that replace the checkpoint's.

    Raises:
        InputError: malformed input, or no record that can be read.
        ConfigError: an option that does not fit the model or the input.
    """
    options = options or ScoreOptions()
    sequences = read_sequences(source, genome=genome, column=column)
    loaded = model if isinstance(model, Model) else load(model, device=device, config=config)
    _require_fit(loaded, options)
    rule = cast(Backbone, loaded.backbone).rule
    inspection = inspect(sequences, max_unknown=options.max_unknown, allow_n=rule.n_bases != "forbidden")
    length_bp = sequences.length_bp[inspection.accepted]
    window_bp = options.window_bp or loaded.spec.context_bp or rule.max_tokens or int(length_bp.max())
    if rule.max_tokens is not None and min(window_bp, int(length_bp.max())) > rule.max_tokens:
        raise ConfigError(f"window-bp: {window_bp:,} is more than the {rule.max_tokens:,} tokens the model takes")
    overlap_bp = window_bp // 4 if options.overlap_bp is None else options.overlap_bp
    options = replace(options, window_bp=window_bp, overlap_bp=overlap_bp)
    windows = plan_windows(length_bp, window_bp, overlap_bp)
    batch_tokens = options.batch_tokens or BATCH_TOKENS.get(loaded.device.type, BATCH_TOKENS["cuda"])
    if rule.padding == "causal" and options.strands == "both":  # padding would come first on the other strand
        rule = replace(rule, padding="never")
    batches = plan_batches(windows.length_bp, rule, batch_tokens)
    return ScoreJob(loaded, sequences, inspection, options, windows, _kept(windows, loaded), batches, str(source))


def _require_fit(model: Model, options: ScoreOptions) -> None:
    if model.spec.head != "lm" or model.head is None:
        name = model.spec.name or model.spec.family
        raise ConfigError(f"score needs a language-model head; that of {name} is {model.spec.head!r}")
    if model.tokenizer.complement is None:
        raise ConfigError(f"score needs one token per base; {model.spec.family} has longer tokens")
    if options.mask_every < 1:
        raise ConfigError(f"mask-every: expected at least 1, got {options.mask_every}")
    for name, choices in (("strands", ("forward", "both")), ("among", ("vocabulary", "bases"))):
        if getattr(options, name) not in choices:
            raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {getattr(options, name)!r}")


def _kept(windows: WindowPlan, model: Model) -> NDArray[np.int64]:
    """[2, W, 2]: a causal model reads a base where most of the record lies before it, in its own direction."""
    deeper = np.stack([windows.keep_start_bp, windows.keep_stop_bp], 1)
    if not is_causal(model):
        return np.stack([deeper, deeper])
    end = windows.start_bp + windows.length_bp
    has_left = np.concatenate([[False], windows.record[1:] == windows.record[:-1]])
    shared = np.where(has_left, np.concatenate([[0], end[:-1]]) - windows.start_bp, 0)
    shared_right = np.where(np.append(has_left[1:], False), np.append(shared[1:], 0), 0)
    forward = np.stack([shared, windows.length_bp], 1)
    backward = np.stack([np.zeros_like(shared), windows.length_bp - shared_right], 1)
    return np.stack([forward, backward])


def score(job: ScoreJob, *, on_progress: Callable[[int], None] = lambda tokens: None) -> Scores:
    """Computes a planned scoring; keeps 4 bytes a base and strand in memory.

    Args:
        on_progress: called with the number of tokens of each batch.
    """
    offset_bp = np.concatenate([[0], np.cumsum(job.length_bp)])
    num_strands = 2 if job.reads_twice else 1
    values = np.full((num_strands, int(offset_bp[-1])), np.nan, np.float32)
    tokenizer = _tokenizer(job)
    among = _bases(job.model) if job.options.among == "bases" else None
    dtype = torch.bfloat16 if job.options.dtype == "bfloat16" else None
    with evaluating(job.model), torch.inference_mode(), autocast(job.model.device, dtype):
        for batch in job.batches:
            tokens, mask = _read(job, tokenizer, batch)
            for strand in range(num_strands):
                found = _one_strand(job, tokens, mask, strand, among).cpu().numpy()
                _place(job, offset_bp, values[strand], batch, strand, found)
                on_progress(int(job.windows.length_bp[batch].sum()))
    ids = tuple(job.sequences.ids[row] for row in job.rows)
    return Scores(ids, job.length_bp, offset_bp, values, job.inspection.rejected, job.provenance())


def _one_strand(job: ScoreJob, tokens: Tensor, mask: Tensor | None, strand: int, among: Tensor | None) -> Tensor:
    """[B, T] in forward coordinates; NaN for what is no base."""
    model = job.model
    if strand:
        tokens, mask = model.reverse_complement(tokens), None if mask is None else mask.flip(1)
    found = log_likelihood(model, tokens, mask, mask_every=job.options.mask_every, among=among)
    found = found.masked_fill(~torch.isin(tokens.long(), _bases(model)), torch.nan)
    return found.flip(1) if strand else found


def _bases(model: Model) -> Tensor:
    """[4] ids of A, C, G and T."""
    folded = [letter if letter in model.tokenizer.vocab else letter.lower() for letter in BASES]
    return torch.tensor([model.tokenizer.vocab.index(letter) for letter in folded], device=model.device)


def _tokenizer(job: ScoreJob) -> Tokenizer:
    tokenizer = job.model.tokenizer
    if not job.options.n_as_pad:
        return tokenizer
    if not isinstance(tokenizer, CharTokenizer):
        raise ConfigError(f"n-as-pad: {job.model.spec.family} has no token for a single N")
    return replace(tokenizer, n_as_pad=True)


def _read(job: ScoreJob, tokenizer: Tokenizer, batch: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
    """[B, T] tokens of some windows, padded on the right, and where they are real."""
    lengths = job.windows.length_bp[batch]
    tokens = np.full((len(batch), int(lengths.max())), tokenizer.pad_id, np.uint8)
    for row, window in zip(tokens, batch, strict=True):
        start, length = int(job.windows.start_bp[window]), int(job.windows.length_bp[window])
        letters = job.sequences.fetch(int(job.rows[job.windows.record[window]]), start, start + length)
        row[:length] = tokenizer.encode(upper(letters), special=False)
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    device = job.model.device
    return torch.from_numpy(tokens).to(device), None if mask.all() else torch.from_numpy(mask).to(device)


def _place(
    job: ScoreJob,
    offset_bp: NDArray[np.int64],
    values: NDArray[np.float32],
    batch: NDArray[np.int64],
    strand: int,
    found: NDArray[np.float32],
) -> None:
    for row, window in zip(found, batch, strict=True):
        first, last = job.keep[strand, window]
        start = int(offset_bp[job.windows.record[window]] + job.windows.start_bp[window])
        values[start + first : start + last] = row[first:last]
