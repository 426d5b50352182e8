"""Caduceus-PS of the 131k configuration on one 131,072-base window, beside the floor of the work."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from chargaff.families.caduceus.config import CaduceusConfig
from chargaff.families.caduceus.model import Caduceus, init_weights
from chargaff.ops.selective_scan import selective_scan

THREADS, LENGTH, REPEATS = 2, 131_072, 3
PS_131K = {"d_model": 256, "n_layer": 16, "vocab_size": 16, "rcps": True, "residual_in_fp32": False}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", choices=["float32", "bfloat16"], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        args.json.write_text(json.dumps(_measure(getattr(torch, args.one))))
        return
    rows = []
    for dtype in ("float32", "bfloat16"):  # a process each, so that the peaks of memory are their own
        subprocess.run([sys.executable, __file__, "--json", str(args.json), "--one", dtype], check=True)
        rows.append(json.loads(args.json.read_text()))
    notes = [
        f"median of {REPEATS} passes after a short warm-up, {THREADS} threads; floor = matrix products at the rate "
        "measured in the same process (one in_proj product of 4,096 tokens) + the four scans of a layer at the "
        "kernel's rate, measured in the same process",
        "bfloat16: weights and activations in bf16, scan and norms in float32; relative error of the mean state "
        "against float32 is in the table",
    ]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


def _measure(dtype: torch.dtype) -> dict[str, object]:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = CaduceusConfig.from_json(PS_131K)
    backbone = Caduceus(config)
    init_weights(backbone, config)
    tokens = torch.randint(7, 11, (1, LENGTH))
    with torch.inference_mode():
        short = tokens[:, :8192]
        exact = backbone(short).hidden.float()
        backbone.to(dtype)
        error = ((backbone(short).hidden.float() - exact).norm() / exact.norm()).item()
        seconds = [_timed(lambda: backbone(tokens)) for _ in range(REPEATS)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        floor = _floor(config, dtype)
    median = statistics.median(seconds)
    return {
        "case": f"Caduceus-PS 131k, {LENGTH} bases, {str(dtype).removeprefix('torch.')}",
        "seconds": round(median, 1),
        "floor s": round(floor, 1),
        "achieved / floor": round(median / floor, 2),
        "aim": 1.5,
        "peak RSS GiB": round(peak, 2),
        "at most GiB": 6,
        "met": peak < 6,
        "relative error": f"{error:.1e}",
    }


def _floor(config: CaduceusConfig, dtype: torch.dtype) -> float:
    """Seconds of the matrix products and scans alone."""
    width, inner, rank = config.d_model, 2 * config.d_model, config.ssm.rank(config.d_model)
    selection = rank + 2 * config.ssm.d_state
    flops = 2 * LENGTH * (2 * inner * width + 2 * inner * selection + 2 * rank * inner + inner * width)
    x, w = torch.randn(4096, width, dtype=dtype), torch.randn(2 * inner, width, dtype=dtype)
    torch.nn.functional.linear(x, w)
    product = statistics.median(_timed(lambda: torch.nn.functional.linear(x, w)) for _ in range(21))
    rate = 2 * x.numel() * w.shape[0] / product
    scan = _scan_seconds(inner, config.ssm.d_state, dtype) * LENGTH / 8192
    return config.n_layer * 2 * (flops / rate + 2 * scan)


def _scan_seconds(inner: int, states: int, dtype: torch.dtype) -> float:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    arguments = (random(1, 8192, inner), random(1, 8192, inner), -torch.rand(inner, states) - 0.5)
    arguments += (random(1, 8192, states), random(1, 8192, states), torch.ones(inner))
    bias = torch.zeros(inner)

    def scan() -> None:
        selective_scan(*arguments, None, bias, softplus=True)

    scan()
    return statistics.median(_timed(scan) for _ in range(7))


def _timed(call: object) -> float:
    begin = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
