"""One full window of Enformer and of Borzoi, published widths and fresh weights, beside the installable peers."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

THREADS, PASSES = 2, 5
BASES = {"enformer": 196_608, "borzoi": 524_288}
ROWS = {"enformer": "enformer", "borzoi": "borzoi-0"}
"""Model -> checkpoint row that has its config; the peer's defaults are the same."""
LARGEST_SHARE = 0.7
"""Of the peer's memory above its weights."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", choices=list(BASES), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.model:
        _work(args.model)
        return
    if args.json is None:
        parser.error("--json: where to write the figures?")
    notes = [
        f"medians of {PASSES} passes in turn, {THREADS} threads, batch 1, float32, trunk and track heads, a process "
        "each; GiB: highest resident memory above the memory just after the model was made",
        "the peers are enformer-pytorch (human and mouse tracks) and borzoi-pytorch (human tracks)",
    ]
    args.json.write_text(json.dumps({"rows": [_beside_the_peer(name) for name in BASES], "notes": notes}))


def _beside_the_peer(name: str) -> dict[str, Any]:
    script = Path(__file__).parent / "peers" / "tracks.py"
    commands = {
        "ours": [sys.executable, __file__, "--model", name],
        "peer": [os.environ["CHARGAFF_PEERS_PYTHON"], str(script), str(THREADS), name],
    }
    with ExitStack() as stack:
        workers = {side: stack.enter_context(_worker(command)) for side, command in commands.items()}
        answers: dict[str, list[dict[str, float]]] = {side: [] for side in workers}
        for _ in range(PASSES):
            for side, worker in workers.items():
                answers[side].append(_ask(worker))
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
    seconds = {side: statistics.median(answer["seconds"] for answer in found) for side, found in answers.items()}
    memory = {side: found[-1]["peak_gib"] - found[-1]["weights_gib"] for side, found in answers.items()}
    ratio, share = seconds["peer"] / seconds["ours"], memory["ours"] / memory["peer"]
    return {
        "case": f"{name}, {BASES[name]} bases",
        "ours s": round(seconds["ours"], 1),
        "peer s": round(seconds["peer"], 1),
        "times faster": round(ratio, 2),
        "at least": 1.0,
        "ours GiB": round(memory["ours"], 2),
        "peer GiB": round(memory["peer"], 2),
        "share of its memory": round(share, 2),
        "at most": LARGEST_SHARE,
        "met": ratio >= 1 and share <= LARGEST_SHARE,
    }


def _worker(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: "subprocess.Popen[str]") -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    answer: dict[str, float] = json.loads(worker.stdout.readline())
    return answer


def _work(name: str) -> None:
    """Answers every line of standard input with one pass."""
    from chargaff.hub.catalog import get_checkpoint
    from chargaff.hub.load import create

    torch.set_num_threads(THREADS)
    row = get_checkpoint(ROWS[name])
    model = create(row.family, row.config, head="tracks").eval()
    bases = [model.tokenizer.vocab.index(letter) for letter in "ACGT"]
    tokens = torch.tensor(bases)[torch.randint(0, 4, (1, BASES[name]))]
    weights = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30
    with torch.inference_mode():
        for _ in sys.stdin:
            begin = time.perf_counter()
            model(tokens)
            seconds = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"seconds": seconds, "peak_gib": peak, "weights_gib": weights}), flush=True)


if __name__ == "__main__":
    main()
