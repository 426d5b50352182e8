"""Times the pure-PyTorch mLSTM kernels of the package mlstm_kernels; runs in the peers' environment.

One JSON line {"kernel": ..., "batch": ..., "heads": ..., "width": ..., "length": ..., "chunk": ..., "backward": ...}
in, seconds of one pass out. Driven by benchmarks/xlstm.py, so that both sides are measured in turn.
"""

import json
import sys
import time

import torch
from mlstm_kernels.torch import get_mlstm_kernel


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(seconds(json.loads(line))), flush=True)


def seconds(case: dict) -> float:
    kernel = get_mlstm_kernel(case["kernel"])
    rows = (case["batch"], case["heads"], case["length"])
    q, k, v = (torch.randn(*rows, case["width"]) for _ in range(3))
    inputs = [q, k, v, torch.randn(rows), torch.randn(rows) + 3]
    for x in inputs:
        x.requires_grad_(case["backward"])
    begin = time.perf_counter()
    with torch.set_grad_enabled(case["backward"]):
        h = kernel(*inputs, chunk_size=case["chunk"])
        if case["backward"]:
            torch.autograd.grad(h, inputs, torch.ones_like(h))
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
