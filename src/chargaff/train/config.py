"""How a model is trained: the `[train]` table of a run file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from chargaff.config import Table

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Precision = Annotated[Literal["32", "bf16-mixed", "16-mixed"], BeforeValidator(str)]


class OptimSpec(Table):
    """The optimizer and what it leaves alone."""

    kind: Literal["adamw", "adam", "sgd", "rmsprop", "muon"] = "adamw"
    """"muon": Muon for the weight matrices of the blocks, AdamW for all else."""
    lr: PositiveFloat = 1e-3
    """Highest learning rate; the schedule scales from and to it."""
    matrix_lr: PositiveFloat | None = None
    """Of muon: highest learning rate of the matrices; None: `lr`."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Of adam and adamw; the second is also the momentum of muon."""
    eps: PositiveFloat = 1e-8
    momentum: Fraction = 0.0
    """Of sgd and rmsprop."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Not applied to biases, embeddings (and a head tied to them), LayerNorm weights and parameters that opt out."""
    decay_all: bool = False
    """Decay everything, whatever the other options say, as HyenaDNA's published runs did."""
    decay_rms_norm: bool = True
    """Also decay RMSNorm weights, as the published runs did."""
    decay_head_bias: bool = True
    """Also decay the bias of a newly added head, as the published runs did."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a block relative to the one above it; 1 trains all alike."""


class ScheduleSpec(Table):
    """Learning rate as a function of the step."""

    kind: Literal["cosine", "linear", "constant", "step", "wsd"] = "cosine"
    """"wsd": warm-up, stable, decay: constant, then a straight line down (MiniCPM, arXiv:2404.06395). How long the run
    shall be can be decided late: up to the decay it does not depend on `max_steps`."""
    warmup: Annotated[float, Field(ge=0)] = 0.1
    """Length of the linear warm-up as a fraction of the horizon; may end between two steps."""
    warmup_steps: Annotated[float, Field(ge=0)] | None = None
    """The same in steps; replaces `warmup`."""
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Learning rate of step 0."""
    min_lr: Annotated[float, Field(ge=0)] | None = None
    """Where cosine, linear and wsd end; None: `min_lr_ratio` times the highest rate."""
    min_lr_ratio: Fraction = 0.0
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Of "wsd": length of the decay as a fraction of the horizon."""
    after_warmup: bool = True
    """cosine and linear begin when the warm-up ends; false: they run from step 0 and the warm-up hides their start."""
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    """Of "step": fractions of the horizon at which the rate is multiplied by `gamma`."""
    gamma: PositiveFloat = 0.1
    horizon_samples: PositiveInt | None = None
    """Compute the horizon as if the training data had this many sequences (published runs counted the test set too);
    needs `epochs`. None: all steps of the run."""


class Stage(Table):
    """A part of the run with its own window length and batch."""

    steps: PositiveInt
    batch: PositiveInt
    length_bp: PositiveInt | None = None
    """Window length; None: that of `[data]`."""
    micro_batch: PositiveInt | None = None


class TrainSpec(Table):
    """Everything about a training run except the model, the task and the data."""

    max_steps: PositiveInt | None = None
    """Optimizer steps."""
    epochs: PositiveInt | None = None
    """Passes over the training data, instead of max_steps."""
    batch: PositiveInt = 256
    """Sequences in an optimizer step, all devices together."""
    micro_batch: PositiveInt | None = None
    """Sequences that pass a device together; gradients of several are added up, and the result does not depend on it.
    None: all of them."""
    stages: tuple[Stage, ...] = ()
    """Warm-up of (length, batch): these come first, then `batch` for the steps that remain."""
    optim: OptimSpec = OptimSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0: no limit."""
    precision: Precision = "32"
    """Of matrix products; 16-mixed needs a GPU."""
    seed: int = 2222
    """Of the fresh weights, the data order and everything random per sample."""
    freeze_backbone: bool = False
    """Train the head alone."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""

    log_every: PositiveInt = 10
    """Steps per row of train.csv."""
    valid_every: PositiveInt | None = None
    """Steps between evaluations; None: after each epoch, or at the end of a run without epochs."""
    valid_samples: PositiveInt | None = None
    """Evaluate on the first of them only."""
    valid_batch: PositiveInt | None = None
    """Sequences that are evaluated together; None: those of a micro-batch."""
    valid_at_start: bool = False
    checkpoint_every: PositiveInt = 500
    """Steps between writings of the state that a run resumes from."""
    monitor: str = "loss"
    """Metric that decides which weights are best."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether it should fall or rise; auto: losses, errors and perplexity fall."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without a better one."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Change of the metric that counts as better, for patience."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: PositiveInt = 1
    strategy: str = "auto"
    """Passed to Lightning: auto, ddp, ..."""
    workers: Count = 0
    """Processes that read data ahead; changes nothing else."""

    @model_validator(mode="after")
    def _check(self) -> TrainSpec:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give either max_steps or epochs" + (", not both" if self.epochs else ""))
        if self.stages and self.max_steps is None:
            raise ValueError("stages need max_steps")
        if self.stages and self.max_steps is not None and sum(stage.steps for stage in self.stages) >= self.max_steps:
            raise ValueError(f"stages: take {sum(s.steps for s in self.stages)} of max_steps = {self.max_steps} steps")
        if self.schedule.horizon_samples is not None and self.epochs is None:
            raise ValueError("schedule.horizon_samples needs epochs")
        return self


def stages_of(spec: TrainSpec) -> tuple[Stage, ...]:
    """All stages; the last is what `batch` says and has no end of its own."""
    return (*spec.stages, Stage(steps=1, batch=spec.batch, micro_batch=spec.micro_batch))


def is_rising(monitor: str, mode: str) -> bool:
    """Whether more of the metric is better."""
    if mode != "auto":
        return mode == "max"
    return monitor not in ("loss", "perplexity", "mse", "mae")
