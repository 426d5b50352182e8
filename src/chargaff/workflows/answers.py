"""What models answered for labelled rows, read from runs and tables, so that they can be judged side by side."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.config import check_table, read_toml
from chargaff.data.table import SequenceTable
from chargaff.errors import ConfigError, InputError
from chargaff.io.tables import column_names, read_table
from chargaff.seq.alphabet import Sequence
from chargaff.tasks.metrics import Problem
from chargaff.train.runs import FinetuneRun
from chargaff.workflows.baselines import fit_kmer_baseline
from chargaff.workflows.labelled import open_data
from chargaff.workflows.run_folder import PREDICTIONS, RunFolder, read_run
from chargaff.workflows.training import RUN_FILE

KMERS = "k-mer regression"
_PREFIX = "p_"
_NO_OUTPUT = ("seed", "row", "id", "target", "predicted", "length_bp")


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Predictions of one model for n labelled rows, of one or more repetitions."""

    name: str
    """Of the model, as the report shall call it."""
    problem: Problem
    names: tuple[str, ...]
    """Classes, labels or values, in the order of the columns."""
    target: NDArray[Any]
    """[n] class numbers, or [n, C] 0/1 labels or values."""
    values: Mapping[int, NDArray[np.float64]]
    """Seed -> [n, C] probabilities, or values."""
    ids: tuple[str, ...] = ()
    """[n] name of each row; () if they have none."""
    num_parameters: int | None = None
    chosen_seed: int = 0
    """Repetition to draw; 0 stands for the first."""

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError(f"{self.name}: no predictions")
        shape = (len(self.target), len(self.names))
        wrong = {seed: table.shape for seed, table in self.values.items() if table.shape != shape}
        if wrong:
            raise InputError(f"{self.name}: predictions are {wrong}, expected {shape} for each seed")
        for seed, table in self.values.items():
            if not np.isfinite(table).all():
                row = int(np.argwhere(~np.isfinite(table))[0, 0])
                raise InputError(f"{self.name}: seed {seed} has a prediction that is no finite number (row {row + 1})")
        if self.problem == "single-label" and len(self.target):
            low, high = int(np.min(self.target)), int(np.max(self.target))
            if low < 0 or high >= len(self.names):
                raise InputError(f"{self.name}: targets go from {low} to {high}; there are {len(self.names)} classes")

    @property
    def chosen(self) -> NDArray[np.float64]:
        """[n, C] of the repetition to draw."""
        return self.values[self.chosen_seed] if self.chosen_seed in self.values else next(iter(self.values.values()))

    def beside(self, other: Answers) -> Answers:
        """These answers with the columns in the order of `other`.

        Raises:
            InputError: they are for other rows, or for another question.
        """
        if self.problem != other.problem or set(self.names) != set(other.names):
            ours, theirs = f"{self.problem} {list(self.names)}", f"{other.problem} {list(other.names)}"
            raise InputError(f"{self.name}: answers {ours}, but {other.name} answers {theirs}")
        order = [self.names.index(name) for name in other.names]
        target = self.target
        if self.problem == "single-label":
            target = np.argsort(order)[target]
        elif len(self.target):
            target = target[:, order]
        is_same = len(target) == len(other.target) and (
            np.array_equal(target, other.target) if self.problem != "regression" else np.allclose(target, other.target)
        )
        if not is_same:
            counts = f"{len(target):,} and {len(other.target):,} rows"
            raise InputError(
                f"{self.name}: its rows are not those of {other.name} ({counts}, or other targets); "
                "models can be compared on the same test rows only"
            )
        values = {seed: table[:, order] for seed, table in self.values.items()}
        return replace(self, names=other.names, target=other.target, values=values)


def answers_of_run(run: RunFolder, name: str = "") -> Answers | None:
    """The test predictions of a fine-tuning run; None if it had no test rows."""
    path = run.folder / PREDICTIONS
    if not path.is_file():
        return None
    found = read_answers(path, name or run.name)
    return replace(found, num_parameters=run.num_parameters, chosen_seed=run.chosen_seed)


def read_baseline(source: Path, name: str) -> Answers:
    """Answers of a fine-tuning run's folder, or of a table of predictions."""
    if not source.is_dir():
        return read_answers(source, name)
    run = read_run(source)
    run.require_finished()
    found = answers_of_run(run, name)
    if found is None:
        raise InputError(f"{source}: the run has no {PREDICTIONS}; it had no test rows")
    return found


def read_answers(path: Path, name: str) -> Answers:
    """Answers from a table: `target`, a column `p_<class>` for each class (or one for each value), maybe `seed`, `id`.

    Rows of all seeds stand in the same order. A target is the number of a class, or its name.

    Raises:
        InputError: a column is missing, or the seeds differ in their rows.
    """
    available = column_names(path)
    outputs = [column for column in available if column.startswith(_PREFIX)]
    is_value = not outputs
    if is_value:
        outputs = [column for column in available if column not in _NO_OUTPUT and not column.startswith("target_")]
    targets = [column for column in available if column == "target" or column.startswith("target_")]
    if not targets:
        close = difflib.get_close_matches("target", available, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "with the true class, labels or value of each row"
        raise InputError(f"{path}: no column 'target', {hint} (columns: {', '.join(map(repr, available))})")
    if not outputs:
        raise InputError(
            f"{path}: no column {_PREFIX}<class> and no value (columns: {', '.join(map(repr, available))})"
        )
    table = read_table(path)
    names = tuple(column.removeprefix(_PREFIX) for column in outputs)
    values = _numbers(path, table, outputs)
    target = _target(path, table, targets, names, is_value=is_value)
    problem: Problem = "regression" if is_value else "single-label" if target.ndim == 1 else "multi-label"
    seeds = np.asarray(table["seed"].to_pylist(), np.int64) if "seed" in available else np.ones(len(target), np.int64)
    rows = {int(seed): np.flatnonzero(seeds == seed) for seed in np.unique(seeds)}
    if not rows:
        raise InputError(f"{path}: the table has no rows")
    first = next(iter(rows.values()))
    for seed, here in rows.items():
        if len(here) != len(first) or not np.array_equal(target[here], target[first]):
            raise InputError(f"{path}: the rows of seed {seed} are not those of seed {int(seeds[first[0]])}")
    ids = tuple(map(str, table["id"].take(first).to_pylist())) if "id" in available else ()
    return Answers(name, problem, names, target[first], {seed: values[here] for seed, here in rows.items()}, ids)


def kmer_answers(run: RunFolder) -> Answers:
    """Of a logistic regression on k-mer frequencies, fitted on the run's training rows, its settings chosen on the
    validation rows.

    Raises:
        ConfigError: the run's labels are no classes, or its data have no test rows.
    """
    settings = check_table(FinetuneRun, read_toml(run.folder / RUN_FILE), where=f"{run.folder / RUN_FILE}: ")
    data = open_data(settings.data)
    if data.labels.kind != "class" or data.test is None or data.test.labels is None:
        raise ConfigError(f"{run.folder}: the k-mer baseline needs classes and test rows")
    train, valid = data.divide(run.chosen_seed)
    assert train.labels is not None
    assert valid.labels is not None
    fitted = fit_kmer_baseline(_sequences(train), train.labels.target, _sequences(valid), valid.labels.target)
    probability = np.zeros((len(data.test), len(data.labels.names)))
    probability[:, list(fitted.classes)] = fitted.predict(_sequences(data.test))
    classifier = fitted.pipeline[-1]
    return Answers(
        KMERS,
        "single-label",
        data.labels.names,
        data.test.labels.target,
        {1: probability},
        num_parameters=int(classifier.coef_.size + classifier.intercept_.size),
    )


def read_groups(run: RunFolder, answers: Answers, column: str) -> NDArray[np.int64]:
    """[n] group of each test row, from a column of the predictions or else of the run's test table.

    Raises:
        InputError: neither has this column, or the test table has changed since.
        ConfigError: the test rows are in no table.
    """
    predictions = run.folder / PREDICTIONS
    if column in column_names(predictions):
        values = read_table(predictions, [column])[column].to_pylist()[: len(answers.target)]
    else:
        test = run.settings["data"].get("test")
        if test is None or Path(test).is_dir():
            raise ConfigError(f"groups: {predictions} has no column {column!r}, and the run names no test table")
        values = read_table(Path(test), [column], types={column: "text"})[column].to_pylist()
    if len(values) != len(answers.target):
        counts = f"{len(values):,} rows, the predictions {len(answers.target):,}"
        raise InputError(f"{run.settings['data'].get('test')}: has {counts}; has it changed since the run?")
    groups: NDArray[np.int64] = np.unique(np.asarray(values, dtype=str), return_inverse=True)[1].astype(np.int64)
    return groups


def _sequences(table: SequenceTable) -> list[Sequence]:
    return [table.views[0][row] for row in range(len(table))]


def _numbers(path: Path, table: Any, columns: Rows[str]) -> NDArray[np.float64]:
    """[n, columns]"""
    try:
        return np.stack([np.asarray(table[column].to_pylist(), np.float64) for column in columns], axis=1)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {', '.join(columns)}: expected numbers ({error})") from None


def _target(path: Path, table: Any, columns: Rows[str], names: tuple[str, ...], *, is_value: bool) -> NDArray[Any]:
    """[n] class numbers, or [n, C] numbers."""
    if len(columns) > 1:
        return _numbers(path, table, columns)
    values = table[columns[0]].to_pylist()
    if is_value or (values and isinstance(values[0], list)):
        return np.asarray(values, np.float64).reshape(len(values), -1)
    if values and isinstance(values[0], str):
        strange = sorted(set(values) - set(names))
        if strange:
            raise InputError(f"{path}: target {strange[0]!r} is none of the classes {', '.join(names)}")
        values = [names.index(value) for value in values]
    return np.asarray(values, np.int64)
