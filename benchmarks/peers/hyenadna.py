"""Times the HyenaDNA of the package multimolecule; runs in the peers' environment.

Arguments: threads, length. Reads a line a pass and answers with {"seconds": ..., "peak_gib": ...}. Driven by
benchmarks/hyenadna.py, so that both sides are measured in turn.
"""

import json
import resource
import sys
import time

import torch


def main() -> None:
    from multimolecule import HyenaDnaConfig, HyenaDnaModel

    torch.set_num_threads(int(sys.argv[1]))
    length = int(sys.argv[2])
    torch.manual_seed(0)
    # its defaults are 8 layers of width 256 for 160,000 bases
    model = HyenaDnaModel(HyenaDnaConfig()).eval()
    tokens = torch.randint(7, 11, (1, length))
    with torch.inference_mode():
        model(tokens[:, :256])
        for _ in sys.stdin:
            begin = time.perf_counter()
            model(tokens)
            seconds = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"seconds": seconds, "peak_gib": peak}), flush=True)


if __name__ == "__main__":
    main()
