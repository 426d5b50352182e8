"""bigWig files: another reader finds every value, however the pieces lie; what cannot be stored is refused."""

import gc
import resource
import signal
import subprocess
import sys
import weakref

import numpy as np
import pybigtools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargaff.errors import InputError
from chargaff.io.bigwig import BATCH_BP, bigwig_bytes, write_bigwig


def stored(path, contig):
    return pybigtools.open(str(path)).values(contig, fillna=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bigwig")


def some_values(rng, kind, length):
    """Noise, plateaus, or either with holes."""
    values = rng.random(length)
    if "flat" in kind:
        values = np.repeat(rng.random(length // 7 + 1), 7)[:length]
    if "holes" in kind:
        values[rng.random(length) < 0.2] = np.nan
    return values


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.sampled_from([1, 2, 63, 100, 1025, 5000]), min_size=1, max_size=6),
    kind=st.sampled_from(["noise", "flat", "noise, holes", "flat, holes"]),
    decimals=st.integers(1, 4),
)
def test_another_reader_finds_every_value(folder, seed, lengths, kind, decimals):
    rng = np.random.default_rng(seed)
    contigs = {f"{'zyxwvu'[number]}{number}": length for number, length in enumerate(lengths)}  # not in order of names
    expected = {name: some_values(rng, kind, length) for name, length in contigs.items()}
    pieces = []
    for name, values in expected.items():
        cuts = np.unique(rng.integers(0, len(values), rng.integers(1, 5)))
        values[: cuts[0]] = np.nan  # no piece there
        pieces += [(name, int(a), values[a:b]) for a, b in zip(cuts, [*cuts[1:], len(values)], strict=True)]
    write_bigwig(folder / "a.bw", contigs, pieces, decimals=decimals, overwrite=True)
    assert set(pybigtools.open(str(folder / "a.bw")).chroms()) == set(contigs)
    for name, values in expected.items():
        np.testing.assert_array_equal(stored(folder / "a.bw", name), np.round(values, decimals).astype(np.float32))


@pytest.mark.parametrize("kind", ["noise", "flat", "noise, holes", "flat, holes"])
def test_long_pieces_and_coarser_views(folder, kind):
    length = 3 * BATCH_BP + 1001
    values = some_values(np.random.default_rng(1), kind, length)
    cut = 100_003
    write_bigwig(folder / "b.bw", {"a": length}, [("a", 0, values[:cut]), ("a", cut, values[cut:])], overwrite=True)
    np.testing.assert_array_equal(stored(folder / "b.bw", "a"), np.round(values, 3).astype(np.float32))
    reader = pybigtools.open(str(folder / "b.bw"))
    assert reader.zooms() == [64, 256, 1024, 4096]
    for width in reader.zooms():
        for start, end, found in reader.zoom_records(width, "a"):
            part = np.round(values[start:end], 3)
            assert start // width == (end - 1) // width
            assert found["bases_covered"] == np.count_nonzero(~np.isnan(part))
            wanted = [np.nanmin(part), np.nanmax(part), np.nansum(part), np.nansum(part**2)]
            names = ("min_val", "max_val", "sum", "sum_squares")
            np.testing.assert_allclose([found[name] for name in names], wanted, rtol=1e-6)  # stored as float32
        assert sum(row[2]["bases_covered"] for row in reader.zoom_records(width, "a")) == (~np.isnan(values)).sum()
    summary = reader.info()["summary"]
    assert summary["basesCovered"] == (~np.isnan(values)).sum()
    assert summary["sum"] == pytest.approx(np.nansum(np.round(values, 3)))


def test_equal_neighbours_are_one_run(folder):
    values = np.zeros(3000)
    values[1000:1500] = np.nan
    write_bigwig(folder / "c.bw", {"a": 4000}, [("a", 7, values)], overwrite=True)
    assert list(pybigtools.open(str(folder / "c.bw")).records("a")) == [(7, 1007, 0.0), (1507, 3007, 0.0)]


@pytest.mark.parametrize("count", [256, 257, 70_000])
def test_as_many_contigs_as_there_are(folder, count):
    contigs = {f"contig{number}": 20 + number % 3 for number in range(count)}  # by number, not by name
    pieces = ((name, 1, np.full(4, number % 1000)) for number, name in enumerate(contigs))
    write_bigwig(folder / "d.bw", contigs, pieces, overwrite=True)
    reader = pybigtools.open(str(folder / "d.bw"))
    assert reader.chroms() == contigs
    for number in (0, 1, 99, 255, count // 2, count - 1):
        assert list(reader.records(f"contig{number}")) == [(1, 5, float(number % 1000))]


def test_nothing_to_store_is_a_file_too(folder):
    for pieces in ([], [("a", 0, np.full(5, np.nan))], [("a", 3, np.zeros(0))]):
        write_bigwig(folder / "e.bw", {"a": 10}, pieces, overwrite=True)
        assert np.isnan(stored(folder / "e.bw", "a")).all()


def test_bytes_name_only_the_contigs_they_are_about(folder):
    content = bigwig_bytes({"a": 10, "b": 20, "c": 5}, [("b", 0, np.ones(3))])
    (folder / "f.bw").write_bytes(content)
    assert pybigtools.open(str(folder / "f.bw")).chroms() == {"b": 20}


def test_pieces_are_let_go(folder):
    seen = []

    def pieces():
        for number in range(20):
            gc.collect()
            assert sum(ref() is not None for ref in seen) <= 3
            values = np.zeros(BATCH_BP)
            seen.append(weakref.ref(values))
            yield "a", number * BATCH_BP, values

    write_bigwig(folder / "g.bw", {"a": 20 * BATCH_BP}, pieces(), overwrite=True)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([("a", 3, np.ones(6)), ("a", 8, np.ones(1))], "one value a base"),
        ([("a", 18, np.ones(5))], "23 bp, but the contig has 20 bp"),
        ([("b", 0, np.ones(5)), ("a", 0, np.ones(5))], "sort the pieces"),
    ],
)
def test_what_has_no_place_is_refused(tmp_path, pieces, message):
    with pytest.raises(InputError, match=message):
        write_bigwig(tmp_path / "x.bw", {"a": 20, "b": 20}, pieces)
    assert list(tmp_path.iterdir()) == []


def test_contigs_beyond_the_format_are_refused(tmp_path):
    with pytest.raises(InputError, match="4,294,967,295"):
        write_bigwig(tmp_path / "x.bw", {"a": 1 << 32}, [])


def test_an_error_while_values_are_made_reaches_the_caller(tmp_path):
    def pieces():
        yield "a", 0, np.ones(5)
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        write_bigwig(tmp_path / "x.bw", {"a": 20}, pieces())
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import numpy as np, sys
from chargaff.errors import InputError
from chargaff.io.bigwig import write_bigwig
try:
    write_bigwig(sys.argv[1], {"a": 10**6}, [("a", 0, np.random.default_rng(0).random(10**6))])
except InputError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    words = [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.bw")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, preexec_fn=limit)
    assert "cannot be written" in done.stdout
    assert list(tmp_path.iterdir()) == []
