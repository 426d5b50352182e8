"""Published gene finders on the same bases: for orientation, not for a contest, since they were trained on them.

    python examples/annotator/references.py augustus examples/annotator/fungus.toml -o augustus.json
    python examples/annotator/references.py spliceai examples/annotator/human.toml --places 20:2000001-3000000 \\
        --model runs/human/model -o spliceai.json

augustus   the Debian package with its model `ustilago_maydis` (`apt-get install augustus`; Artistic licence). By its
           parameter files that was trained on 5,596 genes of this genome, which has some 6,500: most of the genes of
           the test contigs are among them. Its coding parts become labels by the rules for those of the annotation.
spliceai   the five networks of the PyPI package `spliceai` 1.3.1 (GPLv3, weights for non-commercial use), downloaded
           and read with h5py (`pip install h5py`), no TensorFlow; mean of the five. Trained on GENCODE v24 genes of
           human chromosomes 2, 4, 6, 8, 10 to 22, X and Y: chromosome 20 among them. It reads 5,000 bp on either side.

Written: for each element MCC and F1 (area under precision and recall where there are probabilities) at the bases of the
run's test windows, or of those within `--places`; with `--model`, also that model's at the same bases, at its
thresholds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))
from evaluate import READ_ALL, judge
from spliceai import MODELS, SpliceAI
from tally import Tally, count_answers, open_run, rounded

from chargaff.data.annotated import AnnotatedWindows
from chargaff.data.annotation import Annotation, read_annotation
from chargaff.data.sources import GenomeWindows
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import reverse_complement, to_string, upper
from chargaff.seq.interval import Interval
from chargaff.workflows.segment import SegmentOptions

SPECIES = "ustilago_maydis"
PACKAGE = "spliceai==1.3.1"
SITE_BP = 2
STRETCH_BP = 100_000

Answers = Iterator[tuple[list[int], NDArray[np.float32]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("augustus", "spliceai"))
    parser.add_argument("run", type=Path, help="the annotator's run file")
    parser.add_argument("--places", nargs="*", default=[], help="only test windows wholly inside of these, from 1")
    parser.add_argument("--model", help="also judge this annotator at the same bases")
    parser.add_argument("--cache", type=Path, default=Path("references"), help="folder for downloads and predictions")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    began = time.monotonic()
    ready = open_run(options.run)
    assert ready.test is not None
    source = inside(ready.test, [Interval.parse(text) for text in options.places])
    options.cache.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"run": options.run.name, "places": options.places}
    if options.what == "augustus":
        tally = count_answers(source, augustus(source, options.cache))
        record |= {
            "reference": f"augustus --species={SPECIES}",
            "trained_on": "5,596 genes of this genome, which has some 6,500",
            "test": hard(tally),
        }
    else:
        tally = count_answers(source, splice_sites(source, options.cache))
        record |= {"reference": f"{PACKAGE}, mean of {len(MODELS)} networks"}
        record["trained_on"] = "genes of 19 human chromosomes, 20 among them"
        record["test"] = {name: row for name, row in rounded(tally.scores()).items() if is_site(name)}
        record["test_best_threshold"] = {
            name: row for name, row in rounded(tally.scores(tally.best_thresholds())).items() if is_site(name)
        }
    if options.model:
        from chargaff.hub.load import load

        model = load(options.model)
        ours = judge(model, source, SegmentOptions(min_unknown_bp=READ_ALL))
        record["model"] = {"name": options.model, "test": rounded(ours.scores(model.spec.thresholds))}
    record |= {"test_bases": int(tally.counts[:, 0].sum()), "seconds": round(time.monotonic() - began, 1)}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def inside(source: AnnotatedWindows, places: list[Interval]) -> AnnotatedWindows:
    """The windows wholly inside of one of the places; all of them without places."""
    if not places:
        return source
    windows = source.windows
    contig, start = windows.places(np.arange(len(source)))
    keep = np.zeros(len(source), np.bool_)
    for place in places:
        is_here = contig == windows.genome.contig_id(place.contig)
        keep |= is_here & (start >= place.start) & (start + windows.window_bp <= place.end)
    return AnnotatedWindows(
        GenomeWindows(windows.genome, contig[keep], start[keep], window_bp=windows.window_bp), source.annotation
    )


def hard(tally: Tally) -> dict[str, dict[str, float]]:
    """Scores of calls without probabilities."""
    return {
        name: {score: value for score, value in row.items() if score != "auprc"}
        for name, row in rounded(tally.scores()).items()
    }


def augustus(source: AnnotatedWindows, cache: Path) -> Answers:
    """Calls as probabilities 0 and 1."""
    genome = source.windows.genome
    contig, start = source.windows.places(np.arange(len(source)))
    parts = []
    for number in np.unique(contig):
        name = genome.contigs[number]
        part = cache / f"augustus_{SPECIES}_{name}.gff3"
        if not part.exists():
            part.write_text(run_augustus(genome, name))
        parts.append(part.read_text())
    predicted = cache / f"augustus_{SPECIES}.gff3"
    predicted.write_text("##gff-version 3\n" + "".join(parts))
    found = read_annotation(predicted, source.annotation.elements, genome)
    return labels(found, contig, start, source.windows.window_bp)


def labels(annotation: Annotation, contig: NDArray[np.int64], start: NDArray[np.int64], size: int) -> Answers:
    for row, (number, first) in enumerate(zip(contig.tolist(), start.tolist(), strict=True)):
        yield [row], annotation.labels(number, first, first + size)[None].astype(np.float32)


def run_augustus(genome: Genome, name: str) -> str:
    """GFF3 lines of the coding parts that are predicted on both strands of a whole contig."""
    program = shutil.which("augustus")
    if program is None:
        sys.exit("augustus is not installed; on Debian: apt-get install augustus")
    print(f"augustus on {name}", file=sys.stderr, flush=True)
    words = ["--gff3=on", "--introns=off", "--start=off", "--stop=off", "--stopCodonExcludedFromCDS=false"]
    with tempfile.TemporaryDirectory() as scratch:
        fasta = Path(scratch) / "contig.fa"
        fasta.write_text(f">{name}\n{to_string(upper(genome.fetch(name)))}\n")
        command = [program, f"--species={SPECIES}", *words, str(fasta)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"augustus: {run.stderr.strip()}")
    return "".join(f"{line}\n" for line in run.stdout.splitlines() if line and not line.startswith("#"))


def splice_sites(source: AnnotatedWindows, cache: Path) -> Answers:
    """Probabilities of donors and acceptors; 0 for the other elements.

    The networks answer at the last base of an exon (donor) and the first (acceptor); the elements are the two bases of
    the intron next to it.
    """
    network = SpliceAI(weights(cache))
    genome, elements, size = source.windows.genome, source.annotation.elements, source.windows.window_bp
    contig, start = source.windows.places(np.arange(len(source)))
    reach = network.reach_bp + SITE_BP
    for rows in stretches(contig, start, size):
        number, first, last = int(contig[rows[0]]), int(start[rows[0]]), int(start[rows[-1]]) + size
        text = padded(genome, number, first - reach, last + reach)
        answer = np.zeros((last - first, len(elements)), np.float32)
        for sign, strand in (("+", text), ("-", reverse_complement(text))):
            found = sites(network.probabilities(strand))[SITE_BP:-SITE_BP]
            for column, kind in enumerate(("splice_acceptor", "splice_donor")):
                if kind + sign in elements:
                    values = found[:, column] if sign == "+" else found[::-1, column]
                    answer[:, elements.index(kind + sign)] = values
        yield rows, answer.reshape(len(rows), size, -1)
        print(f"spliceai: {rows[-1] + 1:,} of {len(source):,} windows", file=sys.stderr, flush=True)


def stretches(contig: NDArray[np.int64], start: NDArray[np.int64], size: int) -> Iterator[list[int]]:
    """Rows of windows that follow each other without a gap, at most `STRETCH_BP`: what is around them is read once."""
    rows: list[int] = []
    for row in range(len(start)):
        follows = bool(rows) and contig[row] == contig[rows[-1]] and start[row] == start[rows[-1]] + size
        if rows and (not follows or (len(rows) + 1) * size > STRETCH_BP):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def sites(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """[L, 2] acceptor and donor at the intron's bases, from [L, 2] at the exon's."""
    found = np.zeros_like(probability)
    for shift in range(1, SITE_BP + 1):
        found[:-shift, 0] = np.maximum(found[:-shift, 0], probability[shift:, 0])
        found[shift:, 1] = np.maximum(found[shift:, 1], probability[:-shift, 1])
    return found


def padded(genome: Genome, contig: int, start: int, end: int) -> NDArray[np.uint8]:
    """Bases of a place that may reach over the contig's ends, which are N."""
    length_bp = int(genome.lengths_bp[contig])
    low, high = max(start, 0), min(end, length_bp)
    found = np.full(end - start, ord("N"), np.uint8)
    found[low - start : high - start] = upper(genome.fetch(genome.contigs[contig], low, high))
    return found


def weights(cache: Path) -> list[Path]:
    """The five HDF5 files of the PyPI package."""
    paths = [cache / Path(name).name for name in MODELS]
    if not all(path.exists() for path in paths):
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            if subprocess.run([*pip, "--dest", scratch, PACKAGE], check=False).returncode:
                sys.exit(f"pip download {PACKAGE} failed; put its {', '.join(MODELS)} into {cache}")
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for name, path in zip(MODELS, paths, strict=True):
                    path.write_bytes(archive.read(name))
    return paths


def is_site(name: str) -> bool:
    return name.startswith(("splice_donor", "splice_acceptor"))


if __name__ == "__main__":
    main()
