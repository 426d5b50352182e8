"""The networks of the PyPI package `spliceai` in PyTorch, as their files describe them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chargaff.seq.alphabet import BASE_CODE, translate

MODELS = tuple(f"spliceai/models/spliceai{number}.h5" for number in range(1, 6))


class SpliceAI:
    """Mean of several networks; each file holds a graph of layers (Keras, `model_config`) and their weights."""

    reach_bp = 5000
    """Read on either side of the first and last base that is answered."""

    def __init__(self, paths: list[Path]) -> None:
        self.graphs = [read_graph(path) for path in paths]

    @torch.inference_mode()
    def probabilities(self, bases: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[L - 2 * reach_bp, 2] of an acceptor (first base of an exon) and a donor (last base of one)."""
        one_hot = np.eye(5, 4, dtype=np.float32)[translate(bases, BASE_CODE)]
        x = torch.from_numpy(one_hot).T[None]  # [1, 4, L]
        found = torch.stack([run_graph(layers, x)[0, 1:] for layers in self.graphs]).mean(0)
        answers: NDArray[np.float32] = found.T.numpy()
        return answers


def read_graph(path: Path) -> list[dict[str, Any]]:
    """Layers in order, each with the names of its inputs and its weights.

    A convolution's [kernel, in, out] is turned to [out, in, kernel]; a batch normalisation is a scale and a shift.
    """
    try:
        import h5py
    except ImportError:
        raise SystemExit("reading the networks needs h5py: pip install h5py") from None
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])["config"]
        return [
            {
                "kind": layer["class_name"],
                "name": layer["name"],
                "inputs": [node[0] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else [],
                **_parameters(layer["class_name"], layer["config"], file["model_weights"][layer["name"]]),
            }
            for layer in config["layers"]
        ]


def _parameters(kind: str, config: dict[str, Any], group: Any) -> dict[str, Any]:
    found: dict[str, NDArray[np.float32]] = {}
    group.visititems(
        lambda name, item: found.update({Path(name).name.split(":")[0]: item[()]}) if hasattr(item, "shape") else None
    )
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}
    if kind == "Conv1D":
        (dilation,), (kernel,) = config["dilation_rate"], config["kernel_size"]
        padding = dilation * (kernel - 1) // 2 if config["padding"] == "same" else 0
        weight = tensors["kernel"].permute(2, 1, 0).contiguous()
        facts = {"weight": weight, "bias": tensors["bias"], "dilation": dilation, "padding": padding}
        return facts | {"activation": config["activation"]}
    if kind == "BatchNormalization":
        scale = tensors["gamma"] * torch.rsqrt(tensors["moving_variance"] + config["epsilon"])
        return {"scale": scale[:, None], "shift": (tensors["beta"] - tensors["moving_mean"] * scale)[:, None]}
    if kind == "Cropping1D":
        return {"crop": config["cropping"]}
    if kind == "Activation" and config["activation"] != "relu":
        raise SystemExit(f"spliceai: unexpected activation {config['activation']}")
    return {}


def run_graph(layers: list[dict[str, Any]], x: Tensor) -> Tensor:
    """[1, 3, L] probabilities (neither, acceptor, donor) of [1, 4, L]."""
    values: dict[str, Tensor] = {}
    last_use = {name: place for place, layer in enumerate(layers) for name in layer["inputs"]}
    for place, layer in enumerate(layers):
        inputs = [values[name] for name in layer["inputs"]]
        match layer["kind"]:
            case "InputLayer":
                out = x
            case "Conv1D":
                out = F.conv1d(
                    inputs[0], layer["weight"], layer["bias"], padding=layer["padding"], dilation=layer["dilation"]
                )
                out = out.softmax(1) if layer["activation"] == "softmax" else out
            case "BatchNormalization":
                out = torch.addcmul(layer["shift"], inputs[0], layer["scale"])
            case "Activation":
                out = inputs[0].relu()
            case "Add":
                out = inputs[0] + inputs[1]
            case "Cropping1D":
                left, right = layer["crop"]
                out = inputs[0][..., left : inputs[0].shape[-1] - right]
            case kind:
                raise SystemExit(f"spliceai: unexpected layer {kind}")
        values[layer["name"]] = out
        for name in layer["inputs"]:
            if last_use[name] == place:
                del values[name]
    return out
