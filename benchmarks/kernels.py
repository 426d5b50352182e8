"""Rates of the CPU kernels beside plain torch, with the machine's matrix products for orientation."""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.ops.causal_conv1d import causal_conv1d
from chargaff.ops.selective_scan import selective_scan

THREADS, WARM_UP, REPEATS = 2, 2, 7
WIDTH, STATES, TAPS, MODEL_WIDTH = 512, 16, 4, 256

Rows = list[dict[str, Any]]


def main(argv: list[str] | None = None) -> Rows:
    """Measure everything, print the table, and write it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    rows = [*long_scan(), *scans(), *convolutions(), *products()]  # the peak of memory first, while it is still low
    for row in rows:
        print("  ".join(f"{name}: {value}" for name, value in row.items() if value is not None), file=sys.stderr)
    notes = [
        f"medians of {REPEATS} after {WARM_UP} warm-up runs, compared functions in turn, {THREADS} threads, D={WIDTH}, "
        f"N={STATES}, all options on; Gelem/s counts B*L*D*N elements of state a run",
    ]
    if args.json is not None:
        args.json.write_text(json.dumps({"rows": rows, "notes": notes}))
    return rows


def scan_inputs(batch: int, length: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """As a mixer makes them: z is half of a wider tensor, B and C are slices of a narrow one."""
    projected = torch.randn(batch, length, 2 * WIDTH).to(dtype)
    selection = torch.randn(batch, length, 16 + 2 * STATES).to(dtype)
    return {
        "u": torch.randn(batch, length, WIDTH).to(dtype),
        "delta": torch.randn(batch, length, WIDTH).to(dtype),
        "A": -torch.arange(1.0, STATES + 1).repeat(WIDTH, 1),
        "B": selection[..., 16 : 16 + STATES],
        "C": selection[..., 16 + STATES :],
        "D": torch.ones(WIDTH),
        "z": projected[..., WIDTH:],
        "delta_bias": torch.full((WIDTH,), -4.6),
    }


def long_scan() -> Rows:
    """A whole window of the longest published models, inputs included in the memory."""
    length = 131_072
    run_scan(scan_inputs(1, 64))
    before = peak_gib()
    inputs = scan_inputs(1, length)
    (seconds,) = in_turn([partial(run_scan, inputs)])
    growth = round(peak_gib() - before, 3)
    rate = length * WIDTH * STATES / seconds / 1e9
    case = f"scan forward B=1 L={length}"
    return [
        row(case, seconds, rate, "Gelem/s", bound=1.2),
        {"case": f"{case}: growth of the peak", "figure": growth, "unit": "GiB", "at most": 2, "met": growth <= 2},
    ]


def scans() -> Rows:
    rows = []
    inputs = scan_inputs(1, 2048)
    ours, loop = in_turn([partial(run_scan, inputs), partial(run_scan, inputs, backend="reference")])
    elements = 2048 * WIDTH * STATES / 1e9
    rows.append(row("scan forward B=1 L=2048", ours, elements / ours, "Gelem/s", "torch loop", loop, 25, bound=0.0049))
    (half,) = in_turn([partial(run_scan, scan_inputs(1, 2048, torch.bfloat16))])
    rows.append(row("scan forward B=1 L=2048 bfloat16", half, elements / half, "Gelem/s"))
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    ours, loop = in_turn([partial(train_scan, leaves), partial(train_scan, leaves, backend="reference")])
    rows.append(row("scan forward+backward B=1 L=2048", ours, elements / ours, "Gelem/s", "torch loop", loop))
    leaves = {name: x.requires_grad_() for name, x in scan_inputs(8, 1024).items()}
    (ours,) = in_turn([partial(train_scan, leaves)])
    rows.append(row("scan forward+backward B=8 L=1024", ours, 4 * elements / ours, "Gelem/s"))
    return rows


def convolutions() -> Rows:
    """Rates in positions times channels."""
    rows = []
    for batch, length in ((1, 2048), (8, 1024)):
        x = torch.randn(batch, length, 2 * WIDTH)[..., :WIDTH]
        weight, bias = torch.randn(WIDTH, TAPS), torch.randn(WIDTH)
        rate = batch * length * WIDTH / 1e9
        for backward in (False, True):
            tensors = [tensor.detach().requires_grad_(backward) for tensor in (x, weight, bias)]
            ours, peer = in_turn([partial(run_conv, our_conv, tensors), partial(run_conv, torch_conv, tensors)])
            case = f"conv {'forward+backward' if backward else 'forward'} B={batch} L={length}"
            rows.append(row(case, ours, rate / ours, "Gelem/s", "torch conv1d", peer))
    return rows


def products() -> Rows:
    """The input projection of a mixer of width 256."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(8192, MODEL_WIDTH).to(dtype)
        weight = torch.randn(2 * WIDTH, MODEL_WIDTH).to(dtype)
        (seconds,) = in_turn([partial(F.linear, x, weight)])
        name = str(dtype).removeprefix("torch.")
        case = f"matrix product 8192x{MODEL_WIDTH}x{2 * WIDTH} {name}"
        rows.append(row(case, seconds, 2 * 8192 * MODEL_WIDTH * 2 * WIDTH / seconds / 1e9, "GFLOP/s"))
    return rows


@torch.no_grad()
def run_scan(inputs: dict[str, Tensor], backend: str = "cpu") -> None:
    selective_scan(**inputs, softplus=True, backend=backend)  # type: ignore[call-overload]


def train_scan(leaves: dict[str, Tensor], backend: str = "cpu") -> None:
    y = selective_scan(**leaves, softplus=True, backend=backend)  # type: ignore[call-overload]
    torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y))


def run_conv(convolve: Callable[..., Tensor], tensors: list[Tensor]) -> None:
    y = convolve(*tensors)
    if y.requires_grad:
        torch.autograd.grad(y, tensors, torch.ones_like(y))


def our_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return causal_conv1d(x, weight, bias, activation="silu", backend="cpu")


def torch_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.conv1d(x.mT, weight[:, None], bias, padding=TAPS - 1, groups=WIDTH)[..., : x.shape[1]]
    return F.silu(y).mT.contiguous()


def in_turn(functions: list[Callable[[], object]]) -> list[float]:
    """Median seconds of each, measured alternately."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(WARM_UP + REPEATS):
        for function, taken in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function()
            if turn >= WARM_UP:
                taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in times]


def row(
    case: str,
    seconds: float,
    rate: float,
    unit: str,
    peer: str | None = None,
    peer_seconds: float | None = None,
    demanded: float | None = None,
    bound: float | None = None,
) -> dict[str, Any]:
    """One line of the table: `demanded` times faster than the peer, at most `bound` seconds."""
    ratio = peer_seconds / seconds if peer_seconds is not None else None
    met = [seconds <= bound] if bound is not None else []
    met += [ratio >= demanded] if ratio is not None and demanded is not None else []
    return {
        "case": case,
        "ms": round(1e3 * seconds, 3),
        "figure": round(rate, 3),
        "unit": unit,
        "peer": peer,
        "peer ms": round(1e3 * peer_seconds, 2) if peer_seconds is not None else None,
        "times faster": round(ratio, 2) if ratio is not None else None,
        "at least": demanded,
        "at most": round(1e3 * bound, 3) if bound is not None else None,
        "met": all(met) if met else None,
    }


def peak_gib() -> float:
    """The largest resident memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    main()
