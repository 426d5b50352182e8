"""Real genomes by Debian package name, each checked against a recorded checksum.

    python examples/fetch_genomes.py --list
    python examples/fetch_genomes.py human_chr20 fly_chr2R -o genomes

Packages are only downloaded and unpacked (`apt-get download`, `dpkg-deb -x`), not installed: no root, no dependencies.
Each genome becomes one plain FASTA file. Needs Debian 12 or a system whose packages hold the same files.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Genome:
    """Where a genome lies."""

    package: str
    member: str
    """Path in the package; .gz and .xz are decompressed."""
    sha256: str
    """Of the decompressed file."""
    content: str


_AUGUSTUS = "usr/share/doc/augustus/tutorial/data"
_RAGOUT = "usr/share/doc/ragout/examples"
_SMALT = "usr/share/doc/smalt/test/data"
_TRANSIT = "usr/lib/python3/dist-packages/pytransit/genomes"

GENOMES = {
    "human_chr20": Genome(
        "vt-examples",
        "usr/share/doc/vt/examples/ref/20.fa.gz",
        "dfdef7ba5bc75e03b78c921d764f5a1b3f698e11b30c8d5d2d0cee4f0dfcfc74",
        "Homo sapiens GRCh37 chromosome 20, 63,025,520 bp",
    ),
    "human_chrX": Genome(
        "smalt-examples",
        f"{_SMALT}/hs37chrXtrunc.fa.gz",
        "f9ce73a8cbd6bd8622e845f003076e95914c0144558ddb8119016be0e8d9c3fd",
        "Homo sapiens GRCh37 X:1-69,999,930",
    ),
    "human_chr3": Genome(
        "augustus-doc",
        f"{_AUGUSTUS}/chr3.42M.fa",
        "cc1383731b272c9587eac66c9dc19439fbddadee0414bafa3b996cda44c27029",
        "Homo sapiens hg19, 2 Mb of chromosome 3",
    ),
    "human_chr4": Genome(
        "augustus-doc",
        f"{_AUGUSTUS}/chr4.103M.fa",
        "4d4431643be7625dd1ba070991806835d2fb7c94dd0894897a5eb95e7a566229",
        "Homo sapiens hg19, 2 Mb of chromosome 4",
    ),
    "human_chr5": Genome(
        "augustus-doc",
        f"{_AUGUSTUS}/chr5.124M.fa",
        "248fe24571c969cb83303384205e7de28c1f7fd842431a305b1da9e2f9530e4a",
        "Homo sapiens hg19, 2 Mb of chromosome 5",
    ),
    "fly_chr2R": Genome(
        "augustus-doc",
        f"{_AUGUSTUS}/chr2R.fa",
        "dcf0f58d162c93f8f629d2f55374e916015987092f0fefdd0bbeb03c3e854547",
        "Drosophila melanogaster dm3 chr2R",
    ),
    "worm_chrX": Genome(
        "r-bioc-bsgenome",
        "usr/lib/R/site-library/BSgenome/extdata/ce2chrX.fa.gz",
        "a7131ff64a6bb46c7d9061bc6c7ce51099fc879f995e979af7d0ec5482a726ec",
        "Caenorhabditis elegans ce2 chrX",
    ),
    "fungus_umaydis": Genome(
        "maffilter-examples",
        "usr/share/doc/maffilter/examples/Umaydis/Umaydis.fasta.gz",
        "3ae8ed04084fd42cfe56e78f74d947e44681f4b2c66ab8ec4e34402e65f87b1e",
        "Ustilago maydis, 23 chromosomes",
    ),
    "dictyostelium": Genome(
        "spaln-data",
        "usr/share/spaln/seqdb/dictdisc_g.gf.gz",
        "bb57e97a6135ea654f059d5320f2b35091f6afa8d2e103f469871e7a9e39bc47",
        "Dictyostelium discoideum AX4, 6 chromosomes",
    ),
    "plasmodium_falciparum": Genome(
        "smalt-examples",
        f"{_SMALT}/genome_1.fa.gz",
        "c5f5dc61ac7a38702a1fce516792320269796386ce23f25b3fd42171e8cdfd6c",
        "Plasmodium falciparum",
    ),
    "plasmodium_knowlesi": Genome(
        "smalt-examples",
        f"{_SMALT}/cigar_ref.fa.gz",
        "9e1314ad1dbe20320dbe72eddae233df3299b22627c90695f0939c57cccbb73f",
        "Plasmodium knowlesi contigs",
    ),
    "escherichia_coli": Genome(
        "ragout-examples",
        f"{_RAGOUT}/E.Coli/references/MG1655-K12.fasta.gz",
        "3d70cf9dee928a6bf8f4763a3db0e0f8bf0ae32d25123a73f7a5bf2fe4d16828",
        "Escherichia coli K-12 MG1655",
    ),
    "helicobacter_pylori": Genome(
        "ragout-examples",
        f"{_RAGOUT}/H.Pylori/references/Puno120.fasta.gz",
        "93ea844e049f4e69c662dc070dfd3ab6c69b4126de444b98a9a10b21ab52621b",
        "Helicobacter pylori Puno120",
    ),
    "staphylococcus_aureus": Genome(
        "ragout-examples",
        f"{_RAGOUT}/S.Aureus/references/COL.fasta.gz",
        "bb144a111c1ed02f181b17378a3d98d47085b9a09bc12efaee1807fe0e4f8ca3",
        "Staphylococcus aureus COL",
    ),
    "vibrio_cholerae": Genome(
        "ragout-examples",
        f"{_RAGOUT}/V.Cholerae/references/O1_biovar.fasta.gz",
        "1a061df1c136dc4a18d5cc8f6e6d7515476791e6cc5b7567e746704b4cafeb5f",
        "Vibrio cholerae N16961",
    ),
    "klebsiella_pneumoniae": Genome(
        "kleborate-examples",
        "usr/share/doc/kleborate/examples/data/Klebs_HS11286.fna.xz",
        "39b31aaafe72bfdb74ef55addddafa9d6db690458164b2caf9746a4f16d31bb1",
        "Klebsiella pneumoniae HS11286 with plasmids",
    ),
    "mycobacterium_tuberculosis": Genome(
        "tnseq-transit",
        f"{_TRANSIT}/H37Rv.fna",
        "cdaf67874c900baf860de9ded6206b1c27712505d539a2bbff4f2eedecbcd03f",
        "M. tuberculosis H37Rv",
    ),
    "mycobacterium_smegmatis": Genome(
        "tnseq-transit",
        f"{_TRANSIT}/mc2_155_tamu.fna",
        "68e9b284bf993dfa015f605e22962c1ef3fc2b06ef2a53015205851688c6b9f5",
        "M. smegmatis mc2 155",
    ),
    "streptococcus_suis": Genome(
        "abacas-examples",
        "usr/share/doc/abacas-examples/SS_SC84.dna.gz",
        "0aea059aa5743b43b0594fec6730e2618e7185e8589a0985e830b65584d35c09",
        "Streptococcus suis SC84",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="genomes to fetch; all of them by default")
    parser.add_argument("-o", "--output", type=Path, default=Path("genomes"), help="folder (default: genomes)")
    parser.add_argument("--list", action="store_true", help="name the genomes and stop")
    options = parser.parse_args()
    if options.list:
        for name, genome in GENOMES.items():
            print(f"{name:28}{genome.package:20}{genome.content}")
        return
    unknown = sorted(set(options.names) - set(GENOMES))
    if unknown:
        parser.error(f"unknown genome {unknown[0]!r}; known are {', '.join(GENOMES)}")
    for path in fetch(options.names or list(GENOMES), options.output):
        print(path)


def fetch(names: list[str], folder: Path) -> list[Path]:
    """Plain FASTA files `folder/NAME.fa`, in the order of `names`; those already there and intact are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.fa" for name in names}
    missing: dict[str, list[str]] = defaultdict(list)
    for name, path in paths.items():
        if not path.exists() or sha256(path) != GENOMES[name].sha256:
            missing[GENOMES[name].package].append(name)
    for package, wanted in missing.items():
        with tempfile.TemporaryDirectory() as scratch:
            unpack(package, Path(scratch))
            for name in wanted:
                expand(Path(scratch) / GENOMES[name].member, paths[name], GENOMES[name].sha256)
    return list(paths.values())


def unpack(package: str, folder: Path) -> None:
    """Downloads a Debian package and unpacks it below `folder`."""
    print(f"downloading the Debian package {package}", file=sys.stderr)
    run = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"apt-get download {package}: {run.stderr.strip()}")
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    archive.unlink()


def expand(source: Path, destination: Path, expected_sha256: str) -> None:
    """The decompressed source at `destination`; nothing is left there if the checksum is another one."""
    if not source.exists():
        sys.exit(f"{source.name}: not in this version of the package; it was there in Debian 12")
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    opener = openers.get(source.suffix, open)
    part = destination.with_suffix(".part")
    with opener(source, "rb") as compressed, part.open("wb") as plain:
        shutil.copyfileobj(compressed, plain, CHUNK_BYTES)
    found = sha256(part)
    if found != expected_sha256:
        part.unlink()
        sys.exit(f"{destination.name}: sha256 is {found}, expected {expected_sha256}: another version of the package?")
    part.replace(destination)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
