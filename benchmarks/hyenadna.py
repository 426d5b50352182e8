"""HyenaDNA, 8 layers of width 256, beside the installable peer, and on a million bases beside the floor of the work."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from chargaff.families.hyenadna.config import HyenaConfig
from chargaff.families.hyenadna.model import init_weights, make_backbone

THREADS, MILLION = 2, 1_000_000
# length, passes
LENGTHS = ((32_768, 5), (160_000, 5))
AT_LEAST = {"float32": 2.0, "bfloat16": 3.5}
LAYER = {"emb_dim": 5, "filter_order": 64, "w": 10, "lr_pos_emb": 0.0}
CONFIG = {"d_model": 256, "n_layer": 8, "pad_vocab_size_multiple": 8, "residual_in_fp32": True, "variant": "standalone"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=list(AT_LEAST), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.length:
        _work(args.length, args.dtype)
        return
    if args.json is None:
        parser.error("--json: where to write the figures?")
    rows = [row for length, passes in LENGTHS for row in _beside_the_peer(length, passes)]
    rows += [_million(dtype) for dtype in AT_LEAST]
    notes = [
        f"medians of passes in turn after a short warm-up, {THREADS} threads, batch 1, a process each; GiB: peak RSS "
        "of the whole process, imports included; the peer is multimolecule's HyenaDnaModel in float32",
        "bfloat16: matrix products in bfloat16 (autocast); norms, filters and FFT in float32; relative error of the "
        "last states against float32 on the first 32,768 bases",
        "floor: matrix products alone, at the rate of one product of 4,096 positions with an MLP matrix measured in "
        "the same process",
    ]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


def _beside_the_peer(length: int, passes: int) -> list[dict[str, Any]]:
    threads = [str(THREADS)]
    commands = {dtype: [sys.executable, __file__, "--length", str(length), "--dtype", dtype] for dtype in AT_LEAST}
    script = Path(__file__).parent / "peers" / "hyenadna.py"
    commands["peer"] = [os.environ["CHARGAFF_PEERS_PYTHON"], str(script), *threads, str(length)]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(command, name)) for name, command in commands.items()}
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for _ in range(passes):
            for name, worker in workers.items():
                answers[name].append(_ask(worker))
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
    peer = _summary(answers["peer"])
    return [_row(length, dtype, _summary(answers[dtype]), answers[dtype][0], peer) for dtype in AT_LEAST]


def _worker(command: list[str], name: str) -> "subprocess.Popen[str]":
    # the peer keeps the threads' default way of waiting, which suits a program with one thread pool
    kept = {key: value for key, value in os.environ.items() if name != "peer" or key != "OMP_WAIT_POLICY"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept)


def _ask(worker: "subprocess.Popen[str]") -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    answer: dict[str, Any] = json.loads(worker.stdout.readline())
    return answer


def _summary(answers: list[dict[str, Any]]) -> Mapping[str, float]:
    seconds = statistics.median(answer["seconds"] for answer in answers)
    return {"seconds": seconds, "peak_gib": answers[0]["peak_gib"]}  # later ones saw the check of the error, too


def _row(
    length: int, dtype: str, ours: Mapping[str, float], facts: Mapping[str, Any], peer: Mapping[str, float]
) -> dict[str, Any]:
    ratio, memory = peer["seconds"] / ours["seconds"], ours["peak_gib"] / peer["peak_gib"]
    return {
        "case": f"{length} bases, {dtype}",
        "ours s": round(ours["seconds"], 2),
        "peer s": round(peer["seconds"], 2),
        "times faster": round(ratio, 2),
        "at least": AT_LEAST[dtype],
        "ours GiB": round(ours["peak_gib"], 2),
        "peer GiB": round(peer["peak_gib"], 2),
        "share of its memory": round(memory, 2),
        "at most": 0.5,
        "met": ratio >= AT_LEAST[dtype] and memory <= 0.5,
        "relative error": facts["error"],
        "floor s": round(facts["floor"], 2),
    }


def _million(dtype: str) -> dict[str, Any]:
    with _worker([sys.executable, __file__, "--length", str(MILLION), "--dtype", dtype], dtype) as worker:
        answer = _ask(worker)
        assert worker.stdin is not None
        worker.stdin.close()
    return {
        "case": f"large-1m, {MILLION} bases, {dtype}",
        "ours s": round(answer["seconds"], 1),
        "floor s": round(answer["floor"], 1),
        "achieved / floor": round(answer["seconds"] / answer["floor"], 2),
        "aim": 2,
        "ours GiB": round(answer["peak_gib"], 2),
        "at most": 10,
        "met": answer["peak_gib"] < 10,
        "relative error": answer["error"],
    }


def _work(length: int, dtype: str) -> None:
    """Answers every line of standard input with one pass."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = HyenaConfig.from_json({**CONFIG, "layer": {**LAYER, "l_max": max(length, 160_000) + 2}})
    backbone = make_backbone(config).eval()
    init_weights(backbone, config)
    backbone.init_buffers("cpu")
    tokens = torch.randint(7, 11, (1, length))
    is_bfloat16 = dtype == "bfloat16"

    def run(ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            return backbone(ids).hidden

    run(tokens[:, :512])  # compiles the kernels
    facts: dict[str, Any] | None = None
    for _ in sys.stdin:
        begin = time.perf_counter()
        found = run(tokens)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        del found
        if facts is None:
            floor = _floor(config, length, torch.bfloat16 if is_bfloat16 else torch.float32)
            facts = {"floor": floor, "error": _error(backbone, run, tokens[:, :32_768]) if is_bfloat16 else None}
        print(json.dumps({"seconds": seconds, "peak_gib": peak, **facts}), flush=True)


def _error(backbone: torch.nn.Module, run: Any, tokens: torch.Tensor) -> str:
    with torch.inference_mode():
        exact = backbone(tokens).hidden
        return f"{float((run(tokens).float() - exact).norm() / exact.norm()):.1e}"


def _floor(config: HyenaConfig, length: int, dtype: torch.dtype) -> float:
    """Seconds of the matrix products alone."""
    assert config.layer is not None
    width, inner, narrow = config.d_model, config.inner_width, config.layer.filter_order
    flops = 2 * length * (4 * width * width + 2 * width * inner)
    filter_flops = 2 * length * narrow * (config.layer.emb_dim + config.layer.num_inner_mlps * narrow + width)
    return config.n_layer * (flops / _rate(width, inner, dtype) + filter_flops / _rate(width, inner, torch.float32))


def _rate(width: int, inner: int, dtype: torch.dtype) -> float:
    """Operations a second, at best: a floor must not be lifted by threads that were still asleep."""
    x, w = torch.randn(4096, width, dtype=dtype), torch.randn(inner, width, dtype=dtype)
    torch.nn.functional.linear(x, w)
    times = []
    for _ in range(15):
        begin = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - begin)
    return 2 * x.numel() * inner / min(times)


if __name__ == "__main__":
    main()
