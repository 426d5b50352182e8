"""Windows over a genome: the published rule, edges, N, exclusions, and the same bases in any process."""

import json
import multiprocessing
import os
import pickle
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargaff.data.sources import GenomeWindows, tile_contigs
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.seq.interval import Interval

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "goldens/data/caduceus/training_cases.json").read_text(encoding="utf-8")
)["hg38_intervals"]


def write_genome(folder: Path, contigs: dict[str, str], width: int = 60) -> Path:
    path = folder / "genome.fa"
    lines = []
    for name, bases in contigs.items():
        lines += [f">{name}", *(bases[i : i + width] for i in range(0, len(bases), width))]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path


def random_bases(rng: np.random.Generator, length: int, letters: str = "ACGT") -> str:
    return "".join(rng.choice(list(letters), length))


@pytest.fixture(scope="module")
def golden_genome(tmp_path_factory):
    return Genome(write_genome(tmp_path_factory.mktemp("golden"), GOLDEN["fasta"]))


@pytest.mark.parametrize("item", GOLDEN["items"], ids=lambda item: f"{item['split']}-{item['max_length']}")
def test_windows_are_those_of_the_published_training_set(golden_genome, item):
    rows = [Interval(contig, start, end) for contig, start, end, split in GOLDEN["bed"] if split == item["split"]]
    source = GenomeWindows.over_regions(
        golden_genome, rows, window_bp=item["max_length"], parent_bp=GOLDEN["parent_length"]
    )
    assert len(source) == item["len"]
    # token ids as one hex digit each; N becomes the pad id 4 in this training set
    ids = {ord(base): digit for base, digit in zip("ACGTN", "789a4", strict=True)}
    for example in item["examples"]:
        found = source[example["idx"]]
        assert "".join(ids[base] for base in found.views[0]) == example["data"]
        assert np.array_equal(golden_genome[found.interval], found.views[0])


def naive_place(start: int, shift: int, window: int, length: int) -> int:
    begin, end = start + shift * window, start + (shift + 1) * window
    if end > length:
        begin, end = length - window, length
    if begin < 0:
        begin, end = 0, window
    return begin


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 89)), min_size=1, max_size=5),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 90), st.integers(0, 9)), max_size=4),
)
def test_window_arithmetic_is_that_of_a_plain_loop(lengths, regions, window, excluded):
    contigs = {f"c{i}": random_bases(np.random.default_rng(i), length, "ACGTN") for i, length in enumerate(lengths)}
    rows = [(f"c{i % len(lengths)}", start % lengths[i % len(lengths)]) for i, start in regions]
    exclude = [Interval(f"c{i}", start, start + width) for i, start, width in excluded]
    banned = {(place.contig, base) for place in exclude for base in range(place.start, place.end)}
    expected = []
    for contig, start in rows:
        length = len(contigs[contig])
        for shift in range(32 // window):
            begin = naive_place(start, shift, window, length)
            end = min(begin + window, length)
            if not any((contig, base) in banned for base in range(begin, end)):
                expected.append((contig, begin, end, contigs[contig][begin:end].rjust(window, "N")))
    with tempfile.TemporaryDirectory() as folder:
        genome = Genome(write_genome(Path(folder), contigs, width=7))
        intervals = [Interval(contig, start, start + 1) for contig, start in rows]
        if not expected:
            with pytest.raises(ConfigError, match="no window of"):
                GenomeWindows.over_regions(genome, intervals, window_bp=window, parent_bp=32, exclude=exclude)
            return
        source = GenomeWindows.over_regions(genome, intervals, window_bp=window, parent_bp=32, exclude=exclude)
        found = source.__getitems__(range(len(source)))
        assert [
            (e.interval.contig, e.interval.start, e.interval.end, e.views[0].tobytes().decode()) for e in found
        ] == expected


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_windows_with_too_much_n_are_dropped(limit, seed):
    rng = np.random.default_rng(seed)
    bases = random_bases(rng, 100, "ACGTNN")
    expected = [i for i in range(0, 100, 10) if bases[i : i + 10].count("N") / 10 <= limit]
    with tempfile.TemporaryDirectory() as folder:
        genome = Genome(write_genome(Path(folder), {"c": bases}))
        contig, start = tile_contigs(genome, 10)
        exclude = [Interval("c", 34, 41)]
        expected = [i for i in expected if i not in (30, 40)]
        if not expected:
            return
        source = GenomeWindows(genome, contig, start, window_bp=10, exclude=exclude, max_unknown_fraction=limit)
        assert source.places(range(len(source)))[1].tolist() == expected


def test_lower_case_reads_as_upper_case_unless_the_genome_keeps_it(tmp_path):
    path = write_genome(tmp_path, {"c": "acgtnACGTN"})
    for keep_case, text in ((False, b"ACGTNACGTN"), (True, b"acgtnACGTN")):
        genome = Genome(path, keep_case=keep_case)
        assert GenomeWindows(genome, *tile_contigs(genome, 10), window_bp=10)[0].views[0].tobytes() == text


def test_tiles_lie_side_by_side_and_skip_short_contigs(tmp_path):
    genome = Genome(write_genome(tmp_path, {"a": "A" * 35, "b": "C" * 9, "c": "G" * 20}))
    contig, start = tile_contigs(genome, 10)
    assert list(zip(contig.tolist(), start.tolist(), strict=True)) == [(0, 0), (0, 10), (0, 20), (2, 0), (2, 10)]
    assert tile_contigs(genome, 10, {"c"})[0].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("regions", "window", "error", "message"),
    [
        ([Interval("c", 90, 110)], 16, InputError, r"c:90-110 \(from 0\) is past the end of c \(100 bp\)"),
        ([Interval("chrC", 0, 10)], 16, InputError, "no contig 'chrC'.*called 'c'"),
        ([Interval("c", 0, 10)], 24, ConfigError, "expected a divisor of 64"),
        ([], 16, ConfigError, "no window of 16 bp is left"),
    ],
)
def test_regions_and_lengths_that_cannot_be_served_are_refused(tmp_path, regions, window, error, message):
    genome = Genome(write_genome(tmp_path, {"c": "A" * 100}))
    with pytest.raises(error, match=message):
        GenomeWindows.over_regions(genome, regions, window_bp=window, parent_bp=64)


def test_rows_outside_are_refused(tmp_path):
    genome = Genome(write_genome(tmp_path, {"c": "A" * 100}))
    source = GenomeWindows(genome, *tile_contigs(genome, 10), window_bp=10)
    for row in (-1, 10):
        with pytest.raises(IndexError):
            source[row]
    assert len(list(source)) == 10


def count_wrong(source: GenomeWindows, truth: dict[str, bytes], seed: int, num_windows: int) -> int:
    """Windows that differ from the sequence they were cut from, of `num_windows` random ones."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(0, num_windows, 500):
        rows = rng.integers(0, len(source), 500)
        contig, start = source.places(rows)
        for window, c, s in zip(source.examples(rows), contig, start, strict=True):
            wrong += window.tobytes() != truth[source.genome.contigs[c]][s : s + source.window_bp]
    return wrong


def make_source(folder: Path) -> tuple[GenomeWindows, dict[str, bytes]]:
    rng = np.random.default_rng(0)
    contigs = {f"c{i}": random_bases(rng, 20_000 + 977 * i) for i in range(4)}
    genome = Genome(write_genome(folder, contigs))
    regions = [Interval(f"c{i % 4}", start, start + 1) for i, start in enumerate(range(0, 20_000, 501))]
    source = GenomeWindows.over_regions(genome, regions, window_bp=128, parent_bp=4096)
    return source, {name: bases.encode() for name, bases in contigs.items()}


def count_wrong_in_workers(folder: Path, workers: int, num_windows: int) -> int:
    source, truth = make_source(folder)
    assert count_wrong(source, truth, 99, 500) == 0  # the handle is open and used before workers start
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(count_wrong, source, truth, seed, num_windows // workers) for seed in range(workers)]
        return sum(job.result() for job in jobs)


def test_a_spawned_worker_reads_the_right_windows(tmp_path):
    assert count_wrong_in_workers(tmp_path, 1, 4_000) == 0


@pytest.mark.slow
def test_a_million_windows_in_eight_spawned_workers_are_all_right(tmp_path):
    assert count_wrong_in_workers(tmp_path, 8, 1_000_000) == 0


def test_forks_with_an_open_handle_read_the_right_windows(tmp_path):
    source, truth = make_source(tmp_path)
    children = []
    for seed in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = int(count_wrong(source, truth, seed, 3_000) > 0)
            finally:
                os._exit(status)
        children.append(child)
    assert count_wrong(source, truth, 7, 3_000) == 0
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4


def test_a_pickled_source_gives_the_same_examples(tmp_path):
    source, _ = make_source(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    rows = [0, 5, len(source) - 1]
    assert [copy[row].id for row in rows] == [source[row].id for row in rows]
    assert np.array_equal(copy.examples(rows), source.examples(rows))
