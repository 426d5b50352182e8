"""Small runs of every kind, made with the commands a user gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from chargaff.cli.main import main

CLASSES = ('<b>&"x"', "_below", "a$b$c")
"""Names that HTML, legends and formulas would take for something else."""
MARKS = ("gc rich", "starts <A>", "has CG")
TARGETS = {"classes": ["label"], "binary": ["label"], "values": ["share"], "labels": list(MARKS)}
LABELS = {"classes": "class", "binary": "class", "values": "value", "labels": "multi-label"}
MONITORS = {"classes": "mcc", "binary": "auroc", "values": "pearson", "labels": "f1_macro"}
ROWS = {"train": 96, "valid": 40, "test": 60}

RUN = """
[model]
family = "mamba"
[model.config]
d_model = 8
n_layer = 1
vocab_size = 12
[task]
kind = "sequence"
[data]
kind = "files"
train = "{folder}/train.csv"
valid = "{folder}/valid.csv"
test = "{folder}/test.csv"
label = {label}
labels = "{kind}"
[train]
epochs = 3
batch = 16
log_every = 2
monitor = "{monitor}"
optim = {{ lr = 2e-2 }}
seeds = {seeds}
[out]
folder = "{folder}/run"
"""
PRETRAIN = """
[model]
family = "mamba"
[model.config]
d_model = 8
n_layer = 1
vocab_size = 12
[task]
kind = "causal-lm"
[data]
fasta = "{folder}/genome.fa"
length_bp = 32
valid_fraction = 0.2
[train]
max_steps = 6
batch = 4
log_every = 2
valid_every = 2
[out]
folder = "{folder}/run"
"""
ANNOTATOR = """
[model]
family = "caduceus"
[model.config]
d_model = 16
n_layer = 1
vocab_size = 12
rcps = true
[task]
kind = "segmentation"
[data]
kind = "annotation"
fasta = "{folder}/genome.fa"
annotation = "{folder}/genes.bed"
elements = {elements}
length_bp = 100
valid_contigs = ["chr2"]
test_contigs = {test}
[train]
max_steps = 20
batch = 4
log_every = 2
valid_every = 10
monitor = "auprc"
optim = {{ lr = 1e-2 }}
seeds = {seeds}
[out]
folder = "{folder}/run"
"""
ELEMENTS = ("gene+", "gene-", "<b>&mark")


def answer(kind: str, share: float, text: str) -> list[object]:
    if kind == "classes":
        return [CLASSES[int(share * 2.999)]]
    if kind == "binary":
        return ["high" if share > 0.5 else "low"]
    return [f"{share:.4f}"] if kind == "values" else [int(share > 0.5), int(text[0] == "A"), int("CG" in text)]


def write_rows(path: Path, kind: str, rows: int, seed: int) -> None:
    """Sequences whose label follows their composition; three neighbours form a block."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", *TARGETS[kind], "block"])
        for row in range(rows):
            mean = rng.random()
            text = "".join(rng.choice(list("GC" if rng.random() < mean else "AT")) for _ in range(24))
            share = sum(text.count(letter) for letter in "GC") / 24
            writer.writerow([f"row{row}", text, *answer(kind, share, text), f"block{row // 3}"])


def finetuned(folder: Path, kind: str, *, seeds: int = 2) -> Path:
    """A finished fine-tuning run."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, rows) in enumerate(ROWS.items()):
        write_rows(folder / f"{split}.csv", kind, rows, seed)
    label = json.dumps(TARGETS[kind])
    settings = {"label": label, "kind": LABELS[kind], "monitor": MONITORS[kind], "seeds": seeds}
    (folder / "run.toml").write_text(RUN.format(folder=folder, **settings), encoding="utf-8")
    assert main(["--quiet", "finetune", str(folder / "run.toml")]) == 0
    return folder / "run"


def pretrained(folder: Path) -> Path:
    """A finished pre-training run."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = np.random.default_rng(3).choice(list("ACGT"), 4000)
    (folder / "genome.fa").write_text(">chr1\n" + "".join(letters) + "\n")
    (folder / "run.toml").write_text(PRETRAIN.format(folder=folder))
    assert main(["--quiet", "pretrain", str(folder / "run.toml")]) == 0
    return folder / "run"


def annotator(folder: Path, *, seeds: int = 2, has_test: bool = True) -> Path:
    """A finished run that learns to find runs of A (forward) and T (reverse), and a mark that is at random."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(5), []
    with (folder / "genome.fa").open("w") as fasta:
        for contig in ("chr1", "chr2", "chr3"):
            letters = rng.choice(list("CG"), 4000)
            for start in range(50, 3900, 200):
                strand = "+" if rng.random() < 0.5 else "-"
                letters[start : start + 60] = "A" if strand == "+" else "T"
                lines.append(f"{contig}\t{start}\t{start + 60}\tgene\t0\t{strand}\n")
                lines.append(f"{contig}\t{start + 90}\t{start + 120}\t{ELEMENTS[2]}\t0\t.\n")
            fasta.write(f">{contig}\n{''.join(letters)}\n")
    (folder / "genes.bed").write_text("".join(lines))
    test = json.dumps(["chr3"] if has_test else [])
    settings = {"elements": json.dumps(ELEMENTS), "test": test, "seeds": seeds}
    (folder / "run.toml").write_text(ANNOTATOR.format(folder=folder, **settings), encoding="utf-8")
    assert main(["--quiet", "finetune", str(folder / "run.toml")]) == 0
    return folder / "run"
