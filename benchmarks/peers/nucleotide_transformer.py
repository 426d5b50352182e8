"""Runs ESM of the package transformers as the Nucleotide Transformer; in the peers' environment.

Arguments: folder, threads. The folder holds config.json, ids.npy, lengths.npy; weights are written there on the first
line of standard input. Every further line names a pass ("part" of the sequences as JSON [begin, end], or "tokens" for
the logits of a batch without padding) and is answered with {"seconds": ...}. Driven by
benchmarks/nucleotide_transformer.py, so that both sides are measured in turn.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

BATCH = 8


class GatedIntermediate(nn.Module):
    """The feed-forward part of v2, which the package has not."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 2 * inner, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.dense(x).chunk(2, -1)
        return nn.functional.silu(gate) * value


def build(values: dict[str, Any]) -> nn.Module:
    from transformers import EsmConfig, EsmForMaskedLM

    model = EsmForMaskedLM(EsmConfig(**{key: value for key, value in values.items() if key != "add_bias_fnn"}))
    if values.get("add_bias_fnn") is False:
        for layer in model.esm.encoder.layer:
            layer.intermediate = GatedIntermediate(values["hidden_size"], values["intermediate_size"])
            layer.output.dense = nn.Linear(values["intermediate_size"], values["hidden_size"], bias=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name and "layer_norm" not in name:
                parameter.normal_(0, 0.03)
    return model.eval()


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    model = build(json.loads((folder / "config.json").read_text()))
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    ids, lengths = torch.from_numpy(np.load(folder / "ids.npy")), np.load(folder / "lengths.npy")
    for line in sys.stdin:
        kind, *bounds = json.loads(line)
        begin = time.perf_counter()
        with torch.inference_mode():
            if kind == "logits":
                found = model(ids[: bounds[0], : bounds[1]]).logits
            else:
                found = mean_states(model, ids, lengths, *bounds)
        seconds = time.perf_counter() - begin
        np.save(folder / "peer.npy", found.numpy())
        print(json.dumps({"seconds": seconds}), flush=True)


def mean_states(model: nn.Module, ids: torch.Tensor, lengths: np.ndarray, first: int, stop: int) -> torch.Tensor:
    """Mean final state of the tokens behind <cls>, in batches padded to the longest."""
    pieces = []
    for start in range(first, stop, BATCH):
        rows = slice(start, min(start + BATCH, stop))
        longest = int(lengths[rows].max())
        mask = (torch.arange(longest) < torch.from_numpy(lengths[rows]).unsqueeze(1)).long()
        hidden = model.esm(ids[rows, :longest], attention_mask=mask).last_hidden_state
        mask[:, 0] = 0
        pieces.append((hidden * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(pieces)


if __name__ == "__main__":
    main()
