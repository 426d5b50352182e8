"""Truncated and corrupted files end in an error that names the file: never in another exception, never shortened."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chargaff.errors import ChargaffError
from chargaff.io.fasta import Genome
from chargaff.io.records import read_records
from chargaff.io.regions import read_bed, read_gff, read_interval_table
from chargaff.io.tables import read_table
from tests.io.files import fasta, write

RNG = random.Random(7)
DNA = {f"contig{i}": bytes(RNG.choices(b"ACGTNacgt", k=700 + 61 * i)) for i in range(5)}
FASTQ = b"".join(b"@%s x\n%s\n+\n%s\n" % (n.encode(), s, b"I" * len(s)) for n, s in DNA.items())
BED = b"".join(b"chr%d\t%d\t%d\tname%d\t0\t+\n" % (i, 10 * i, 10 * i + 7, i) for i in range(60))
GFF = b"".join(b"chr1\tx\texon\t%d\t%d\t.\t+\t.\tID=e%d\n" % (i + 1, i + 9, i) for i in range(60))
CSV = b"contig,start,end\n" + b"".join(b"c%d,%d,%d\n" % (i, i, i + 5) for i in range(60))
JSONL = b"".join(b'{"seq": "%s", "label": %d}\n' % (s, i) for i, s in enumerate(DNA.values()))


def parquet(folder: Path) -> bytes:
    table = pa.table({"seq": [s.decode() for s in DNA.values()] * 20, "label": list(range(100))})
    pq.write_table(table, folder / "x", row_group_size=30)
    return (folder / "x").read_bytes()


def bgzip(folder: Path) -> bytes:
    return write(folder / "x", fasta({n: s * 100 for n, s in DNA.items()}), "bgzip").read_bytes()


def read_genome(path: Path) -> list[bytes]:
    genome = Genome(path)
    return [genome.fetch(contig).tobytes() for contig in genome.contigs]


def read_all(path: Path) -> list[bytes]:
    return [record.sequence.tobytes() for record in read_records(path)]


READERS = {
    "fasta": ("x.fa", lambda folder: fasta(DNA), read_all),
    "fasta.gz": ("x.fa.gz", lambda folder: gzip.compress(fasta(DNA)), read_all),
    "fasta.bgz": ("x.fa.gz", bgzip, read_all),
    "fastq": ("x.fq", lambda folder: FASTQ, read_all),
    "genome": ("x.fa", lambda folder: fasta(DNA), read_genome),
    "genome.gz": ("x.fa.gz", lambda folder: gzip.compress(fasta(DNA)), read_genome),
    "genome.bgz": ("x.fa.gz", bgzip, read_genome),
    "bed": ("x.bed", lambda folder: BED, lambda path: list(read_bed(path))),
    "gff": ("x.gff", lambda folder: GFF, lambda path: list(read_gff(path))),
    "csv": ("x.csv", lambda folder: CSV, lambda path: list(read_interval_table(path))),
    "csv.gz": ("x.csv.gz", lambda folder: gzip.compress(CSV), lambda path: list(read_interval_table(path))),
    "jsonl": ("x.jsonl", lambda folder: JSONL, lambda path: read_table(path).to_pylist()),
    "parquet": ("x.parquet", parquet, lambda path: read_table(path).to_pylist()),
}
# formats that notice any cut; a text file cut between two lines is a shorter text file
NOTICES_CUTS = ("fasta.gz", "fasta.bgz", "genome.gz", "genome.bgz", "csv.gz", "parquet")
CHECKSUMMED = ("fasta.gz", "fasta.bgz", "genome.gz", "genome.bgz", "csv.gz")


def outcome(read: Callable[[Path], list], path: Path) -> tuple[list | None, str]:
    """(what was read, "") or (None, message); any other exception than ours fails the test."""
    try:
        return read(path), ""
    except ChargaffError as error:
        return None, str(error)


def assert_names_the_file(message: str, path: Path) -> None:
    assert str(path) in message
    assert "\n" not in message


def damages(kind: str, content: bytes, count: int) -> list[bytes]:
    rng = random.Random(kind)
    damaged = []
    for _ in range(count):
        at = rng.randrange(len(content))
        flipped = bytes([content[at] ^ (1 << rng.randrange(8))])
        garbage = rng.randbytes(rng.randrange(1, 30))
        damaged += [
            content[:at] + flipped + content[at + 1 :],
            content[:at] + garbage + content[at + len(garbage) :],
            content[:at] + garbage + content[at:],
            content[:at] + content[at + rng.randrange(1, 40) :],
            rng.randbytes(at % 300 + 1),
        ]
    return damaged


@pytest.mark.parametrize("kind", READERS)
def test_a_cut_file_is_an_error_or_loses_only_whole_lines(tmp_path, kind):
    name, make, read = READERS[kind]
    content = make(tmp_path)
    whole = read(write(tmp_path / name, content))
    cuts = {0, 1, 2, len(content) - 1, *(random.Random(kind).randrange(len(content)) for _ in range(60))}
    for cut in sorted(cuts):
        for index in tmp_path.glob("*.[fg][az]i"):
            index.unlink()
        path = write(tmp_path / name, content[:cut])
        found, message = outcome(read, path)
        if found is None:
            assert_names_the_file(message, path)
        else:
            assert kind not in NOTICES_CUTS, f"cut at {cut} of {len(content)} was not noticed"
            assert found[:-1] == whole[: len(found) - 1]


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_gives_an_error_or_its_own_content(tmp_path, kind):
    name, make, read = READERS[kind]
    content = make(tmp_path)
    whole = read(write(tmp_path / name, content))
    for damaged in damages(kind, content, 40):
        for index in tmp_path.glob("*.[fg][az]i"):
            index.unlink()
        path = write(tmp_path / name, damaged)
        found, message = outcome(read, path)
        if found is None:
            assert_names_the_file(message, path)
        else:
            assert kind not in CHECKSUMMED or found == whole


@pytest.mark.parametrize("kind", ["genome", "genome.bgz"])
def test_a_damaged_file_under_an_old_index_gives_an_error_or_sequence_letters(tmp_path, kind):
    """The worst case: the file changed, and its time and index do not show it."""
    name, make, read = READERS[kind]
    content = make(tmp_path)
    whole = read(write(tmp_path / name, content))
    indexes = {index: index.read_bytes() for index in tmp_path.glob("*.[fg][az]i")}
    assert indexes
    for damaged in damages(kind, content, 40):
        path = write(tmp_path / name, damaged)
        for index, old in indexes.items():
            index.write_bytes(old)
        found, message = outcome(read, path)
        if found is None:
            assert_names_the_file(message, path)
        else:
            assert kind != "genome.bgz" or found == whole
            assert not b"".join(found).translate(None, b"ACGTNRYSWKMBDHVUEFILOPQXZJ*-.")
