"""Writes what the annotators are trained and judged on: genomes, annotations, and the places to leave out.

    python examples/annotator/data.py -o annotator

From Debian packages and one PyPI package (see `examples/make_demo_data.py`), each checked against its checksum:

  fungus.fa, fungus.gff3   Ustilago maydis, 22 chromosomes. chr03 is left out, where the annotation is out of phase with
                           the sequence beyond 680 kb, and so are the small contigs
  fungus_exclude.bed       places of the training chromosomes that are on the project's held-out list
  human.fa, human.gtf      GRCh37 chromosome 20, GENCODE exons
  human_test.bed           20:1-11 Mb

`examples/annotator/fungus.toml` and `human.toml`, `human_sites.toml` read these files.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch_genomes import fetch
from make_demo_data import HELD_OUT, exon_table, folded, fungus_contig, fungus_genes, gtf_lines

from chargaff.data.holdout import read_held_out
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import to_string
from chargaff.seq.interval import Interval

CHROMOSOMES = tuple(f"chr{number:02}" for number in range(1, 24) if number != 3)
TRAIN = CHROMOSOMES[: CHROMOSOMES.index("chr11")]
HOLDOUT = Path(__file__).resolve().parents[1] / "data" / "holdout.tsv.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("annotator"), help="folder (default: annotator)")
    parser.add_argument("--cache", type=Path, help="folder of the downloads (default: OUTPUT/downloads)")
    options = parser.parse_args()
    cache = options.cache or options.output / "downloads"
    cache.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    for path in [*write_fungus(cache, options.output), *write_human(cache, options.output)]:
        print(f"{sha256(path)}  {path}")


def write_fungus(cache: Path, folder: Path) -> list[Path]:
    (source,) = fetch(["fungus_umaydis"], cache)
    genome = Genome(source)
    names = {chromosome: fungus_contig(genome, chromosome) for chromosome in CHROMOSOMES}
    fasta, genes, exclude = (folder / name for name in ("fungus.fa", "fungus.gff3", "fungus_exclude.bed"))
    with fasta.open("w") as file:
        for chromosome, contig in names.items():
            file.write(f">{chromosome}\n{folded(to_string(genome.fetch(contig)))}\n")
    lines = [line for line in fungus_genes(cache).read_text().splitlines() if line.split("\t")[0] in names]
    genes.write_text("##gff-version 3\n" + "".join(f"{line}\n" for line in lines))
    chromosome_of = {contig: chromosome for chromosome, contig in names.items()}
    places = read_held_out(HOLDOUT, list(chromosome_of), species="Ustilago_maydis")
    exclude.write_text(
        "".join(
            f"{chromosome_of[place.contig]}\t{place.start}\t{place.end}\n"
            for place in places
            if chromosome_of[place.contig] in TRAIN
        )
    )
    return [fasta, genes, exclude]


def write_human(cache: Path, folder: Path) -> list[Path]:
    (source,) = fetch(["human_chr20"], cache)
    fasta, exons, test = (folder / name for name in ("human.fa", "human.gtf", "human_test.bed"))
    shutil.copyfile(source, fasta)
    exons.write_text("".join(gtf_lines(exon_table(cache))))
    region = Interval.parse(HELD_OUT)
    test.write_text(f"{region.contig}\t{region.start}\t{region.end}\n")
    return [fasta, exons, test]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
