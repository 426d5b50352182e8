"""Remakes the human and fungal files of examples/data from their packages, byte for byte.

    python examples/make_demo_data.py            # writes examples/data
    python examples/make_demo_data.py --check    # compares instead of writing

Sequence: GRCh37 chromosome 20 in the Debian package vt-examples. Exons: the table of the PyPI package mmsplice. Fungus:
genome and genes in the Debian package maffilter-examples. They are downloaded (18, 62 and 7 MB) into a folder of the
user's cache the first time.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fetch_genomes import expand, fetch, unpack

from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import to_string
from chargaff.seq.interval import Interval
from chargaff.workflows.splice import SpliceSpec, prepare_splice

DATA = Path(__file__).resolve().parent / "data"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chargaff" / "demo-sources"

MMSPLICE = "mmsplice==2.4.0"
EXON_TABLE = "mmsplice/models/grch37_exons.csv.gz"
EXON_TABLE_SHA256 = "8da80d51fcd52d95ff702a88b442c82d2f5c586b18868b7101884bc6b9486b39"

FUNGUS_GENES = "usr/share/doc/maffilter/examples/Umaydis/Umaydis.gff3.gz"
FUNGUS_GENES_SHA256 = "aa452bdb4b31bf4c6dae848120f6bf74fa5e8f50cfe75a7ead75a432732b8904"

HELD_OUT = "20:1000001-11000000"
"""Seen by no training of this project."""
TRAINING = Interval.parse("20:32000001-33000000")
"""For pre-training; no N, and no base of the held-out list."""
GENES = Interval.parse("20:2600001-2700000")
"""Held out; holds NOP56 (forward strand) and IDH3B (reverse strand)."""
FUNGUS = Interval.parse("chr14:396001-496000")
"""Of a contig that no training of this project sees; it begins and ends between genes and has no unknown base."""
LINE_BP = 100

SPLICE = SpliceSpec(window_bp=200)
TRAIN_PER_CLASS, EVAL_PER_CLASS = 2000, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files that are there, write nothing")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"folder for the downloads (default: {CACHE})")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = make(options.cache, Path(scratch))
        if options.check:
            wrong = [path.name for path in made if path.read_bytes() != (DATA / path.name).read_bytes()]
            sys.exit(f"differ: {', '.join(wrong)}" if wrong else None)
        for path in made:
            shutil.copyfile(path, DATA / path.name)
            print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes")


def make(cache: Path, out: Path) -> list[Path]:
    """The files in `out`."""
    cache.mkdir(parents=True, exist_ok=True)
    (genome_path,) = fetch(["human_chr20"], cache)
    genome = Genome(genome_path)
    exons = out / "exons.gtf"
    exons.write_text("".join(gtf_lines(exon_table(cache))))
    slices = write_gzip(out / "chr20_slices.fa.gz", fasta(genome, TRAINING) + fasta(genome, GENES))
    gene_exons = write_gzip(out / "chr20_genes.gtf.gz", "".join(gtf_inside(exons, GENES)))
    prepare_splice(
        genome_path,
        exons,
        out / "splice",
        spec=SPLICE,
        test_regions=[HELD_OUT],
        exclude=DATA / "holdout.tsv.gz",
        exclude_species="Homo_sapiens",
        max_train_per_class=TRAIN_PER_CLASS,
        max_eval_per_class=EVAL_PER_CLASS,
        format="tsv.gz",
    )
    splits = [out / "splice" / f"{split}.tsv.gz" for split in ("train", "valid", "test")]
    renamed = [path.rename(out / f"splice_{path.name}") for path in splits]
    return [slices, gene_exons, *fungus(cache, out), *renamed]


def fungus(cache: Path, out: Path) -> list[Path]:
    """Sequence and genes of `FUNGUS`, in coordinates of the region's own record."""
    (genome_path,) = fetch(["fungus_umaydis"], cache)
    genome, name = Genome(genome_path), record_name(FUNGUS)
    bases = genome.fetch(fungus_contig(genome, FUNGUS.contig), FUNGUS.start, FUNGUS.end)
    sequence = f">{name} Ustilago maydis 521 {FUNGUS}\n{folded(to_string(bases))}\n"
    genes = ["##gff-version 3\n"]
    for line in fungus_genes(cache).read_text().splitlines():
        cells = line.split("\t")
        if cells[0] == FUNGUS.contig and is_inside(cells, FUNGUS):
            moved = [str(int(position) - FUNGUS.start) for position in cells[3:5]]
            genes.append("\t".join([name, *cells[1:3], *moved, *cells[5:]]) + "\n")
    return [write_gzip(out / "umaydis.fa.gz", sequence), write_gzip(out / "umaydis.gff3.gz", "".join(genes))]


def fungus_contig(genome: Genome, chromosome: str) -> str:
    """The genome calls chr14 `Umaydis:chr14:1:+:611467`."""
    (found,) = [name for name in genome.contigs if name.split(":")[1] == chromosome]
    return found


def fungus_genes(cache: Path) -> Path:
    """The annotation of the fungus, checked."""
    path = cache / "fungus_umaydis.gff3"
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            unpack("maffilter-examples", Path(scratch))
            expand(Path(scratch) / FUNGUS_GENES, path, FUNGUS_GENES_SHA256)
    return path


def exon_table(cache: Path) -> Path:
    """The exon table of the mmsplice package, checked."""
    path = cache / Path(EXON_TABLE).name
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            subprocess.run([*pip, "--dest", scratch, MMSPLICE], check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                path.write_bytes(archive.read(EXON_TABLE))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != EXON_TABLE_SHA256:
        sys.exit(f"{path}: sha256 is {found}, expected {EXON_TABLE_SHA256}; delete it and try again")
    return path


def gtf_lines(table: Path) -> Iterator[str]:
    """Exons of chromosome 20. The table widens exons by overhangs into the introns, which are taken off again."""
    with gzip.open(table, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if row["Chromosome"].removeprefix("chr") != "20":
                continue
            first = int(row["Start"]) + int(row["left_overhang"])
            last = int(row["End"]) - int(row["right_overhang"])
            attributes = {name: row[name] for name in ("gene_id", "gene_name", "transcript_id", "exon_id")}
            text = " ".join(f'{name} "{value}";' for name, value in attributes.items())
            yield f"20\tGENCODE\texon\t{first}\t{last}\t.\t{row['Strand']}\t.\t{text}\n"


def gtf_inside(gtf: Path, region: Interval) -> Iterator[str]:
    """The exons of genes wholly inside the region, in coordinates of the region's own FASTA record."""
    lines = [line.split("\t") for line in gtf.read_text().splitlines()]
    outside = {gene_of(cells) for cells in lines if not is_inside(cells, region)}
    for cells in lines:
        if gene_of(cells) not in outside:
            moved = [str(int(position) - region.start) for position in cells[3:5]]
            yield "\t".join([record_name(region), *cells[1:3], *moved, *cells[5:]]) + "\n"


def gene_of(cells: list[str]) -> str:
    return cells[8].split('"')[1]


def is_inside(cells: list[str], region: Interval) -> bool:
    return region.start < int(cells[3]) and int(cells[4]) <= region.end


def record_name(region: Interval) -> str:
    """Chromosome 20 is called 20 in its genome."""
    return f"chr{region.contig.removeprefix('chr')}_{region.start + 1}_{region.end}"


def fasta(genome: Genome, region: Interval) -> str:
    """One record, named after the region (counted from 1, end included)."""
    return f">{record_name(region)} GRCh37 {region}\n{folded(to_string(genome[region]))}\n"


def folded(text: str) -> str:
    """In lines of `LINE_BP`."""
    return "\n".join(text[start : start + LINE_BP] for start in range(0, len(text), LINE_BP))


def write_gzip(path: Path, text: str) -> Path:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(text.encode("ascii"))
    return path


if __name__ == "__main__":
    main()
