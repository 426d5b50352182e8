"""Random access to FASTA: right bases in any layout, honest indexes, and errors that say what is wrong."""

import gzip
import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargaff.errors import InputError
from chargaff.io import fai
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.seq.interval import Interval, Strand
from tests.io.files import COMPRESSIONS, contigs, fasta, write

layouts = st.fixed_dictionaries(
    {"width": st.integers(1, 100), "eol": st.sampled_from([b"\n", b"\r\n"]), "last_eol": st.booleans()}
)
BIG = {"chr1": b"ACGTN" * 40_000, "chr2": b"GATTACA" * 3_000, "chrM": b"C"}


@settings(deadline=None)
@given(contigs, layouts, st.sampled_from(COMPRESSIONS), st.integers(1, 50), st.booleans())
def test_every_window_is_the_slice_of_its_contig(tmp_path_factory, truth, layout, compression, chunk, keep_case):
    path = write(tmp_path_factory.mktemp("genome") / "g.fa", fasta(truth, **layout), compression)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fai, "_CHUNK_BYTES", chunk)  # so that chunks end anywhere while the index is built
        genome = Genome(path, keep_case=keep_case)
    assert genome.contigs == tuple(truth)
    assert dict(genome.lengths) == {name: len(sequence) for name, sequence in truth.items()}
    for opened in (genome, Genome(path, keep_case=keep_case)):  # fresh index, then the one that was saved
        for length in (1, 3, 64):
            places = [(i, start) for i, s in enumerate(truth.values()) for start in range(len(s) - length + 1)]
            found = opened.windows([i for i, _ in places], [start for _, start in places], length)
            expected = [list(truth.values())[i][start : start + length] for i, start in places]
            assert [row.tobytes() for row in found] == [s if keep_case else s.upper() for s in expected]


@settings(deadline=None)
@given(contigs, layouts)
def test_indexes_are_the_ones_samtools_writes(tmp_path_factory, truth, layout):
    folder = tmp_path_factory.mktemp("index")
    ours, theirs = (write(folder / name, fasta(truth, **layout)) for name in ("ours.fa", "theirs.fa"))
    Genome(ours)
    pysam.faidx(str(theirs))
    assert (folder / "ours.fa.fai").read_text() == (folder / "theirs.fa.fai").read_text()


def test_bgzip_indexes_are_the_ones_htslib_writes(tmp_path):
    ours, theirs = (write(tmp_path / name, fasta(BIG), "bgzip") for name in ("ours.fa.gz", "theirs.fa.gz"))
    Genome(ours)
    pysam.faidx(str(theirs))
    for ending in (".fai", ".gzi"):
        assert (tmp_path / f"ours.fa.gz{ending}").read_bytes() == (tmp_path / f"theirs.fa.gz{ending}").read_bytes()
    assert to_string(Genome(theirs).fetch("chr2", 13_990, 14_011)) == BIG["chr2"][13_990:14_011].decode()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_whole_contigs_and_long_windows(tmp_path, compression):
    genome = Genome(write(tmp_path / "g.fa", fasta(BIG), compression))
    assert genome.fetch("chr1").tobytes() == BIG["chr1"]
    assert genome.fetch("chr1", 70_001, 190_002).tobytes() == BIG["chr1"][70_001:190_002]
    assert genome.fetch("chrM", 0, 0).size == 0
    assert genome.windows([], [], 7).shape == (0, 7)
    assert "chr2" in genome
    assert "chr3" not in genome


def test_lines_of_unequal_length_are_held_in_memory(tmp_path):
    path = write(tmp_path / "g.fa", b">a\nACG\nTT\nACGT\n\n>b\nC\n\nG\n")
    genome = Genome(path)
    assert to_string(genome.fetch("a")) == "ACGTTACGT"
    assert to_string(genome.fetch("b")) == "CG"
    assert not (tmp_path / "g.fa.fai").exists()
    assert to_string(pickle.loads(pickle.dumps(genome)).fetch("a")) == "ACGTTACGT"


def test_files_that_cannot_be_indexed_are_bounded_in_memory(tmp_path):
    zipped = write(tmp_path / "g.fa.gz", fasta(BIG), "gzip")
    with pytest.raises(InputError, match=r"g\.fa\.gz: holds more than .* GiB .*\(plain gzip\); gunzip it, or .*bgzip"):
        Genome(zipped, memory_limit_bytes=200_000)
    ragged = write(tmp_path / "r.fa", b">a\nA\nAC\nA\n")
    with pytest.raises(InputError, match=r"r\.fa:3: the lines of record 'a' differ .* wrap its lines evenly"):
        Genome(ragged, memory_limit_bytes=3)
    assert Genome(ragged, memory_limit_bytes=4).lengths["a"] == 4


def test_reverse_strand_intervals_read_as_reverse_complement(tmp_path):
    genome = Genome(write(tmp_path / "g.fa", b">a\nAACGT\n"))
    assert to_string(genome[Interval("a", 0, 3)]) == "AAC"
    assert to_string(genome[Interval("a", 0, 3, Strand.FORWARD)]) == "AAC"
    assert to_string(genome[Interval("a", 0, 3, Strand.REVERSE)]) == "GTT"
    assert np.array_equal(genome[Interval("a", 0, 3, Strand.REVERSE)], reverse_complement(to_array("AAC")))


def test_windows_are_writable(tmp_path):
    window = Genome(write(tmp_path / "g.fa", b">a\nACGT\n")).windows([0], [1], 2)
    window[:] = 0
    assert window.flags.c_contiguous


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.fetch("chr1", 5, 12), r"end 12 is past the end of chr1 \(10 bp\)"),
        (lambda g: g[Interval("chr1", -2, 3)], "start -2 of a window on chr1 is before"),
        (lambda g: g.fetch("chr1", 5, 3), "end 3 is before start 5"),
        (lambda g: g.fetch("1"), "no contig '1'; it is called 'chr1' there"),
        (lambda g: g.fetch("CHR1"), "it is called 'chr1'"),
        (lambda g: g.fetch("MT"), "it is called 'chrM'"),
        (lambda g: g.fetch("NC_000001"), r"it is called 'NC_000001\.11'"),
        (
            lambda g: g.fetch("scafold_7"),
            r"did you mean 'scaffold_7'\? \(it has 4: chr1, chrM, NC_000001\.11, scaffold_7\)",
        ),
        (lambda g: g.windows([0, 0], [0], 5), "expected two lists of one length"),
        (lambda g: g.windows([4], [0], 5), "contig ids must be 0 to 3, got 4 to 4"),
        (lambda g: g.windows([0, 1, 1], [0, 3, 9], 5), r"end 14 is past the end of chrM \(10 bp\)"),
    ],
)
def test_places_outside_the_genome_are_explained(tmp_path, call, words):
    names = ("chr1", "chrM", "NC_000001.11", "scaffold_7")
    genome = Genome(write(tmp_path / "g.fa", fasta(dict.fromkeys(names, b"ACGTACGTAC"))))
    with pytest.raises(InputError, match=words):
        call(genome)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\r\n\n", "holds only blank lines"),
        (b"ACGT\n", r"g\.fa:1: expected a FASTA header"),
        (b"\n\nACGT\n>a\nA\n", r"g\.fa:3: expected a FASTA header"),
        (b"@a\nACGT\n+\nIIII\n", "expected FASTA, found FASTQ"),
        (b"PK\x03\x04", "expected FASTA, found a zip archive"),
        (b">a\n>b\nA\n", r"g\.fa:1: record 'a' has no sequence"),
        (b">a\nA\n>b", r"g\.fa:3: record 'b' has no sequence"),
        (b">a\nA\n>a x\nC\n", r"g\.fa:3: record name 'a' was already used at line 1"),
        (b">\nA\n", r"g\.fa:1: the header has no name"),
        (gzip.compress(b"@a\nA\n+\nI\n"), "expected FASTA, found FASTQ"),
        (gzip.compress(b""), "the file is empty"),
        (gzip.compress(b">a\nACGT\n")[:-9], "the gzip data ends early"),
    ],
)
def test_files_that_are_no_fasta_are_named(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        Genome(write(tmp_path / "g.fa", content))


def test_paths_that_are_no_files_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "no.fa", "no such file"), (tmp_path, "regular file"), ("-", "regular file")):
        with pytest.raises(InputError, match=words):
            Genome(path)
    with pytest.raises(InputError, match="needs a regular file"):
        Genome(tmp_path / "pipe")


def test_letters_that_are_no_sequence_are_found_when_they_are_read(tmp_path):
    genome = Genome(write(tmp_path / "g.fa", b">a\nACGTAC1TAC\nACG\n"))
    assert to_string(genome.fetch("a", 0, 6)) == "ACGTAC"
    with pytest.raises(InputError, match=r"a, bases 4 to 12 \(from 0\): 7 sequence letters where the index promises 8"):
        genome.fetch("a", 4, 12)


def test_an_index_older_than_its_file_is_rebuilt(tmp_path):
    path = write(tmp_path / "g.fa", b">a\nACGT\n")
    Genome(path)
    write(path, b">x\nAC\n>y\nGGGG\n")
    os.utime(tmp_path / "g.fa.fai", (0, 0))
    assert dict(Genome(path).lengths) == {"x": 2, "y": 4}


@pytest.mark.parametrize(
    "index",
    [
        "",
        "garbage",
        "a\t4\t3\t4\n",
        "a\tx\t3\t4\t5\n",
        "b\t4\t3\t4\t5\n",  # another name
        "a\t3\t3\t4\t5\n",  # too short
        "a\t40\t3\t4\t5\n",  # too long
        "a\t4\t4\t4\t5\n",  # shifted
        "a\t4\t3\t4\t5\na\t4\t3\t4\t5\n",
        "a\t4\t3\t0\t5\n",
        "a\t-4\t3\t4\t5\n",
        "z\t2\t3\t4\t5\na\t4\t8\t4\t5\n",
    ],
)
def test_an_index_that_does_not_fit_is_replaced(tmp_path, index):
    path = write(tmp_path / "g.fa", b">a\nACGT\n")
    (tmp_path / "g.fa.fai").write_text(index)
    assert to_string(Genome(path).fetch("a")) == "ACGT"
    assert (tmp_path / "g.fa.fai").read_text() == "a\t4\t3\t4\t5\n"


@pytest.mark.parametrize("damage", [b"", b"\x05", b"\x01" + b"\0" * 7 + b"\xff" * 16])
def test_a_gzi_that_does_not_fit_is_not_used(tmp_path, damage):
    path = write(tmp_path / "g.fa.gz", fasta(BIG), "bgzip")
    (tmp_path / "g.fa.gz.gzi").write_bytes(damage)
    assert Genome(path).fetch("chr1").tobytes() == BIG["chr1"]


def test_the_index_goes_to_the_user_cache_where_the_folder_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(tmp_path / "g.fa", b">a\nACGT\n")
    (tmp_path / "g.fa.fai").mkdir()  # nothing can be written there, whoever runs the tests
    assert to_string(Genome(path).fetch("a", 1, 3)) == "CG"
    (cached,) = (tmp_path / "cache/chargaff/fai").iterdir()
    assert cached.read_text() == "a\t4\t3\t4\t5\n"
    cached.write_text("b\t4\t3\t4\t5\n")
    assert Genome(path).contigs == ("a",)
    write(path, b">b\nACGTT\n")
    assert dict(Genome(path).lengths) == {"b": 5}


def test_a_genome_opens_where_no_index_can_be_saved(tmp_path, monkeypatch):
    path = write(tmp_path / "g.fa", b">a\nACGT\n")
    (tmp_path / "g.fa.fai").mkdir()
    (tmp_path / "file").write_text("")
    for cache in (str(tmp_path / "file"), "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert to_string(Genome(path).fetch("a")) == "ACGT"


def test_a_file_dated_in_the_future_is_indexed_once(tmp_path):
    path = write(tmp_path / "g.fa", b">a\nACGT\n")
    os.utime(path, (4e9, 4e9))
    Genome(path)
    written = (tmp_path / "g.fa.fai").stat().st_ino
    assert Genome(path).contigs == ("a",)
    assert (tmp_path / "g.fa.fai").stat().st_ino == written


def test_a_file_cut_while_it_is_open_gives_an_error_not_other_bases(tmp_path):
    path = write(tmp_path / "g.fa", fasta({"a": b"ACGT" * 100}))
    genome = Genome(path)
    os.truncate(path, 200)
    with pytest.raises(InputError, match="changed while it was in use"):
        genome.fetch("a", 0, 100)
    with pytest.raises(InputError, match="changed while it was in use"):
        pickle.loads(pickle.dumps(genome))


def test_a_file_written_in_place_while_it_is_open_gives_an_error_not_other_bases(tmp_path):
    path = write(tmp_path / "g.fa", b">a\nAAAA\nAAAA\n>b\nCCCC\n")
    genome = Genome(path)
    write(path, b">b\nCCCC\n>a\nAAAA\nAAAA\n")
    os.utime(path, (9, 9))
    with pytest.raises(InputError, match="changed while it was in use"):
        genome.fetch("a")


def test_a_file_replaced_while_it_is_open_goes_on_giving_its_old_bases(tmp_path):
    path = write(tmp_path / "g.fa", b">a\nAAAA\n")
    genome = Genome(path)
    os.replace(write(tmp_path / "new.fa", b">a\nCCCCCC\n"), path)
    assert to_string(genome.fetch("a")) == "AAAA"
    with pytest.raises(InputError, match="changed while it was in use"):
        pickle.loads(pickle.dumps(genome))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_pickled_genome_reads_the_same(tmp_path, compression):
    genome = Genome(write(tmp_path / "g.fa", fasta(BIG), compression), keep_case=True)
    genome.fetch("chr1", 0, 10)
    copy = pickle.loads(pickle.dumps(genome))
    assert copy.fetch("chr1", 5_000, 7_000).tobytes() == BIG["chr1"][5_000:7_000]
    assert (copy.contigs, copy.keep_case, copy.path) == (genome.contigs, True, genome.path)
    assert len(pickle.dumps(genome)) < 2_000  # no sequence travels


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_threads_may_share_a_genome(tmp_path, compression):
    genome = Genome(write(tmp_path / "g.fa", fasta(BIG), compression))

    def count_wrong(seed: int) -> int:
        starts = np.random.default_rng(seed).integers(0, len(BIG["chr1"]) - 100, 300).tolist()
        found = (genome.fetch("chr1", start, start + 100).tobytes() for start in starts)
        return sum(seq != BIG["chr1"][start : start + 100] for seq, start in zip(found, starts, strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(count_wrong, range(8))) == 0


def test_checksum_is_the_files(tmp_path):
    path = write(tmp_path / "g.fa.gz", fasta(BIG), "bgzip")
    assert Genome(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_repr_says_what_it_is(tmp_path):
    genome = Genome(write(tmp_path / "g.fa", fasta(BIG)))
    assert repr(genome) == f"Genome('{tmp_path}/g.fa', 3 contigs, 221,001 bp)"
