"""The cells of xLSTM: mLSTM over the length and beside the PyTorch kernels of mlstm_kernels, sLSTM beside loops."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.ops.mlstm import mlstm
from chargaff.ops.slstm import slstm

THREADS, WARM_UP, REPEATS = 2, 1, 5
LENGTH, CHUNK, HEAD_WIDTH = 16_384, 64, 64
LENGTHS = (4096, 8192, 16_384, 32_768)

Rows = list[dict[str, Any]]
Pass = Callable[[], float]
"""Runs once and gives its seconds."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--lengths-only", action="store_true", help="for the process that this one starts")
    args = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if args.lengths_only:
        args.json.write_text(json.dumps(over_lengths()))
        return
    rows = in_own_process(args.json) + beside_peers() + beside_loops()
    for row in rows:
        print("  ".join(f"{name}: {value}" for name, value in row.items() if value is not None), file=sys.stderr)
    notes = [
        f"medians of {REPEATS} after {WARM_UP} warm-up pass, compared passes in turn, {THREADS} threads, float32, CPU, "
        f"heads of {HEAD_WIDTH}, chunks of {CHUNK}; the loop that writes rows of one tensor runs once",
        "KiB a position: growth of the peak of resident memory, inputs and their gradients included",
        "over the lengths, the process keeps memory it once had; else fresh pages make long passes up to twice as slow",
    ]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


def in_own_process(out: Path) -> Rows:
    """`over_lengths` where the peak of memory is low, and the C library keeps what is freed."""
    keeping = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
    command = [sys.executable, __file__, "--lengths-only", "--json", str(out)]
    subprocess.run(command, env={**os.environ, **keeping}, check=True)
    rows: Rows = json.loads(out.read_text())
    return rows


def over_lengths() -> Rows:
    """Time and memory of mLSTM from 4,096 to 32,768 positions, 4 heads."""
    one_mlstm(1, 4, 64, backward=True)
    before, memory = peak_kib(), {}
    for length in LENGTHS:
        one_mlstm(1, 4, length, backward=True)
        memory[length] = (peak_kib() - before) / length
    rows = []
    for backward in (False, True):
        taken = in_turn([partial(one_mlstm, 1, 4, length, backward) for length in LENGTHS])
        first = taken[0] / LENGTHS[0]
        for length, seconds in zip(LENGTHS, taken, strict=True):
            factor = seconds / length / first
            if backward:
                factor = max(factor, memory[length] / memory[LENGTHS[0]])
            rows.append(
                {
                    "case": f"mLSTM {direction(backward)} H=4 L={length}",
                    "ours s": round(seconds, 4),
                    "us a position": round(1e6 * seconds / length, 3),
                    "KiB a position": round(memory[length], 2) if backward else None,
                    "times those of the shortest": round(factor, 2),
                    "at most": 1.5,
                    "met": factor <= 1.5,
                }
            )
    return rows


def beside_peers() -> Rows:
    """mLSTM at 16,384 positions."""
    rows = []
    with peer() as ask:
        for heads in (1, 4):
            for backward in (False, True):
                names = ["native_autograd", "native_custbw"]
                case = {"batch": 1, "heads": heads, "width": HEAD_WIDTH, "length": LENGTH, "chunk": CHUNK}
                requests = [{**case, "kernel": f"chunkwise--{name}", "backward": backward} for name in names]
                passes: list[Pass] = [partial(one_mlstm, 1, heads, LENGTH, backward)]
                ours, *theirs = in_turn(passes + [partial(ask, request) for request in requests])
                what = f"mLSTM {direction(backward)} H={heads} L={LENGTH}"
                rows += [
                    compared(what, ours, f"mlstm_kernels {name}", seconds, 1.0)
                    for name, seconds in zip(names, theirs, strict=True)
                ]
    return rows


def beside_loops() -> Rows:
    """sLSTM of width 256 with 4 heads, batch 8, 1,024 positions, forward and backward."""
    what = "sLSTM forward+backward D=256 B=8 L=1024"
    ours, stacked = in_turn([partial(one_slstm, run) for run in (slstm, partial(slstm, backend="reference"))])
    return [
        compared(what, ours, "torch loop that writes the rows of one tensor", one_slstm(writing_loop), 20.0),
        compared(what, ours, "torch loop that stacks its rows", stacked, 1.0),
    ]


def one_mlstm(batch: int, heads: int, length: int, backward: bool) -> float:
    rows = (batch, length, heads)
    q, k, v = (torch.randn(*rows, HEAD_WIDTH, requires_grad=backward) for _ in range(3))
    igate, fgate = torch.randn(rows), torch.randn(rows) + 3
    inputs = [q, k, v, igate.requires_grad_(backward), fgate.requires_grad_(backward)]
    begin = time.perf_counter()
    with torch.set_grad_enabled(backward):
        h = mlstm(*inputs, chunk_tokens=CHUNK)
        if backward:
            torch.autograd.grad(h, inputs, torch.ones_like(h))
    return time.perf_counter() - begin


def one_slstm(run: Callable[..., Tensor]) -> float:
    batch, length, heads, width = 8, 1024, 4, 64
    inputs = [torch.randn(batch, length, heads, width, requires_grad=True) for _ in range(4)]
    inputs += [torch.randn(heads, width, 4, width).mul_(0.05).requires_grad_()]
    inputs += [torch.zeros(heads, 4, width, requires_grad=True)]
    begin = time.perf_counter()
    y = run(*inputs)
    torch.autograd.grad(y, inputs, torch.ones_like(y))
    return time.perf_counter() - begin


def writing_loop(igate: Tensor, fgate: Tensor, zgate: Tensor, ogate: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    """The cell as the published vanilla form has it: every step writes its states into a tensor made before."""
    batch, length, heads, width = igate.shape
    states = torch.empty(4, length, batch, heads, width)
    y, c, n, m = torch.zeros(4, batch, heads, width).unbind(0)
    for t in range(length):
        i, f, z, o = torch.einsum("bhk,hkgj->gbhj", y, recurrent) + bias.transpose(0, 1).unsqueeze(1)
        i, f, z, o = i + igate[:, t], f + fgate[:, t], z + zgate[:, t], o + ogate[:, t]
        decayed = F.logsigmoid(f) + m
        m = i if t == 0 else torch.maximum(i, decayed)
        into, kept = (i - m).exp(), (decayed - m).exp()
        c, n = kept * c + into * z.tanh(), kept * n + into
        y = o.sigmoid() * c / n
        states[:, t] = torch.stack([y, c, n, m])
    return states[0].transpose(0, 1)


@contextmanager
def peer() -> Iterator[Callable[[dict[str, Any]], float]]:
    """A function that has the peers' environment run one pass."""
    script = Path(__file__).parent / "peers" / "cells.py"
    command = [os.environ["CHARGAFF_PEERS_PYTHON"], str(script), str(THREADS)]
    # the peer keeps the threads' default way of waiting, which suits a program with one thread pool
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(request: dict[str, Any]) -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield ask
        process.stdin.close()


def in_turn(passes: list[Pass]) -> list[float]:
    """The median seconds of each, measured alternately."""
    taken = [[run() for run in passes] for _ in range(WARM_UP + REPEATS)][WARM_UP:]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def compared(case: str, ours: float, peer: str, theirs: float, demanded: float) -> dict[str, Any]:
    ratio = theirs / ours
    return {
        "case": case,
        "ours s": round(ours, 4),
        "peer": peer,
        "peer s": round(theirs, 4),
        "times faster": round(ratio, 2),
        "at least": demanded,
        "met": ratio >= demanded,
    }


def direction(backward: bool) -> str:
    return "forward+backward" if backward else "forward"


def peak_kib() -> float:
    """The largest resident memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "darwin" else 1)


if __name__ == "__main__":
    main()
