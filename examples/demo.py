"""What the models that come with the package can do, on real DNA, in a few minutes on two cores.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path("examples/data")
RUNS = Path("examples/runs")
MARKER = ".chargaff-demo"
SLICES, GENE_EXONS, CONTIGS = DATA / "chr20_slices.fa.gz", DATA / "chr20_genes.gtf.gz", DATA / "six_bacteria.fa.gz"
FUNGUS, FUNGUS_GENES = DATA / "umaydis.fa.gz", DATA / "umaydis.gff3.gz"
ANNOTATOR = "chargaff-segment-mini"
ELEMENTS = ("CDS", "intron", "splice_donor")
"""Of the annotator, to print."""
SMOKE_REGION_BP = 5000
HELD_OUT_CONTIG = "chr20_2600001_2700000"
GENE, GENE_ID = "NOP56", "ENSG00000101361"
DINUCLEOTIDE = {"donor": "GT", "acceptor": "AG"}
"""First or last two bases of nearly every intron."""
HALF_BP = 100
"""Of the splice windows, to either side of the site."""

SMOKE_FINETUNE = ("train.epochs=1", "train.batch=8")
SMOKE_KEEPS = 100
"""A smoke run reads one row or candidate in so many."""


@dataclass
class Demo:
    """The output folder, and what the steps have found so far."""

    out: Path
    is_smoke: bool
    seconds: dict[str, float] = field(default_factory=dict)
    species: list[str] = field(default_factory=list)
    """Of each contig."""
    sections: list[Any] = field(default_factory=list)
    """Of the report, beside those that every report has."""
    notes: dict[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model -> score -> mean and interval."""
    page: Path | None = None
    """Of the annotation."""

    def contigs(self) -> Path:
        return few_records(CONTIGS, self.out) if self.is_smoke else CONTIGS

    def smoke_words(self) -> tuple[str, ...]:
        """What a smoke run adds to the command of a fine-tuning."""
        if not self.is_smoke:
            return ()
        tables = {name: few_rows(DATA / f"splice_{name}.tsv.gz", self.out) for name in ("train", "valid", "test")}
        return (*SMOKE_FINETUNE, *(f"data.{name}={path}" for name, path in tables.items()))


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
    steps = (embed, finetune, finetune_cnn, scan_gene, write_html, annotate)
    for number, step in enumerate(steps, 1):
        with timed(demo, f"{number}/{len(steps)} {str(step.__doc__).splitlines()[0]}", step.__name__):
            step(demo)
    demo.seconds["total"] = time.perf_counter() - begin
    print_table(demo)


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
    """One record in 8 of a FASTA file."""
    part = folder / f"smoke_{fasta.name}"
    with gzip.open(fasta, "rt") as full, gzip.open(part, "wt") as few:
        few.writelines(f">{record}" for record in islice(full.read().split(">"), 1, None, 8))
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


def embed(demo: Demo) -> None:
    """Embed contigs of six bacteria; do they tell the species apart?"""
    from chargaff.io.records import read_records
    from chargaff.io.tables import read_table
    from chargaff.seq.kmers import kmer_table
    from chargaff.workflows.embedding_map import compare_labels

    output = demo.out / "contigs.parquet"
    chargaff("embed", demo.contigs(), "-o", output, "--dtype", "bfloat16")
    table = read_table(output)
    demo.species = [name.rpartition("_")[0].replace("_", " ") for name in table["id"].to_pylist()]
    vectors = {
        "embedding": np.array(table["embedding"].to_pylist()),
        "4-mers": kmer_table([record.sequence for record in read_records(demo.contigs())], 4),
    }
    for name, values in vectors.items():
        found = compare_labels(values, demo.species)
        demo.notes[f"contigs, {name}"] = {
            "adjusted_rand_index": found.adjusted_rand,
            "nearest_neighbour_accuracy": found.neighbour_accuracy,
        }
        print(
            f"{len(demo.species)} contigs by {name}: k-means finds the species with an adjusted Rand index of "
            f"{found.adjusted_rand:.2f}; nearest neighbour of the same species: {found.neighbour_accuracy:.0%}"
        )


def finetune(demo: Demo) -> None:
    """Fine-tune it on splice sites of chromosome 20, test once on 20:1-11 Mb"""
    chargaff("finetune", RUNS / "splice.toml", f"out.folder={demo.out / 'splice'}", *demo.smoke_words())


def finetune_cnn(demo: Demo) -> None:
    """Train the convolutional baseline on the same windows"""
    chargaff("finetune", RUNS / "splice_cnn.toml", f"out.folder={demo.out / 'cnn'}", *demo.smoke_words())


def scan_gene(demo: Demo) -> None:
    """Predict on a FASTA file: every GT and AG of a gene in the held-out region"""
    from chargaff.data.splice import CLASSES, find_sites, read_exons
    from chargaff.io.fasta import Genome
    from chargaff.io.tables import read_table
    from chargaff.report.page import Gallery, Section
    from chargaff.report.panels import draw_sites

    genome = Genome(SLICES)
    exons = [exon for exon in read_exons(GENE_EXONS, genome)[0] if exon.gene.startswith(GENE_ID)]
    sites = find_sites(exons, min_intron_bp=20)
    first, last = min(exon.interval.start for exon in exons), max(exon.interval.end for exon in exons)
    text = genome.fetch(HELD_OUT_CONTIG).tobytes().decode("ascii")
    fasta, output = demo.out / f"{GENE}.fa", demo.out / f"{GENE}.parquet"
    with fasta.open("w", encoding="ascii") as file:
        for name, boundary in candidates(text, first, last, step=SMOKE_KEEPS if demo.is_smoke else 1):
            file.write(f">{name}_{boundary}\n{text[boundary - HALF_BP : boundary + HALF_BP]}\n")
    chargaff("predict", demo.out / "splice" / "model", fasta, "-o", output)

    table = read_table(output)
    kind, boundary = np.array([record.split("_") for record in table["id"].to_pylist()]).T
    predicted = np.array(table["predicted"].to_pylist())
    pictures = []
    for name in DINUCLEOTIDE:
        rows = kind == name
        at = boundary[rows].astype(int)
        is_annotated = np.isin(at, sites.boundary[sites.label == CLASSES.index(name)])
        is_called = predicted[rows] == name
        found, wrong = int((is_annotated & is_called).sum()), int((~is_annotated & is_called).sum())
        demo.notes[f"{GENE} {name}s"] = {
            "annotated": int(is_annotated.sum()),
            "found": found,
            "candidates": int(rows.sum()),
            "others_called": wrong,
        }
        words = (
            f"{name}s of {GENE}: {found} of {is_annotated.sum()} annotated ones called, and "
            f"{wrong} of {(~is_annotated).sum()} other {DINUCLEOTIDE[name]}"
        )
        print(words)
        probability = table[f"p_{name}"].to_numpy()[rows]
        title, y_label = f"Every {DINUCLEOTIDE[name]} of {GENE}", f"probability of a {name}"
        pictures.append(
            draw_sites(f"gene-{name}", title, at - first, probability, is_annotated, y_label=y_label, alt=f"{words}.")
        )
    intro = f"{GENE} lies in the held-out region 20:1-11 Mb. Positions count from its first exon (forward strand)."
    demo.sections.append(Section("gene", f"A gene read by the fine-tuned model: {GENE}", [Gallery(pictures)], intro))


def candidates(text: str, first: int, last: int, *, step: int) -> Iterator[tuple[str, int]]:
    """Every `step`-th (name, boundary) of GT right of the boundary or AG left of it, forward strand."""
    found = [
        (name, match.start() + (2 if name == "acceptor" else 0))
        for name, pair in DINUCLEOTIDE.items()
        for match in re.finditer(pair, text[:last])
        if match.start() >= first
    ]
    yield from found[::step]


def write_html(demo: Demo) -> None:
    """Judge it beside the CNN and a k-mer regression, and write the report"""
    from chargaff.workflows.report import MapSource, ReportOptions, write_report

    contigs = MapSource(demo.out / "contigs.parquet", demo.species, title="Contigs of six bacteria")
    report = write_report(
        demo.out / "splice",
        demo.out / "report",
        baselines={"CNN": demo.out / "cnn"},
        has_kmers=True,
        maps=[contigs],
        extra=demo.sections,
        options=ReportOptions(title="Splice sites of human chromosome 20", name="Caduceus-PS mini, fine-tuned"),
    )
    demo.scores = report.scores
    print(report.page)


def annotate(demo: Demo) -> None:
    """Annotate 100 kb of a fungal chromosome that no training has seen, base by base"""
    from chargaff.data.annotation import read_annotation
    from chargaff.io.fasta import Genome
    from chargaff.report.statistics import matthews

    folder, words, genome = demo.out / "annotation", [], Genome(FUNGUS)
    (contig,) = genome.contigs
    size = SMOKE_REGION_BP if demo.is_smoke else int(genome.lengths[contig])
    if demo.is_smoke:
        (demo.out / "smoke.bed").write_text(f"{contig}\t0\t{size}\n")
        words += ["--regions", demo.out / "smoke.bed"]
    if find_spec("igv_notebook") is None:
        print("(without the page: it needs the extra `browser`)")
        words.append("--no-page")
    chargaff("segment", ANNOTATOR, FUNGUS, "--annotation", FUNGUS_GENES, "-o", folder, *words)
    demo.page = folder / "index.html" if (folder / "index.html").exists() else None

    names = [kind + strand for kind in ELEMENTS for strand in "+-"]
    truth = read_annotation(FUNGUS_GENES, names, genome).labels(0, 0, size)
    called = np.zeros_like(truth)
    for line in (folder / "calls.bed").read_text().splitlines():
        _, start, end, name = line.split("\t")[:4]
        if name in names:
            called[int(start) : int(end), names.index(name)] = 1
    print(f"{contig}, both strands:")
    print("{:16}{:>8}{:>14}{:>11}".format("element", "MCC", "bases inside", "called"))
    for place, kind in enumerate(ELEMENTS):
        strands = slice(2 * place, 2 * place + 2)
        inside, here = truth[:, strands].ravel(), called[:, strands].ravel()
        mcc = matthews(np.bincount(2 * inside + here, minlength=4).reshape(2, 2))
        demo.notes[f"annotation, {kind}"] = {"mcc": mcc, "inside": int(inside.sum()), "called": int(here.sum())}
        print(f"{kind:16}{mcc:>8.3f}{inside.sum():>14,}{here.sum():>11,}")


def print_table(demo: Demo) -> None:
    """What came out, and where everything is."""
    from chargaff.workflows.provenance import provenance

    record = {
        "scores": demo.scores,
        "seconds": {name: round(value, 1) for name, value in demo.seconds.items()},
        "notes": demo.notes,
        "is_smoke": demo.is_smoke,
        "provenance": provenance(inputs=sorted(DATA.glob("*.gz")), options={}),
    }
    (demo.out / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    print("\nSplice acceptor, donor or neither: test windows of human 20:1-11 Mb, in no training")
    if demo.is_smoke:
        print("(smoke run: budgets far too small to learn anything)")
    print("{:30}{:>10}{:>25}{:>8}{:>8}".format("model", "accuracy", "MCC (95 % interval)", "AUROC", "AUPRC"))
    for name, scores in demo.scores.items():
        low, high = scores["mcc"]["interval"]
        accuracy, mcc, auroc, auprc = (scores[score]["mean"] for score in ("accuracy", "mcc", "auroc", "auprc"))
        interval = f"{mcc:.3f} ({low:.3f} to {high:.3f})"
        print(f"{name:30}{accuracy:>10.3f}{interval:>25}{auroc:>8.3f}{auprc:>8.3f}")
    print(f"{demo.seconds['total']:.0f} s in all. Report: {demo.out / 'report' / 'report.html'}")
    if demo.page is not None:
        print(f"Annotation of a fungal chromosome, in a genome browser: {demo.page}")


if __name__ == "__main__":
    main()
