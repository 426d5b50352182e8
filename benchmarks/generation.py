"""Time to generate one more base after contexts of 1,000 to 100,000, for every family that carries a state."""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from chargaff.families import list_families
from chargaff.hub.load import create

THREADS, WARM_UP, STEPS = 2, 3, 15
CONTEXTS = (1_000, 4_000, 16_000, 64_000, 100_000)
CHUNK = 8192
_HYENA_LAYER = {"l_max": 100_100, "emb_dim": 5, "filter_order": 64, "w": 10, "lr_pos_emb": 0.0}
# family -> (config of about the same width and depth, longest context worth waiting for, whether time must not grow)
MODELS: dict[str, tuple[dict[str, Any], int, bool]] = {
    "mamba": ({"d_model": 256, "n_layer": 4, "vocab_size": 12}, 100_000, True),
    "xlstm": ({"d_model": 256, "n_layer": 4, "max_length": 100_100}, 100_000, True),
    "llama": ({"d_model": 256, "n_layer": 4, "n_heads": 8, "max_length": 100_100}, 16_000, False),
    "hyenadna": ({"d_model": 256, "n_layer": 4, "layer": _HYENA_LAYER, "pad_vocab_size_multiple": 8}, 100_000, False),
}
GROWTH = 1.5
"""Time after a long context over that after the shortest that still counts as constant: steps take milliseconds."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    rows = []
    for family, (config, longest, is_constant) in MODELS.items():
        if family not in list_families():
            continue
        backbone: Any = create(family, config, head="lm", seed=0).eval().backbone
        if not hasattr(backbone, "forward_chunk"):
            continue
        first = None
        for context in (length for length in CONTEXTS if length <= longest):
            seconds = _step_seconds(backbone, context)
            first = first or seconds
            row = {"case": f"{family}, after {context} bases", "ms a base": round(1000 * seconds, 2)}
            row["times that after 1000"] = round(seconds / first, 2)
            if is_constant:
                row |= {"at most": GROWTH, "met": seconds <= GROWTH * first}
            rows.append(row)
    notes = [
        f"4 layers of width 256, batch 1, random weights, {THREADS} threads; medians of {STEPS} steps; Mamba and xLSTM "
        "carry a state of fixed size, attention keeps keys and values, HyenaDNA the inputs of its convolutions",
    ]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


@torch.inference_mode()
def _step_seconds(backbone: Any, context: int) -> float:
    """Median time of one step after `context` random bases."""
    tokens = torch.randint(7, 11, (1, context), generator=torch.Generator().manual_seed(0))
    state = backbone.init_state(1)
    for piece in torch.split(tokens, CHUNK if backbone.rule.max_tokens is None else context, 1):
        _, state = backbone.forward_chunk(piece, state)
    times = []
    for _ in range(WARM_UP + STEPS):
        begin = time.perf_counter()
        _, state = backbone.forward_chunk(tokens[:, :1], state)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UP:])


if __name__ == "__main__":
    main()
