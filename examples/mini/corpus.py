"""Writes what the bundled checkpoint is pre-trained on: one FASTA file of real genomes, and the places to leave out.

    python examples/mini/corpus.py -o corpus                       first stage
    python examples/mini/corpus.py --stage second -o corpus_second
    python examples/mini/corpus.py --stage third -o corpus_third
    python examples/mini/corpus.py --stage fourth -o corpus_fourth
    python examples/mini/corpus.py --stage fifth -o corpus_fifth         for the sixth stage too

Genomes come from Debian packages (`examples/fetch_genomes.py`). In `corpus/corpus.fa` a contig is named
`species.contig`; from an organism other than human at most its first 10 Mb are taken, and small genomes are written
several times (`species.contig_copy2`, `_copy3`, ...), in each stage as often as `STAGES` says. About half of the first
stage is human, more than a quarter bacteria; of the second 45 % and 30 %; of the third 50 % and 18 %; of the fourth
43 % and 20 %; of the fifth and the sixth, which read the same, 47 % and 20 %. `corpus/holdout.bed` holds the intervals
of `examples/data/holdout.tsv.gz` under these names (0-based, end exclusive), wherever they lie in what was taken:
pre-training drops each window that touches one of them. These intervals' own sequence goes to `corpus/heldout.fa`, for
evaluation.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch_genomes import fetch

from chargaff.io.fasta import Genome

HOLDOUT = Path(__file__).resolve().parents[1] / "data" / "holdout.tsv.gz"
LINE_BP = 100
MAX_BP = 10_000_000

SPECIES = {
    "human_chr20": "Homo_sapiens",
    "human_chrX": "Homo_sapiens",
    "fly_chr2R": "Drosophila_melanogaster",
    "worm_chrX": "Caenorhabditis_elegans",
    "fungus_umaydis": "Ustilago_maydis",
    "dictyostelium": "Dictyostelium_discoideum",
    "plasmodium_falciparum": "Plasmodium_falciparum",
    "plasmodium_knowlesi": "Plasmodium_knowlesi",
    "escherichia_coli": "Escherichia_coli",
    "helicobacter_pylori": "Helicobacter_pylori",
    "staphylococcus_aureus": "Staphylococcus_aureus",
    "vibrio_cholerae": "Vibrio_cholerae",
    "klebsiella_pneumoniae": "Klebsiella_pneumoniae",
    "mycobacterium_tuberculosis": "Mycobacterium_tuberculosis",
    "streptococcus_suis": "Streptococcus_suis",
}
"""Genome (by its name in fetch_genomes.py) -> species, as the held-out list spells it."""

STAGES = {
    "first": {
        "Escherichia_coli": 3,
        "Helicobacter_pylori": 3,
        "Klebsiella_pneumoniae": 3,
        "Mycobacterium_tuberculosis": 3,
        "Staphylococcus_aureus": 3,
        "Streptococcus_suis": 3,
        "Vibrio_cholerae": 3,
    },
    "second": {
        "Homo_sapiens": 2,
        "Caenorhabditis_elegans": 3,
        "Dictyostelium_discoideum": 2,
        "Escherichia_coli": 8,
        "Helicobacter_pylori": 20,
        "Klebsiella_pneumoniae": 3,
        "Mycobacterium_tuberculosis": 5,
        "Plasmodium_knowlesi": 5,
        "Staphylococcus_aureus": 5,
        "Streptococcus_suis": 5,
        "Ustilago_maydis": 3,
        "Vibrio_cholerae": 12,
    },
    "third": {
        "Homo_sapiens": 3,
        "Caenorhabditis_elegans": 10,
        "Escherichia_coli": 8,
        "Helicobacter_pylori": 14,
        "Klebsiella_pneumoniae": 2,
        "Mycobacterium_tuberculosis": 3,
        "Plasmodium_knowlesi": 8,
        "Staphylococcus_aureus": 3,
        "Streptococcus_suis": 3,
        "Ustilago_maydis": 4,
        "Vibrio_cholerae": 12,
    },
    "fourth": {
        "Homo_sapiens": 3,
        "Caenorhabditis_elegans": 18,
        "Dictyostelium_discoideum": 2,
        "Escherichia_coli": 10,
        "Helicobacter_pylori": 20,
        "Klebsiella_pneumoniae": 2,
        "Mycobacterium_tuberculosis": 3,
        "Plasmodium_knowlesi": 9,
        "Staphylococcus_aureus": 9,
        "Streptococcus_suis": 4,
        "Ustilago_maydis": 4,
        "Vibrio_cholerae": 13,
    },
    "fifth": {
        "Homo_sapiens": 4,
        "Caenorhabditis_elegans": 24,
        "Dictyostelium_discoideum": 2,
        "Escherichia_coli": 14,
        "Helicobacter_pylori": 20,
        "Mycobacterium_tuberculosis": 2,
        "Plasmodium_knowlesi": 6,
        "Staphylococcus_aureus": 8,
        "Streptococcus_suis": 18,
        "Ustilago_maydis": 4,
        "Vibrio_cholerae": 13,
    },
}
"""How often a species is written in each stage of the pre-training; once where it is not named."""
STAGES["sixth"] = STAGES["fifth"]


@dataclass(frozen=True, slots=True)
class Place:
    """An interval of the held-out list, 0-based, end exclusive."""

    species: str
    contig: str
    start: int
    end: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("corpus"), help="folder (default: corpus)")
    parser.add_argument("--stage", choices=STAGES, default="first", help="of the pre-training (default: first)")
    parser.add_argument("--genomes", type=Path, help="folder of the fetched genomes (default: OUTPUT/genomes)")
    options = parser.parse_args()
    paths = fetch(list(SPECIES), options.genomes or options.output / "genomes")
    options.output.mkdir(parents=True, exist_ok=True)
    for path in write_corpus(dict(zip(SPECIES, paths, strict=True)), options.output, STAGES[options.stage]):
        print(f"{sha256(path)}  {path}")


def write_corpus(genomes: dict[str, Path], folder: Path, times: dict[str, int]) -> tuple[Path, Path, Path]:
    """(corpus.fa, holdout.bed, heldout.fa) in `folder`; `times`: how often a species is written.

    Raises:
        SystemExit: an interval of the held-out list names a contig that its species' genome lacks.
    """
    paths = folder / "corpus.fa", folder / "holdout.bed", folder / "heldout.fa"
    places = list(read_places())
    with paths[0].open("wb") as corpus, paths[1].open("w") as bed, paths[2].open("wb") as held_out:
        for name, path in genomes.items():
            genome, species = Genome(path), SPECIES[name]
            room = sys.maxsize if species == "Homo_sapiens" else MAX_BP
            for contig, length_bp in zip(genome.contigs, genome.lengths_bp.tolist(), strict=True):
                taken_bp = min(length_bp, room)
                room -= taken_bp
                names = copies(f"{species}.{contig}", times.get(species, 1)) if taken_bp else []
                for copy in names:
                    write_record(corpus, copy, genome.fetch(contig, 0, taken_bp))
                for place in places:
                    if place.species == species and same_contig(place.contig, contig):
                        start, end = place.start, min(place.end, length_bp)
                        write_record(held_out, f"{species}.{contig}:{start}-{end}", genome.fetch(contig, start, end))
                        for copy in names if start < taken_bp else []:
                            bed.write(f"{copy}\t{start}\t{min(end, taken_bp)}\n")
            check_names(species, genomes, places)
    return paths


def copies(name: str, times: int) -> list[str]:
    """The names under which a contig is written."""
    return [name, *(f"{name}_copy{copy}" for copy in range(2, times + 1))]


def write_record(file: BinaryIO, name: str, bases: NDArray[np.uint8]) -> None:
    """One FASTA record."""
    file.write(f">{name}\n".encode())
    for start in range(0, len(bases), LINE_BP):
        file.write(bases[start : start + LINE_BP].tobytes() + b"\n")


def read_places() -> Iterator[Place]:
    """The held-out list."""
    with gzip.open(HOLDOUT, "rt") as file:
        for row in csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"):
            yield Place(row["species"], row["source_sequence"], int(row["start"]), int(row["end"]))


def same_contig(listed: str, contig: str) -> bool:
    """Whether the list means this contig; it calls `Umaydis:chr11:1:+:690617` also `chr11`."""
    return listed == contig or contig.startswith(f"Umaydis:{listed}:")


def check_names(species: str, genomes: dict[str, Path], places: list[Place]) -> None:
    """Stops at a held-out contig that no genome of the species has: its intervals would silently be trained on."""
    contigs = [c for name, path in genomes.items() if SPECIES[name] == species for c in Genome(path).contigs]
    for place in places:
        if place.species == species and not any(same_contig(place.contig, contig) for contig in contigs):
            sys.exit(f"{species}: held-out contig {place.contig!r} is not in the genome, which has {contigs[:5]}")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
