"""Times the DNABERT-2 of the package multimolecule; runs in the peers' environment.

Arguments: threads, folder with `weights` and `ids.npz`, batch size. Reads lines "first stop", embeds these sequences in
batches padded to their longest, writes `peer.npy` and answers with {"seconds": ..., "peak_gib": ...}. Driven by
benchmarks/dnabert2.py, so that both sides are measured in turn.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

RENAMED = (
    ("LayerNorm", "layer_norm"),
    ("mlp.gated_layers", "mlp.up_proj"),
    ("mlp.wo", "mlp.down_proj"),
    ("mlp.layernorm", "mlp.layer_norm"),
)
PARTS = ("query", "key", "value")


def main() -> None:
    from multimolecule import DnaBert2Config, DnaBert2Model

    torch.set_num_threads(int(sys.argv[1]))
    folder, batch_size = Path(sys.argv[2]), int(sys.argv[3])
    model = DnaBert2Model(DnaBert2Config(), add_pooling_layer=False).eval()
    model.load_state_dict(renamed(load_file(folder / "weights")), strict=True)
    stored = np.load(folder / "ids.npz")
    rows = np.split(stored["ids"].astype(np.int64), np.cumsum(stored["lengths"])[:-1])
    with torch.inference_mode():
        embed(model, rows[:1])
        for line in sys.stdin:
            first, stop = map(int, line.split())
            begin = time.perf_counter()
            parts = [embed(model, rows[i : min(i + batch_size, stop)]) for i in range(first, stop, batch_size)]
            seconds = time.perf_counter() - begin
            np.save(folder / "peer.npy", np.concatenate(parts))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"seconds": seconds, "peak_gib": peak}), flush=True)


def embed(model: torch.nn.Module, rows: list[np.ndarray]) -> np.ndarray:
    """[B, D] means over all tokens of each row."""
    longest = max(len(row) for row in rows)
    ids = np.stack([np.pad(row, (0, longest - len(row)), constant_values=3) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    states = model(torch.from_numpy(ids), attention_mask=mask).last_hidden_state
    return ((states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)).numpy()


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published names as the peer's."""
    found = {}
    for name, tensor in state.items():
        for ours, theirs in RENAMED:
            name = name.replace(ours, theirs)
        if "Wqkv" in name:
            found |= {name.replace("Wqkv", part): piece for part, piece in zip(PARTS, tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor
    return found


if __name__ == "__main__":
    main()
