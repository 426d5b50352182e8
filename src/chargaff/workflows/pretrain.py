"""Pre-training on windows of a genome."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, cast

from chargaff.data.loader import TokenRule
from chargaff.data.sources import GenomeWindows, Partition, open_windows
from chargaff.errors import ConfigError
from chargaff.model import Model
from chargaff.tasks.causal_lm import CausalLM
from chargaff.tasks.masked_lm import MaskedLM, MaskingRule
from chargaff.tokenizers.protocol import Tokenizer
from chargaff.train.config import TrainSpec, stages_of
from chargaff.train.evaluate import precision_dtype
from chargaff.train.fit import FitResult, fit, is_first_process, plan_steps
from chargaff.train.runs import CausalLMTable, GenomeTable, MaskedLMTable, PretrainRun, Splits, load_run
from chargaff.workflows.cost import Cost, estimate_training
from chargaff.workflows.training import open_model, record_run, resumable

__all__ = [
    "PretrainRun",
    "Pretraining",
    "is_first_process",
    "load_run",
    "make_task",
    "open_pretraining",
    "pretrain",
    "step_cost",
]


@dataclass(frozen=True, slots=True)
class Pretraining:
    """A run whose data and model have been opened and checked."""

    run: PretrainRun
    model: Model
    task: MaskedLM | CausalLM
    sources: tuple[GenomeWindows, ...]
    """One per stage."""
    valid: GenomeWindows | None

    def describe(self) -> str:
        """The plan in words."""
        plan, max_steps = plan_steps([len(source) for source in self.sources], self.run.train)
        lines = []
        for number, (stage, source) in enumerate(zip(stages_of(self.run.train), self.sources, strict=True)):
            steps = plan.steps[number] if number < len(self.sources) - 1 else max_steps - sum(plan.steps[:-1])
            tokens = stage.batch * source.window_bp
            lines.append(
                f"{steps:,} steps of {stage.batch:,} windows of {source.window_bp:,} bp ({tokens:,} tokens a step) "
                f"out of {len(source):,}: {steps / plan.steps_per_epoch(number):.2f} epochs"
            )
        held_out = "none" if self.valid is None else f"{len(self.valid):,} windows"
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        lines.append(f"evaluation on {held_out}; {parameters:,} parameters")
        return "\n".join(lines)

    def cost(self) -> list[Cost]:
        """Time and memory of each stage, from short runs of the model; evaluation is not counted."""
        _, max_steps = plan_steps([len(source) for source in self.sources], self.run.train)
        costs: list[Cost] = []
        left = max_steps
        for stage, source in zip(stages_of(self.run.train), self.sources, strict=True):
            is_last = len(costs) == len(self.sources) - 1
            steps = left if is_last else stage.steps
            left -= steps
            costs.append(step_cost(self.model, self.run.train, stage.batch, stage.micro_batch, source.window_bp, steps))
        return costs


def open_pretraining(run: PretrainRun) -> Pretraining:
    """Opens the data and builds the model; nothing is written.

    Raises:
        ConfigError, InputError, CheckpointError: whatever is wrong with the run, before any work is done.
    """
    stages = stages_of(run.train)
    train = {length: _windows(run.data, length, "train") for length in {stage.length_bp for stage in stages}}
    valid = None if not _evaluates(run.data) else _windows(run.data, None, run.data.valid_split or "valid")
    model = open_model(run.model, seed=run.train.seed, head="lm")
    notes = {**model.spec.notes, "pre-trained on": run.data.fasta.name}
    model.spec = replace(model.spec, context_bp=max(source.window_bp for source in train.values()), notes=notes)
    task = make_task(run.task, model.tokenizer)
    return Pretraining(run, model, task, tuple(train[stage.length_bp] for stage in stages), valid)


def pretrain(run: PretrainRun, *, resume: bool = True) -> FitResult:
    """Trains as the run file says; in `run.out.folder` see `train.fit.fit`, `run.toml` and `provenance.json`.

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM; the message holds the command that goes on.
    """
    ready = open_pretraining(run)
    folder = run.out.folder
    inputs = [path for path in (run.data.fasta, run.data.bed, run.data.exclude) if path is not None]
    with resumable("pretrain", folder):
        record_run(run, folder, inputs=inputs, model=ready.model)
        rule = _token_rule(ready.model)
        return fit(ready.model, ready.task, ready.sources, ready.valid, run.train, folder, resume=resume, rule=rule)


def _token_rule(model: Model) -> TokenRule:
    """Windows of one length are rows of one length, unless tokens are longer than bases."""
    needs_special = cast(Any, model.backbone).rule.needs_special
    return TokenRule(padding="right", special=True) if needs_special else TokenRule()


def make_task(table: MaskedLMTable | CausalLMTable, tokenizer: Tokenizer) -> MaskedLM | CausalLM:
    """The objective that a `[task]` table describes."""
    if isinstance(table, CausalLMTable):
        return CausalLM(tokenizer, table.add_eos, table.n_as_pad, table.rc_probability)
    masking = MaskingRule(table.probability, table.mask_fraction, table.random_fraction)
    return MaskedLM(tokenizer, masking, table.n_as_pad, table.rc_probability)


def step_cost(
    model: Model, spec: TrainSpec, batch: int, micro_batch: int | None, length_tokens: int, num_steps: int
) -> Cost:
    """Time and memory of `num_steps` optimizer steps on one device."""
    rows = min(micro_batch or batch, batch // spec.devices)
    return estimate_training(
        model,
        batch_size=rows,
        length_tokens=length_tokens,
        num_steps=num_steps * ceil(batch / spec.devices / rows),
        dtype=precision_dtype(spec.precision),
        optimizer_moments={"sgd": int(spec.optim.momentum > 0)}.get(spec.optim.kind, 2),
    )


def _evaluates(data: GenomeTable) -> bool:
    return data.valid_split is not None and bool(data.bed or data.valid_contigs or data.valid_fraction)


def _windows(data: GenomeTable, length_bp: int | None, split: Splits) -> GenomeWindows:
    own_division = data.valid_contigs or data.test_contigs or data.valid_fraction or data.test_fraction
    if data.bed is not None and own_division:
        raise ConfigError(f"data.valid_fraction, data.valid_contigs: {data.bed} names the split of each region")
    return open_windows(
        data.fasta,
        length_bp or data.length_bp,
        split=split,
        regions=data.bed,
        parent_bp=data.parent_bp,
        partition=None
        if data.bed is not None
        else Partition(data.valid_contigs, data.test_contigs, data.valid_fraction, data.test_fraction),
        exclude=data.exclude,
        exclude_species=data.exclude_species,
        max_unknown_fraction=data.max_unknown_fraction,
    )
