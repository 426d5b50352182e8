"""One Mamba mixer of width 256 beside the installable peers, measured in turn."""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import torch

from chargaff.nn.mamba import MambaMixer, SsmConfig, init_mixer

WIDTH, THREADS, REPEATS = 256, 2, 7

# length, batch, backward, peer, peer's batch (smaller where a full one takes minutes), demanded ratio
CASES = [
    (4096, 1, False, "transformers", 1, 3.0),
    (4096, 1, False, "mambapy", 1, 7.0),
    (1024, 8, True, "mambapy", 8, 8.0),
]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    mixer = MambaMixer(WIDTH, SsmConfig())
    init_mixer(mixer, residual_divisor=1.0)
    script = Path(__file__).parent / "peers" / "mixers.py"
    command = [os.environ["CHARGAFF_PEERS_PYTHON"], str(script), str(THREADS)]
    # the peer keeps the threads' default way of waiting, which suits a program with one thread pool
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:
        rows = [_measure(mixer, process, *case) for case in CASES]
        assert process.stdin is not None
        process.stdin.close()
    notes = [f"medians of {REPEATS} after 2 warm-up passes, peer and ours in turn, {THREADS} threads, float32, CPU"]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


def _measure(
    mixer: MambaMixer,
    process: "subprocess.Popen[str]",
    length: int,
    batch: int,
    backward: bool,
    peer: str,
    peer_batch: int,
    demanded: float,
) -> dict[str, object]:
    request = json.dumps({"peer": peer, "batch": peer_batch, "length": length, "backward": backward})
    ours, theirs = [], []
    for turn in range(REPEATS + 2):
        own = _pass(mixer, batch, length, backward)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        other = float(process.stdout.readline()) * batch / peer_batch
        if turn >= 2:
            ours.append(own)
            theirs.append(other)
    ratio = statistics.median(theirs) / statistics.median(ours)
    return {
        "case": f"{'forward+backward' if backward else 'forward'} B={batch} L={length}",
        "ours s": round(statistics.median(ours), 4),
        "peer": peer,
        "peer s": round(statistics.median(theirs), 4),
        "times faster": round(ratio, 2),
        "at least": demanded,
        "met": ratio >= demanded,
    }


def _pass(mixer: MambaMixer, batch: int, length: int, backward: bool) -> float:
    x = torch.randn(batch, length, WIDTH, requires_grad=backward)
    begin = time.perf_counter()
    with torch.set_grad_enabled(backward):
        h, z = mixer.in_proj(x).chunk(2, -1)
        y = mixer.out_proj(mixer.scan(h, z, reverse=False))
        if backward:
            y.sum().backward()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
