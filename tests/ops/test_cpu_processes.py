"""What CPU kernels do to a process: memory, threads, start-up, uninitialised memory."""

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from chargaff.ops.causal_conv1d import causal_conv1d
from chargaff.ops.selective_scan import selective_scan


def run(code: str, **environment: str) -> object:
    """What the code prints, as JSON, from a process of its own."""
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


MEMORY = """
import json, resource, sys, torch
from chargaff.ops.selective_scan import selective_scan

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

def scan(length, width=64, states=64):
    u, delta = torch.zeros(1, length, width), torch.zeros(1, length, width, requires_grad=True)
    A, B = -torch.ones(width, states), torch.zeros(1, length, states, requires_grad=True)
    selective_scan(u, delta, A, B, B, softplus=True, backend="cpu").sum().backward()

scan(64)
before = peak_mib()
scan(32768)
print(json.dumps(peak_mib() - before))
"""


def test_no_state_of_every_step_is_stored():
    """[B, L, D, N] would be 512 MiB here; everything of size [B, L, D] or [B, L, N] is 8 MiB."""
    assert run(MEMORY) < 200


GARBAGE = """
import json, torch
from chargaff.ops.causal_conv1d import causal_conv1d
from chargaff.ops.selective_scan import selective_scan
torch.manual_seed(0)
x, w = torch.randn(2, 70, 37, requires_grad=True), torch.randn(37, 4, requires_grad=True)
A, B = -torch.rand(37, 5, requires_grad=True), torch.randn(2, 70, 5, requires_grad=True)
y = causal_conv1d(x, w, activation="silu", backend="cpu")
y, state = selective_scan(y, x, A, B, B, z=x, softplus=True, return_state=True, backend="cpu")
(y.square().sum() + state.sum()).backward()
print(json.dumps([t.double().sum().item() for t in (y, state, x.grad, w.grad, B.grad)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_kernels_never_read_scratch_memory_they_did_not_write():
    assert run(GARBAGE, MALLOC_PERTURB_="1") == run(GARBAGE, MALLOC_PERTURB_="85")


def test_kernels_are_compiled_once_for_all_processes(tmp_path):
    code = """
import json, torch
from chargaff.ops.selective_scan import selective_scan
x = torch.zeros(1, 1, 1)
selective_scan(x, x, x[0], x, x, backend="cpu")
print(json.dumps(None))
"""

    def cached():
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb*")}

    run(code, NUMBA_CACHE_DIR=str(tmp_path))
    first = cached()
    assert first
    run(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert cached() == first


CONCURRENT = """
import json, numba, torch
from concurrent.futures import ThreadPoolExecutor
from chargaff.ops.selective_scan import selective_scan
torch.manual_seed(0)
x, A, B = torch.randn(2, 300, 64), -torch.rand(64, 8), torch.randn(2, 300, 8)
expected = selective_scan(x, x, A, B, B, softplus=True, backend="cpu")
with ThreadPoolExecutor(4) as pool:
    results = list(pool.map(lambda _: selective_scan(x, x, A, B, B, softplus=True, backend="cpu"), range(64)))
print(json.dumps([numba.threading_layer(), all(torch.equal(y, expected) for y in results)]))
"""


def test_calls_from_several_threads_are_safe_even_with_numbas_fallback_pool():
    assert run(CONCURRENT, NUMBA_THREADING_LAYER="workqueue") == ["workqueue", True]


def test_calls_from_several_threads_agree():
    x, w = torch.randn(2, 300, 64), torch.randn(64, 4)
    expected = causal_conv1d(x, w, backend="cpu")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: causal_conv1d(x, w, backend="cpu"), range(64)))
    assert all(torch.equal(y, expected) for y in results)


def test_numbas_thread_count_is_left_as_it_was():
    import numba

    numba.set_num_threads(1)
    torch.set_num_threads(2)
    x = torch.zeros(1, 1, 1)
    selective_scan(x, x, x[0], x, x, backend="cpu")
    assert numba.get_num_threads() == 1
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def scan_in_a_worker(seed: int) -> float:
    x = torch.full((1, 5, 3), float(seed))
    return selective_scan(x, x, -torch.ones(3, 2), x[..., :2], x[..., :2], softplus=True).sum().item()


def test_spawned_processes_work_after_a_kernel_ran_in_the_parent():
    """A forked child would be ended by Numba at its first parallel kernel; nothing here forks."""
    expected = [scan_in_a_worker(seed) for seed in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(scan_in_a_worker, range(2)) == expected
