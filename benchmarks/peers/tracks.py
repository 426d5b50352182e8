"""Times Enformer of enformer-pytorch or Borzoi of borzoi-pytorch; runs in the peers' environment.

Arguments: threads, model (enformer, borzoi). Reads a line a pass and answers with {"seconds": ..., "peak_gib": ...,
"weights_gib": ...}. Driven by benchmarks/tracks.py, so that both sides are measured in turn.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

BASES = {"enformer": 196_608, "borzoi": 524_288}


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    name = sys.argv[2]
    model = make(name)
    bases = torch.randint(0, 4, (1, BASES[name]))
    x = torch.nn.functional.one_hot(bases, 4).float()
    x = x if name == "enformer" else x.transpose(1, 2).contiguous()
    weights = resident_gib()
    with torch.inference_mode():
        for _ in sys.stdin:
            begin = time.perf_counter()
            model(x)
            seconds = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"seconds": seconds, "peak_gib": peak, "weights_gib": weights}), flush=True)


def make(name: str) -> Any:
    """A model with fresh weights, in evaluation mode."""
    if name == "enformer":
        from enformer_pytorch import Enformer
        from enformer_pytorch.config_enformer import EnformerConfig

        return Enformer(EnformerConfig()).eval()
    from borzoi_pytorch import Borzoi
    from borzoi_pytorch.config_borzoi import BorzoiConfig

    return Borzoi(BorzoiConfig()).eval()


def resident_gib() -> float:
    """Memory of the process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


if __name__ == "__main__":
    main()
