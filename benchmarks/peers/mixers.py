"""Times the Mamba mixers of other packages; runs in the peers' environment.

One JSON line {"peer": ..., "batch": ..., "length": ..., "backward": ...} in, seconds of one pass out. Driven by
benchmarks/mixer.py, so that both sides are measured in turn.
"""

import json
import sys
import time

import torch

WIDTH = 256


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    makers = {"transformers": make_transformers, "mambapy": make_mambapy}
    mixers = {}
    for line in sys.stdin:
        case = json.loads(line)
        mixer = mixers.setdefault(case["peer"], makers[case["peer"]]())
        x = torch.randn(case["batch"], case["length"], WIDTH, requires_grad=case["backward"])
        begin = time.perf_counter()
        with torch.set_grad_enabled(case["backward"]):
            y = mixer(x)
            if case["backward"]:
                y.sum().backward()
        print(json.dumps(time.perf_counter() - begin), flush=True)


def make_transformers():
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=WIDTH, state_size=16, conv_kernel=4, expand=2, use_mambapy=False)
    mixer = MambaMixer(config, layer_idx=0)
    return mixer._slow_forward


def make_mambapy():
    from mambapy.mamba import MambaBlock, MambaConfig

    return MambaBlock(MambaConfig(d_model=WIDTH, n_layers=1, d_state=16, d_conv=4, expand_factor=2, pscan=True))


if __name__ == "__main__":
    main()
