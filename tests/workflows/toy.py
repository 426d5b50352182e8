"""Tiny models and sequences for the tests of workflows and commands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.hub.save import save
from chargaff.model import Model

CONTEXT_BP = 64


def tiny_model(
    variant: str = "ps", *, family: str = "caduceus", head: str = "lm", context_bp: int | None = CONTEXT_BP
) -> Model:
    """A model with fresh weights, all of them moved away from their initial values."""
    outputs = None if head == "lm" else 3
    config = get_family(family).tiny[variant]
    model = create(family, config, head=head, num_outputs=outputs, seed=1, name=f"tiny-{variant}").eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.spec = replace(model.spec, context_bp=context_bp)
    return model


def saved_model(folder: Path, variant: str = "ps") -> Path:
    """The folder of a saved tiny model."""
    path = folder / f"tiny-{variant}"
    save(tiny_model(variant), path)
    return path


def random_bases(length_bp: int, *, seed: int = 0, letters: str = "ACGT") -> str:
    chosen = np.random.default_rng(seed).integers(0, len(letters), length_bp)
    return "".join(letters[i] for i in chosen)


def write_fasta(path: Path, records: dict[str, str], *, width: int = 60) -> Path:
    """A FASTA file with lines of `width` bases."""
    lines = []
    for name, sequence in records.items():
        lines += [f">{name}", *(sequence[i : i + width] for i in range(0, len(sequence), width))]
    path.write_text("\n".join(lines) + "\n")
    return path
