"""A run small enough to be repeated many times in a test; as a program: `python toy.py FOLDER [key=value ...]`."""

import sys
from pathlib import Path

import numpy as np

from chargaff.config import apply_overrides, check_table
from chargaff.data.batch import Example
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.model import Model
from chargaff.tasks.masked_lm import MaskedLM
from chargaff.train.config import TrainSpec
from chargaff.train.fit import FitResult, fit

SPEC = {
    "max_steps": 24,
    "batch": 4,
    "log_every": 2,
    "valid_every": 5,
    "checkpoint_every": 3,
    "optim": {"lr": 8e-3},
}


class Repeats:
    """Windows of a repeated unit: easy to learn."""

    def __init__(self, rows: int, length_bp: int, *, targets: bool = False, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        unit = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 7)]
        self.sequence = np.tile(unit, (rows + length_bp) // 7 + 2)
        self.rows, self.length_bp, self.targets = rows, length_bp, targets

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Example:
        return Example(
            (self.sequence[index : index + self.length_bp],), index % 2 if self.targets else None, id=str(index)
        )


def tiny(family: str = "mamba", variant: str = "tied", head: str = "lm", seed: int = 1) -> Model:
    return create(family, get_family(family).tiny[variant], head=head, seed=seed)


def spec(**changes: object) -> TrainSpec:
    return check_table(TrainSpec, {**SPEC, **changes})


def run(out: Path, *words: str) -> FitResult:
    model = tiny("caduceus", "ps-even")
    settings = check_table(TrainSpec, apply_overrides(SPEC, words))
    task = MaskedLM(model.tokenizer, rc_probability=0.5)
    return fit(model, task, Repeats(18, 21), Repeats(6, 21, seed=1), settings, out)


if __name__ == "__main__":
    run(Path(sys.argv[1]), *sys.argv[2:])
