"""Processes that read windows at the same time, forked or spawned, with a handle already open, get the right bases."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from chargaff.io.fasta import Genome
from tests.io.files import fasta, write

LENGTH_BP = 200


def make_truth() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {f"c{i}": b"".join(rng.choice([b"A", b"C", b"G", b"T", b"n"], 30_000 + 977 * i)) for i in range(5)}


def count_wrong(genome: Genome, truth: dict[str, bytes], seed: int, num_windows: int) -> int:
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(0, num_windows, 250):
        contig = rng.integers(0, len(truth), 250)
        start = (rng.random(250) * (genome.lengths_bp[contig] - LENGTH_BP)).astype(np.int64)
        windows = genome.windows(contig, start, LENGTH_BP)
        for window, c, s in zip(windows, contig, start.tolist(), strict=True):
            wrong += window.tobytes() != truth[genome.contigs[c]][s : s + LENGTH_BP].upper()
    return wrong


def count_wrong_in_workers(folder: Path, compression: str, method: str, workers: int, num_windows: int) -> int:
    truth = make_truth()
    genome = Genome(write(folder / "g.fa", fasta(truth), compression))
    assert count_wrong(genome, truth, 99, 250) == 0  # the handle is open and was used before the workers start
    with ProcessPoolExecutor(workers, multiprocessing.get_context(method)) as pool:
        jobs = [pool.submit(count_wrong, genome, truth, seed, num_windows // workers) for seed in range(workers)]
        here = count_wrong(genome, truth, 98, 250)
        return here + sum(job.result() for job in jobs)


@pytest.mark.parametrize(("method", "compression"), [("fork", "plain"), ("fork", "bgzip"), ("spawn", "plain")])
def test_workers_read_the_right_windows(tmp_path, method, compression):
    assert count_wrong_in_workers(tmp_path, compression, method, 2, 2_000) == 0


def test_forks_that_share_the_open_handle_read_the_right_windows(tmp_path):
    truth = make_truth()
    for compression in ("plain", "bgzip", "gzip"):
        genome = Genome(write(tmp_path / compression, fasta(truth), compression))
        children = []
        for seed in range(8):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = int(count_wrong(genome, truth, seed, 500) > 0)
                finally:
                    os._exit(status)
            children.append(child)
        assert count_wrong(genome, truth, 100, 500) == 0
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_million_windows_in_eight_workers_are_all_right(tmp_path, method):
    assert count_wrong_in_workers(tmp_path, "plain", method, 8, 1_000_000) == 0
