"""A DNA foundation model from nothing to splice sites, on real human DNA, in a few minutes on two cores.

    python examples/demo.py            # into demo-out/; what `make demo` runs
    python examples/demo.py --smoke    # the same steps with tiny budgets: shows that all works, not what it can do

Each step prints the command that does the same by hand. Where the data come from: examples/data/README.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

Floats = np.ndarray[Any, Any]

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path("examples/data")
RUNS = Path("examples/runs")
MARKER = ".chargaff-demo"
SLICES, GENE_EXONS, CONTIGS = DATA / "chr20_slices.fa.gz", DATA / "chr20_genes.gtf.gz", DATA / "six_bacteria.fa.gz"
HELD_OUT_CONTIG = "chr20_2600001_2700000"
GENE, GENE_ID = "NOP56", "ENSG00000101361"
DINUCLEOTIDE = {"donor": "GT", "acceptor": "AG"}
"""First or last two bases of nearly every intron."""

SMOKE_PRETRAIN = ("train.max_steps=6", "train.valid_every=3", "train.valid_samples=8", "train.batch=4")
SMOKE_FINETUNE = ("train.epochs=2",)
SMOKE_KEEPS = 40
"""A smoke run reads one row or candidate in so many."""


@dataclass
class Demo:
    """The output folder, and what the steps have found so far."""

    out: Path
    is_smoke: bool
    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    probabilities: dict[str, Floats] = field(default_factory=dict)
    """Model -> [n, C] of the test windows."""
    target: Floats = field(default_factory=lambda: np.zeros(0, np.int64))
    """[n] classes of the test windows."""
    notes: dict[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> Path:
        """Table of the splice windows of a split; a small part of it in a smoke run."""
        path = DATA / f"splice_{name}.tsv.gz"
        return few_rows(path, self.out) if self.is_smoke else path

    def contigs(self) -> Path:
        return few_records(CONTIGS, self.out) if self.is_smoke else CONTIGS

    def smoke_words(self) -> tuple[str, ...]:
        """What a smoke run adds to the command of a fine-tuning."""
        if not self.is_smoke:
            return ()
        return (*SMOKE_FINETUNE, *(f"data.{name}={self.split(name)}" for name in ("train", "valid", "test")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "demo-out", help="folder for the results")
    parser.add_argument("--smoke", action="store_true", help="tiny budgets, under a minute")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is there
    out = options.output.absolute()
    os.chdir(REPOSITORY)
    prepare_folder(out)
    demo = Demo(Path(os.path.relpath(out)), options.smoke)
    begin = time.perf_counter()
    steps = (pretrain, embed, finetune, finetune_cnn, fit_kmers, scan_gene, draw)
    for number, step in enumerate(steps, 1):
        with timed(demo, f"{number}/{len(steps)} {str(step.__doc__).splitlines()[0]}", step.__name__):
            step(demo)
    demo.seconds["total"] = time.perf_counter() - begin
    report(demo)


def prepare_folder(out: Path) -> None:
    """An empty folder; an older demo's is emptied, any other is refused."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        sys.exit(f"{out}: holds files that are not the demo's; choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def few_rows(table: Path, folder: Path) -> Path:
    """A copy of a table in `folder` with one row in `SMOKE_KEEPS`."""
    part = folder / f"smoke_{table.name}"
    with gzip.open(table, "rt") as full, gzip.open(part, "wt") as few:
        few.write(next(full))
        few.writelines(islice(full, 0, None, SMOKE_KEEPS))
    return part


def few_records(fasta: Path, folder: Path) -> Path:
    """The same for a FASTA file."""
    part = folder / f"smoke_{fasta.name}"
    with gzip.open(fasta, "rt") as full, gzip.open(part, "wt") as few:
        few.writelines(f">{record}" for record in islice(full.read().split(">"), 1, None, SMOKE_KEEPS // 5))
    return part


@contextmanager
def timed(demo: Demo, title: str, name: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    begin = time.perf_counter()
    yield
    demo.seconds[name] = time.perf_counter() - begin
    print(f"   {demo.seconds[name]:.1f} s", flush=True)


def chargaff(*words: object) -> None:
    """Runs a command in this process, after printing it."""
    from chargaff.cli.main import main as run

    command = [str(word) for word in words]
    print(f"$ chargaff {shlex.join(command)}", flush=True)
    code = run(command)
    if code:
        sys.exit(code)


def pretrain(demo: Demo) -> None:
    """Pre-train a tiny Caduceus-PS on 1 Mb of human DNA (masked bases)"""
    chargaff(
        "pretrain",
        RUNS / "pretrain.toml",
        f"out.folder={demo.out / 'pretrain'}",
        *(SMOKE_PRETRAIN if demo.is_smoke else ()),
    )


def embed(demo: Demo) -> None:
    """Embed contigs of six bacteria, which the model has never seen"""
    from chargaff.io.records import read_records
    from chargaff.io.tables import read_table
    from chargaff.seq.kmers import kmer_table

    output = demo.out / "contigs.parquet"
    chargaff("embed", demo.out / "pretrain" / "model", demo.contigs(), "-o", output)
    table = read_table(output)
    species = [name.rpartition("_")[0].replace("_", " ") for name in table["id"].to_pylist()]
    vectors = np.array(table["embedding"].to_pylist())
    tetramers = kmer_table([record.sequence for record in read_records(demo.contigs())], 4)
    accuracy = {"embedding": neighbour_accuracy(vectors, species), "4-mers": neighbour_accuracy(tetramers, species)}
    demo.notes["contigs"] = {"count": len(species), "nearest_neighbour_accuracy": accuracy}
    print(
        f"{len(species)} contigs; nearest neighbour of the same species: {accuracy['embedding']:.0%} by embedding, "
        f"{accuracy['4-mers']:.0%} by 4-mer frequencies"
    )
    from chargaff.report.figures import plot_points, principal_components

    points, share = principal_components(vectors)
    x_label, y_label = (f"component {k + 1} ({share[k]:.0%} of the variance)" for k in range(2))
    title = f"Embeddings of {len(species)} contigs of 5 kb"
    plot_points(demo.out / "embedding_pca.png", points, species, title=title, axis_labels=(x_label, y_label))


def neighbour_accuracy(vectors: Floats, labels: list[str]) -> float:
    """Share of rows whose nearest other row, after standardising the columns, has the same label."""
    from chargaff.seq.kmers import distances

    spread = vectors.std(0)
    scaled = (vectors - vectors.mean(0)) / np.where(spread > 0, spread, 1)
    apart = distances(scaled, scaled)
    np.fill_diagonal(apart, np.inf)
    names = np.array(labels)
    return float((names[apart.argmin(1)] == names).mean())


def finetune(demo: Demo) -> None:
    """Fine-tune it on splice sites of chromosome 20, test once on 20:1-11 Mb"""
    start = f"model.name={demo.out / 'pretrain' / 'model'}"
    chargaff("finetune", RUNS / "splice.toml", start, f"out.folder={demo.out / 'splice'}", *demo.smoke_words())
    judge_run(demo, "Caduceus-PS", "splice")


def finetune_cnn(demo: Demo) -> None:
    """Train the convolutional baseline on the same windows"""
    chargaff("finetune", RUNS / "splice_cnn.toml", f"out.folder={demo.out / 'cnn'}", *demo.smoke_words())
    judge_run(demo, "CNN", "cnn")


def judge_run(demo: Demo, name: str, run: str) -> None:
    """Takes over a fine-tuning run's test predictions."""
    from chargaff.hub.load import load
    from chargaff.io.tables import read_table

    table = read_table(demo.out / run / "predictions.parquet")
    labels = class_names()
    probability = np.stack([table[f"p_{label}"].to_numpy() for label in labels], axis=1)
    model = load(demo.out / run / "model", device="cpu")
    judge(demo, name, probability, table["target"].to_numpy(), sum(p.numel() for p in model.parameters()))


def fit_kmers(demo: Demo) -> None:
    """Fit the k-mer baseline; k and penalty are chosen on the validation windows"""
    from chargaff.workflows.baselines import fit_kmer_baseline

    parts = {split: read_split(demo.split(split)) for split in ("train", "valid", "test")}
    choices: dict[str, Any] = {"ks": (2,)} if demo.is_smoke else {"inverse_penalties": (1e-3, 1e-2)}
    # k-mers as read: windows follow the transcript, so folding the strands together would only lose information
    baseline = fit_kmer_baseline(*parts["train"], *parts["valid"], foldings=(False,), **choices)
    print(f"chosen: {baseline.chosen.k}-mers, C = {baseline.chosen.inverse_penalty:g}")
    sequences, target = parts["test"]
    classifier = baseline.pipeline[-1]
    judge(demo, "k-mer regression", baseline.predict(sequences), target, classifier.coef_.size + len(baseline.classes))


def read_split(path: Path) -> tuple[Any, Floats]:
    """Sequences and class numbers."""
    from chargaff.data.readers import read_sequences

    table = read_sequences(path, classes=class_names())
    assert table.labels is not None
    return table.views[0], table.labels.target


def class_names() -> tuple[str, ...]:
    from chargaff.data.splice import CLASSES

    return CLASSES


def judge(demo: Demo, name: str, probability: Floats, target: Floats, num_parameters: int) -> None:
    """Scores of a model's test probabilities [n, C]."""
    from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

    truth = np.eye(probability.shape[1])[target]
    confusion = confusion_matrix(target, probability.argmax(1), labels=range(probability.shape[1]))
    low, high = mcc_interval(confusion)
    demo.probabilities[name] = probability
    demo.target = target
    demo.scores[name] = {
        "parameters": num_parameters,
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "mcc": float(mcc(confusion)),
        "mcc_95": [low, high],
        "auroc": float(roc_auc_score(truth, probability)),
        "auprc": float(average_precision_score(truth, probability)),
        "confusion": confusion.tolist(),
    }


def mcc(confusion: Floats) -> Floats:
    """Matthews correlation of confusion matrices [..., C, C]; 0 where it is not defined."""
    total = confusion.sum((-2, -1)).astype(float)
    true, predicted = confusion.sum(-1).astype(float), confusion.sum(-2).astype(float)
    correct = np.trace(confusion, axis1=-2, axis2=-1)
    product = (total**2 - (true**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    covariance: Floats = correct * total - (true * predicted).sum(-1)
    return covariance / np.sqrt(np.where(product > 0, product, np.inf))


def mcc_interval(confusion: Floats, repeats: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval over test windows."""
    cells = confusion.ravel()
    draws = np.random.default_rng(0).multinomial(cells.sum(), cells / cells.sum(), repeats)
    low, high = np.quantile(mcc(draws.reshape(repeats, *confusion.shape)), [0.025, 0.975])
    return float(low), float(high)


def scan_gene(demo: Demo) -> None:
    """Predict on a FASTA file: every GT and AG of a gene in the held-out region"""
    from chargaff.data.splice import CLASSES, find_sites, read_exons
    from chargaff.io.fasta import Genome
    from chargaff.io.tables import read_table
    from chargaff.report.figures import plot_sites

    genome = Genome(SLICES)
    exons = [exon for exon in read_exons(GENE_EXONS, genome)[0] if exon.gene.startswith(GENE_ID)]
    sites = find_sites(exons, min_intron_bp=20)
    first, last = min(exon.interval.start for exon in exons), max(exon.interval.end for exon in exons)
    text = genome.fetch(HELD_OUT_CONTIG).tobytes().decode("ascii")
    half_bp = int(read_split(demo.split("valid"))[0].lengths_bp[0]) // 2
    fasta, output = demo.out / f"{GENE}.fa", demo.out / f"{GENE}.parquet"
    with fasta.open("w", encoding="ascii") as file:
        for name, boundary in candidates(text, first, last, step=SMOKE_KEEPS if demo.is_smoke else 1):
            file.write(f">{name}_{boundary}\n{text[boundary - half_bp : boundary + half_bp]}\n")
    chargaff("predict", demo.out / "splice" / "model", fasta, "-o", output)

    table = read_table(output)
    kind, boundary = np.array([record.split("_") for record in table["id"].to_pylist()]).T
    predicted = np.array(table["predicted"].to_pylist())
    panels = {}
    for name in ("donor", "acceptor"):
        rows = kind == name
        at = boundary[rows].astype(int)
        is_annotated = np.isin(at, sites.boundary[sites.label == CLASSES.index(name)])
        is_called = predicted[rows] == name
        panels[name] = (at - first, table[f"p_{name}"].to_numpy()[rows], is_annotated)
        counts = {"annotated": int(is_annotated.sum()), "candidates": int(rows.sum())}
        counts |= {
            "found": int((is_annotated & is_called).sum()),
            "others_called": int((~is_annotated & is_called).sum()),
        }
        demo.notes[f"{GENE} {name}s"] = counts
        print(
            f"{name}s of {GENE}: {counts['found']} of {counts['annotated']} annotated ones called, and "
            f"{counts['others_called']} of {counts['candidates'] - counts['annotated']} other {DINUCLEOTIDE[name]}"
        )
    title = f"Splice sites of {GENE} (20:1-11 Mb, in no training)"
    plot_sites(demo.out / f"{GENE}.png", panels, title=title, x_label="position in the gene (bp)")


def candidates(text: str, first: int, last: int, *, step: int) -> Iterator[tuple[str, int]]:
    """Every `step`-th (name, boundary) of GT right of the boundary or AG left of it, forward strand."""
    found = [
        (name, match.start() + (2 if name == "acceptor" else 0))
        for name, pair in DINUCLEOTIDE.items()
        for match in re.finditer(pair, text[:last])
        if match.start() >= first
    ]
    yield from found[::step]


def draw(demo: Demo) -> None:
    """Draw the curves"""
    from chargaff.io.fasta import Genome
    from chargaff.report.figures import plot_confusion, plot_loss, plot_roc_pr
    from chargaff.train.log import read_log

    held_out = Genome(SLICES).fetch(HELD_OUT_CONTIG)
    share = np.unique(held_out, return_counts=True)[1] / len(held_out)
    entropy = float(-(share * np.log(share)).sum())
    demo.notes["pretraining"] = {
        "held_out_cross_entropy_nats": read_log(demo.out / "pretrain" / "valid.csv")["loss"][-1],
        "base_composition_nats": entropy,
    }
    titles = {
        "pretrain": "Pre-training: masked bases of human DNA",
        "splice": "Fine-tuning of Caduceus-PS: splice sites",
        "cnn": "Training of the CNN: splice sites",
    }
    for run, title in titles.items():
        folder = demo.out / run if run == "pretrain" else demo.out / run / "seed-1"
        train, valid = read_log(folder / "train.csv"), read_log(folder / "valid.csv")
        curves = {"training": (train["step"], train["loss"])}
        curves["held-out region" if run == "pretrain" else "validation"] = (valid["step"], valid["loss"])
        unit = "nats per masked base" if run == "pretrain" else "nats per window"
        guess = {"base composition": entropy} if run == "pretrain" else {"guessing": float(np.log(len(class_names())))}
        path = demo.out / f"loss_{run}.png"
        arrays = {label: (np.array(x), np.array(y)) for label, (x, y) in curves.items()}
        plot_loss(path, arrays, title=title, y_label=f"cross-entropy ({unit})", references=guess)
    classes, place = class_names(), "windows of 20:1-11 Mb"
    plot_roc_pr(demo.out / "roc_pr.png", demo.target, demo.probabilities, classes, title=f"Test: {place}")
    for name, scores in demo.scores.items():
        path = demo.out / f"confusion_{name.replace(' ', '_')}.png"
        plot_confusion(path, np.array(scores["confusion"]), classes, title=f"{name}: {place}")


def report(demo: Demo) -> None:
    """The table, and where everything is."""
    from chargaff.workflows.provenance import provenance

    record = {
        "scores": demo.scores,
        "seconds": {name: round(value, 1) for name, value in demo.seconds.items()},
        "notes": demo.notes,
        "is_smoke": demo.is_smoke,
        "provenance": provenance(inputs=sorted(DATA.glob("*.gz")), options={}),
    }
    (demo.out / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nSplice acceptor, donor or neither: {len(demo.target):,} test windows of human 20:1-11 Mb, in no training")
    if demo.is_smoke:
        print("(smoke run: budgets far too small to learn anything)")
    head = ("model", "parameters", "accuracy", "MCC (95 % interval)", "AUROC", "AUPRC", "seconds")
    print("{:18}{:>11}{:>10}{:>25}{:>8}{:>8}{:>9}".format(*head))
    for (name, scores), step in zip(demo.scores.items(), ("finetune", "finetune_cnn", "fit_kmers"), strict=True):
        low, high = scores["mcc_95"]
        interval = f"{scores['mcc']:.3f} ({low:.3f} to {high:.3f})"
        print(
            f"{name:18}{scores['parameters']:>11,}{scores['accuracy']:>10.3f}{interval:>25}"
            f"{scores['auroc']:>8.3f}{scores['auprc']:>8.3f}{demo.seconds[step]:>9.0f}"
        )
    print(f"{demo.seconds['total']:.0f} s in all. Curves, tables, models: {demo.out}/")


if __name__ == "__main__":
    main()
