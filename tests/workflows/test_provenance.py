"""Provenance: what a result says about where it comes from."""

import json
from dataclasses import dataclass

import numpy as np
import torch

from chargaff import __version__
from chargaff.workflows.provenance import hash_weights, provenance
from tests.workflows.toy import tiny_model


@dataclass(frozen=True)
class Options:
    pooling: str
    window: np.int64
    dtype: torch.dtype


def test_a_record_is_plain_json_and_the_same_twice(tmp_path):
    file = tmp_path / "x.fa"
    file.write_bytes(b">a\nACGT\n")
    options = {"reading": Options("mean", np.int64(5), torch.float32), "seeds": (1, 2), "none": None}
    first, second = (provenance(tiny_model(), inputs=[file], options=options) for _ in range(2))
    assert first == second == json.loads(json.dumps(first))
    assert first["chargaff"] == __version__
    sha256 = "ec93753459551ffadb17f616d5e6bd45de641c045083fac84c4fa223987b232b"
    assert first["inputs"] == [{"name": "x.fa", "bytes": 8, "sha256": sha256}]
    assert first["options"] == {
        "reading": {"pooling": "mean", "window": 5, "dtype": "torch.float32"},
        "seeds": [1, 2],
        "none": None,
    }
    assert first["model"]["strands"] == "equivariant"
    assert first["device"]["type"] == "cpu"


def test_the_hash_of_weights_sees_every_value_and_name():
    model = tiny_model()
    before = hash_weights(model)
    assert hash_weights(tiny_model()) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert hash_weights(model) != before
    assert hash_weights(tiny_model("ps-even")) != before
