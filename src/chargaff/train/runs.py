"""Run files: everything about a training run in one typed table."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from chargaff.config import Table, apply_overrides, check_table, parse_override, read_toml
from chargaff.errors import ConfigError
from chargaff.hub.catalog import DEFAULT_MODEL
from chargaff.train.config import Fraction, TrainSpec

Probability = Annotated[float, Field(gt=0, le=1)]
Splits = Literal["train", "valid", "test"]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class ModelTable(Table):
    """Which model: a checkpoint by name, or a family with fresh weights."""

    name: str = ""
    """Checkpoint name (see `chargaff models`), hub id, folder or weight file."""
    weights: Literal["checkpoint", "fresh"] = "checkpoint"
    """fresh: take the named checkpoint's config only."""
    family: str = ""
    """For fresh weights without a checkpoint."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Published config keys. Beside a checkpoint they must agree with it, unless given on the command line."""
    override: tuple[str, ...] = ()
    """Keys of `config` that knowingly replace the checkpoint's; filled in from the command line."""

    @model_validator(mode="after")
    def _check(self) -> ModelTable:
        if bool(self.name) == bool(self.family):
            raise ValueError("give either name (a checkpoint) or family (fresh weights)")
        return self


class MaskedLMTable(Table):
    """Hide some tokens and predict them."""

    kind: Literal["masked-lm"]
    probability: Probability = 0.15
    """Of a position to be selected."""
    mask_fraction: Fraction = 0.8
    """Of the selected: shown as the mask token."""
    random_fraction: Fraction = 0.1
    """Of the selected: shown as a random token; the rest stays."""
    n_as_pad: bool = True
    """Show N as padding and never ask for it."""
    rc_probability: Fraction = 0.0
    """Of reading a training window from the other strand."""

    @model_validator(mode="after")
    def _check(self) -> MaskedLMTable:
        if self.mask_fraction + self.random_fraction > 1:
            raise ValueError(f"mask_fraction + random_fraction: {self.mask_fraction + self.random_fraction} is above 1")
        return self


class CausalLMTable(Table):
    """Predict each token from those before it."""

    kind: Literal["causal-lm"]
    add_eos: bool = True
    """The separator follows the last token of a window."""
    n_as_pad: bool = True
    """Show N as padding and never ask for it."""
    rc_probability: Fraction = 0.0
    """Of reading a training window from the other strand."""


class SequenceTaskTable(Table):
    """One answer per sequence."""

    kind: Literal["sequence"]
    pooling: Literal["mean", "max", "first", "last", "centre", "cls", "none"] = "mean"
    """centre: the middle position, for windows around a site. none: every position has weights of its own, for windows
    of one length that are aligned on a site."""
    strands: Literal["forward", "augment", "conjoin-eval", "conjoin", "oriented"] = "forward"
    """forward: as given. augment: in training either strand, at random. conjoin-eval: the same, and in evaluation both,
    averaged. conjoin: both, averaged, always. Equivariant models see both strands whatever is said here and average
    them: a sequence and its reverse complement get the same answer. oriented lets them answer differently, for
    sequences that have a direction, such as windows along transcripts."""
    head_bias: bool = True
    counts_padding: bool | None = None
    """Padding is pooled as if it were sequence, as in the published fine-tuning; None: if the model has no mask."""
    n_as_pad: bool = False
    """Show N as padding, as in pre-training, instead of as its own token."""
    class_weights: tuple[float, ...] = ()
    """Weight of each class in the loss; (): all alike."""
    balance_classes: bool = False
    """Weight classes inversely to their frequency in the training rows."""
    metrics_per_batch: bool = False
    """Average metrics over batches, as the published code did, instead of scoring all predictions at once."""


class SegmentationTaskTable(Table):
    """Every base: which elements is it in?"""

    kind: Literal["segmentation"]
    loss: Literal["focal", "cross-entropy"] = "focal"
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """Of the focal loss."""
    balance: Fraction = 0.0
    """Bases inside of an element weigh (bases outside / bases inside) to this power; 0: all bases weigh the same. Rare
    elements are learnt sooner; probabilities stay probabilities."""
    strands: Literal["forward", "augment"] = "forward"
    """augment: in training either strand, at random; elements of one strand change places. Equivariant models need
    none of it."""
    n_as_pad: bool = False
    """Show N as padding, as in pre-training, instead of as its own token."""


class GenomeTable(Table):
    """Windows of a genome."""

    kind: Literal["genome"] = "genome"
    fasta: Path
    bed: Path | None = None
    """Regions with the split (train, valid, test) in the fourth column; None: the whole genome, divided as below."""
    length_bp: PositiveInt = 1024
    """Window length; with a BED file a divisor of parent_bp."""
    parent_bp: PositiveInt = 1 << 20
    """A region of the BED file stands for this many bases from its start on."""
    valid_split: Splits | None = "valid"
    """Regions to evaluate on; None: no evaluation."""
    valid_contigs: tuple[str, ...] = ()
    test_contigs: tuple[str, ...] = ()
    valid_fraction: Fraction = 0.0
    """Without a BED file: share of the windows, in blocks of neighbours, that is evaluated on."""
    test_fraction: Fraction = 0.0
    exclude: Path | None = None
    """List of places that no training may see."""
    exclude_species: str | None = None
    """Rows of that list to use."""
    max_unknown_fraction: Fraction | None = None
    """Drop windows in which a larger share is none of A, C, G, T."""


class TokensTable(Table):
    """How labelled sequences become rows of a batch."""

    max_bp: PositiveInt | None = None
    """Longer sequences lose their last bases; None: what the data set says, or no limit."""
    padding: Literal["none", "left", "right"] = "none"
    """Side on which shorter sequences are filled; none: all must be equally long."""
    pad_to_max: bool = True
    """Pad to max_bp instead of to the longest sequence of a batch."""


class DatasetTable(TokensTable):
    """A known data set (see `chargaff data list`)."""

    kind: Literal["dataset"]
    name: str
    """suite/task"""
    root: Path
    """Folder of the suite."""


class FilesTable(TokensTable):
    """Own files: tables with a sequence and a label column, class folders, or FASTA with `|label` in the headers."""

    kind: Literal["files"]
    train: Path
    valid: Path | None = None
    """None: a part of the training rows, another for each seed."""
    test: Path | None = None
    format: Literal["csv", "fasta-label", "folder-of-classes"] | None = None
    """None: by the name's ending; "csv" stands for csv, tsv, Parquet and JSON lines."""
    sequence: str = "sequence"
    """Column of the sequences."""
    label: Names = ("label",)
    """Column, or columns, of the labels."""
    labels: Literal["class", "value", "multi-label"] = "class"
    """What a label is: a class, a number, or several columns of 0 and 1."""
    classes: tuple[str, ...] = ()
    """Names in the order of their ids; (): those of the training rows, sorted."""
    valid_fraction: Probability = 0.1
    valid_rule: Literal["torch", "hub"] = "torch"
    """How training rows are divided by a seed: as torch's random_split, or as train_test_split of `datasets`."""


class AnnotationTable(Table):
    """Windows of a genome and what an annotation says about each base."""

    kind: Literal["annotation"]
    fasta: Path
    annotation: Path
    """GFF3, GTF, or BED whose fourth column names the element."""
    elements: Names
    """type, type[attribute=value], each also with + or -; see `chargaff.data.annotation`."""
    length_bp: PositiveInt = 1024
    """Window length in training."""
    test_length_bp: PositiveInt | None = None
    """In validation and test; None: as in training."""
    valid_contigs: tuple[str, ...] = ()
    test_contigs: tuple[str, ...] = ()
    valid_fraction: Fraction = 0.0
    """Share of the windows, in blocks of neighbours, that is evaluated on."""
    test_regions: Path | None = None
    """BED file of places to test on, which neither training nor validation sees."""
    exclude: Path | None = None
    """List of places that no training may see."""
    exclude_species: str | None = None
    """Rows of that list to use."""
    max_unknown_fraction: Fraction | None = None
    """Drop windows in which a larger share is none of A, C, G, T."""
    focus: Names = ()
    """Elements that are rare: of the training windows without any of them only a share `background` is read. These
    weigh so much more in the loss, so that probabilities stay what they were."""
    background: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _check(self) -> AnnotationTable:
        unknown = [name for name in self.focus if name not in self.elements]
        if unknown:
            raise ValueError(f"focus: {unknown[0]!r} is none of the elements")
        if not (self.valid_contigs or self.valid_fraction):
            raise ValueError("give valid_contigs or valid_fraction: the best weights are chosen on these windows")
        if self.test_contigs and self.test_regions:
            raise ValueError("give test_contigs or test_regions, not both")
        return self


class OutTable(Table):
    """Where the run goes."""

    folder: Path


class FinetuneTrainSpec(TrainSpec):
    """Training settings of a fine-tuning run."""

    seeds: PositiveInt = 1
    """Repetitions 1, 2, ...; each divides the training rows anew, or, where the validation rows are given, begins with
    other weights of the head and another order of the data."""


class PretrainRun(Table):
    """A pre-training run."""

    model: ModelTable
    task: Annotated[MaskedLMTable | CausalLMTable, Field(discriminator="kind")]
    data: GenomeTable
    train: TrainSpec
    out: OutTable


class FinetuneRun(Table):
    """A fine-tuning run."""

    model: ModelTable = ModelTable(name=DEFAULT_MODEL)
    """Without this table, the checkpoint that comes with the package."""
    task: SequenceTaskTable
    data: Annotated[DatasetTable | FilesTable, Field(discriminator="kind")]
    train: FinetuneTrainSpec
    out: OutTable


class SegmentationRun(Table):
    """A fine-tuning run whose answers are about single bases."""

    model: ModelTable
    task: SegmentationTaskTable
    data: AnnotationTable
    train: FinetuneTrainSpec
    out: OutTable


Run = TypeVar("Run", PretrainRun, FinetuneRun, SegmentationRun)


def load_run(schema: type[Run], name: str | Path, words: Sequence[str] = ()) -> Run:
    """The run of a file, or of a recipe of that name, with `key=value` words on top.

    Raises:
        ConfigError: no such file or recipe, or something in it is wrong.
    """
    path = find_run_file(name)
    values = apply_overrides(read_toml(path), words)
    model = values.get("model")
    if isinstance(model, dict):
        keys = {key[2] for key, _ in map(parse_override, words) if key[:2] == ("model", "config") and len(key) > 2}
        if keys and model.get("name"):
            model["override"] = sorted(keys | set(model.get("override", ())))
    return check_table(schema, values, where=f"{path}: ")


def load_finetune_run(name: str | Path, words: Sequence[str] = ()) -> FinetuneRun | SegmentationRun:
    """`load_run` of what the table [task] says: answers about sequences, or about bases."""
    task = apply_overrides(read_toml(find_run_file(name)), words).get("task")
    is_about_bases = isinstance(task, dict) and task.get("kind") == "segmentation"
    return load_run(SegmentationRun, name, words) if is_about_bases else load_run(FinetuneRun, name, words)


def find_run_file(name: str | Path) -> Path:
    """The file itself, or the recipe that ships with the package under this name (without `.toml`)."""
    path = Path(name)
    if path.exists() or path.suffix == ".toml" or len(path.parts) > 1:
        return path
    recipes = list_recipes()
    if path.name not in recipes:
        close = difflib.get_close_matches(path.name, recipes, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"{len(recipes)} recipes are in {_recipe_folder()}"
        raise ConfigError(f"{name}: no such file, and no recipe of that name; {hint}")
    return recipes[path.name]


def list_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships with the package."""
    return {path.stem: path for path in sorted(_recipe_folder().rglob("*.toml"))}


def _recipe_folder() -> Path:
    folder = files("chargaff") / "recipes"
    assert isinstance(folder, Path)
    return folder
