"""Answers of a fine-tuned model for new sequences."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from chargaff.data.batch import Example
from chargaff.data.loader import Collate, TokenRule
from chargaff.data.rng import SampleRng
from chargaff.data.windows import Padding, WindowPlan, plan_batches, plan_windows
from chargaff.errors import ConfigError, InputError
from chargaff.hub.load import load
from chargaff.io.writers import Column, open_writer, output_format
from chargaff.model import Model, autocast, evaluating
from chargaff.tasks.metrics import Problem
from chargaff.tasks.sequence import SequenceTask
from chargaff.train.evaluate import EVALUATION_EPOCH, precision_dtype
from chargaff.workflows.cost import Cost, Workload, estimate_inference
from chargaff.workflows.finetune import INPUT_NOTE, output_name, to_probabilities
from chargaff.workflows.provenance import provenance
from chargaff.workflows.sequences import Inspection, Rejected, Sequences, inspect, list_rejected, read_sequences

LongRecords = Literal["cut", "windows"]


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How sequences are shown to the model."""

    long_records: LongRecords = "cut"
    """Records longer than the model's input: cut after its length, as in fine-tuning, or read in windows side by side
    whose answers are averaged, weighted by the bases each adds."""
    strands: Literal["forward", "both"] | None = None
    """both averages the answers for the two strands; None: as the model was fine-tuned."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products."""
    batch_tokens: int = 65_536
    """Most tokens read at once."""
    max_unknown: float = 0.05
    """A record with a larger share of letters other than A, C, G, T, N is rejected."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Answers in the order of the input, rejected records left out."""

    ids: tuple[str, ...]
    length_bp: NDArray[np.int64]
    columns: tuple[str, ...]
    """One per output: "p_<class>", or the name of a value."""
    values: NDArray[np.float32]
    """[R, outputs] probabilities or values."""
    predicted: tuple[str, ...] | None
    """Most probable class of each record; None for labels and values."""
    rejected: tuple[Rejected, ...]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PredictJob:
    """Everything fixed before the first batch is computed."""

    model: Model
    task: SequenceTask
    rule: TokenRule
    sequences: Sequences
    inspection: Inspection
    windows: WindowPlan
    """`record` counts accepted records."""
    num_tokens: NDArray[np.int64]
    """[windows] padding included."""
    batches: tuple[NDArray[np.int64], ...]
    """Window numbers of each batch."""
    options: PredictOptions
    source: str

    def describe(self) -> str:
        """The plan in words."""
        rejected = f", rejected: {len(self.inspection.rejected):,}" if self.inspection.rejected else ""
        records = f"records: {len(self.inspection.accepted):,} ({self.inspection.letters}){rejected}"
        return f"{records}, windows: {len(self.windows):,}, batches: {len(self.batches):,}"

    def cost(self) -> Cost:
        """Estimated time and memory; runs the model on a short random sequence."""
        passes = 2 if self.task.conjoin_eval and self.model.spec.strands != "equivariant" else 1
        work = [Workload(len(batch), int(self.num_tokens[batch].max()), passes) for batch in self.batches]
        return estimate_inference(self.model, work, dtype=torch.bfloat16 if self.options.dtype == "bfloat16" else None)


def plan_prediction(
    model: str | Path | Model,
    source: str | Path,
    options: PredictOptions | None = None,
    *,
    genome: Path | None = None,
    column: str | None = None,
    device: str = "auto",
) -> PredictJob:
    """Reads and checks the input, and plans the batches.

    Args:
        model: a fine-tuned model, or where it is.
        source: FASTA, FASTQ, a table with `column`, or intervals with `genome`.

    Raises:
        ConfigError: the model has no sequence head.
        InputError: malformed input, or no record that can be read.
    """
    options = options or PredictOptions()
    opened = model if isinstance(model, Model) else load(model, device=device)
    if opened.spec.head != "sequence":
        raise ConfigError(
            f"model: {opened.spec.name or opened.spec.family} has a {opened.spec.head!r} head and answers no question "
            "about sequences; `chargaff finetune` makes one that does"
        )
    sequences = read_sequences(source, genome=genome, column=column)
    rule, task = _input_rule(opened), _task(opened, options)
    allow_n = cast(Any, opened.backbone).rule.n_bases != "forbidden"
    inspection = inspect(sequences, max_unknown=options.max_unknown, allow_n=allow_n)
    windows = _plan(opened, sequences.length_bp[inspection.accepted], rule, options.long_records)
    num_tokens = np.full_like(windows.length_bp, rule.max_tokens) if rule.fixed else windows.length_bp
    batches = plan_batches(num_tokens, _PlanRule(_padding(opened, rule)), options.batch_tokens)
    return PredictJob(
        opened, task, rule, sequences, inspection, windows, num_tokens, tuple(batches), options, str(source)
    )


def predict(job: PredictJob, *, on_progress: Callable[[int], None] = lambda tokens: None) -> Predictions:
    """Computes a planned prediction."""
    model, num_outputs = job.model, job.task.num_outputs
    collate = Collate(model.tokenizer, job.rule)
    answers = np.zeros((len(job.windows), num_outputs), np.float32)
    rng = SampleRng(0, EVALUATION_EPOCH)
    precision = "bf16-mixed" if job.options.dtype == "bfloat16" else "32"
    with evaluating(model), torch.inference_mode(), autocast(model.device, precision_dtype(precision)):
        for batch in job.batches:
            examples = [_example(job, int(number)) for number in batch]
            ready = job.task.prepare(collate(examples, batch).to(model.device), rng, is_training=False)
            answers[batch] = job.task.predict(model, ready).float().cpu().numpy()
            on_progress(int(job.num_tokens[batch].sum()))
    values = _average(job, to_probabilities(job.task.problem, answers))
    names = model.spec.labels or tuple(str(number) for number in range(num_outputs))
    is_class = job.task.problem == "single-label"
    rows = job.inspection.accepted
    return Predictions(
        ids=tuple(job.sequences.ids[row] for row in rows),
        length_bp=job.sequences.length_bp[rows],
        columns=tuple(output_name(job.task.problem, name) for name in names),
        values=values,
        predicted=tuple(names[best] for best in values.argmax(1)) if is_class else None,
        rejected=job.inspection.rejected,
        provenance=_provenance(job),
    )


def predict_to_file(
    job: PredictJob,
    output: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> Path | None:
    """Writes a row per record: id, length_bp, predicted (classes), one column per output; provenance in the metadata.

    Returns:
        The list of rejected records, `<output>.rejected.tsv`; None if there are none.
    """
    check_output(output, overwrite=overwrite)
    found = predict(job, on_progress=on_progress)
    schema = [Column("id", "text"), Column("length_bp", "int64")]
    columns: dict[str, Any] = {"id": found.ids, "length_bp": found.length_bp}
    if found.predicted is not None:
        schema.append(Column("predicted", "text"))
        columns["predicted"] = found.predicted
    schema += [Column(name, "float32") for name in found.columns]
    columns |= {name: found.values[:, number] for number, name in enumerate(found.columns)}
    with open_writer(output, schema, metadata=found.provenance, num_rows=len(found.ids), overwrite=overwrite) as writer:
        writer.write(np.arange(len(found.ids)), columns)
    return list_rejected(found.rejected, output)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises what can be known to go wrong with the output before anything is computed."""
    if output_format(output) not in ("parquet", "tsv"):
        raise ConfigError(f"output {output}: predictions are a table; expected .parquet, .tsv or .tsv.gz")
    if os.path.lexists(output) and not overwrite:
        raise InputError(f"{output}: exists already; choose another path or allow overwriting (--overwrite)")


@dataclass(frozen=True, slots=True)
class _PlanRule:
    padding: Padding


def _padding(model: Model, rule: TokenRule) -> Padding:
    """Rows of one batch are equally long wherever their padding would depend on the batch and change the answer."""
    has_mask = cast(Any, model.backbone).rule.padding != "never"
    return "masked" if rule.padding != "none" and (rule.fixed or has_mask) else "never"


def _input_rule(model: Model) -> TokenRule:
    """How the model's training sequences became tokens, from the notes saved with it; else its context, no padding."""
    notes = model.spec.notes
    max_bp = notes.get(f"{INPUT_NOTE}max_bp", "")
    padding = notes.get(f"{INPUT_NOTE}padding", "none")
    if padding not in ("none", "left", "right"):
        raise ConfigError(f"model.json: note {INPUT_NOTE}padding is {padding!r}, expected none, left or right")
    accepted = cast(Any, model.backbone).rule
    limit = int(max_bp) if max_bp else accepted.fixed_bp or model.spec.context_bp
    is_fixed = notes.get(f"{INPUT_NOTE}pad_to_max") == "true"
    side = cast(Literal["none", "left", "right"], padding)
    return TokenRule(limit, side, fixed=is_fixed, special=accepted.needs_special)


def _task(model: Model, options: PredictOptions) -> SequenceTask:
    facts, notes = model.spec.head_options, model.spec.notes
    num_outputs = int(facts["num_outputs"])
    both = model.spec.strands == "conjoined" if options.strands is None else options.strands == "both"
    return SequenceTask(
        model.tokenizer,
        num_outputs,
        cast(Problem, facts.get("problem", "single-label" if num_outputs > 1 else "regression")),
        conjoin_eval=both,
        counts_padding=notes.get(f"{INPUT_NOTE}counts_padding") == "true",
        n_as_pad=notes.get(f"{INPUT_NOTE}n_as_pad") == "true",
    )


def _plan(model: Model, length_bp: NDArray[np.int64], rule: TokenRule, long_records: LongRecords) -> WindowPlan:
    limit = rule.max_tokens or model.spec.context_bp or int(length_bp.max())
    if long_records == "cut":
        return plan_windows(np.minimum(length_bp, limit), limit)
    return plan_windows(length_bp, limit)


def _example(job: PredictJob, window: int) -> Example:
    record = int(job.inspection.accepted[job.windows.record[window]])
    start = int(job.windows.start_bp[window])
    letters = job.sequences.fetch(record, start, start + int(job.windows.length_bp[window]))
    return Example((letters,), id=job.sequences.ids[record])


def _average(job: PredictJob, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[R, outputs] answers of records from those of their windows, weighted by the bases each window adds."""
    num_records = len(job.inspection.accepted)
    total = np.zeros((num_records, values.shape[1]))
    weight = job.windows.weight_bp.astype(np.float64)
    np.add.at(total, job.windows.record, values * weight[:, None])
    covered = np.bincount(job.windows.record, weights=weight, minlength=num_records)
    return (total / covered[:, None]).astype(np.float32)


def _provenance(job: PredictJob) -> dict[str, Any]:
    files: list[Any] = [job.source] if Path(job.source).is_file() else []
    records = {"records": len(job.inspection.accepted), "sha256": job.inspection.sha256}
    facts = {"max_bp": job.rule.max_tokens, "padding": job.rule.padding, "conjoined": job.task.conjoin_eval}
    return provenance(job.model, inputs=[*files, records], options={**asdict(job.options), **facts})
