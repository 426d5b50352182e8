"""Fine-tuning and prediction of a model with longer tokens and a head that reads its class token."""

import csv
from pathlib import Path

import numpy as np
import torch

from chargaff.cli.main import main
from chargaff.hub.load import load
from chargaff.seq.alphabet import to_array

RUN = """
[model]
family = "nucleotide_transformer"
[model.config]
vocab_size = 75
hidden_size = 8
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 8
[task]
kind = "sequence"
[data]
kind = "files"
train = "train.csv"
test = "test.csv"
padding = "left"
[train]
epochs = 1
batch = 16
[out]
folder = "out"
"""


def write_table(path: Path, rows: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    sequences = ["".join(rng.choice(list("ACGT"), 40 - int(rng.integers(0, 9)))) for _ in range(rows)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "label"])
        writer.writerows([f"s{i}", sequence, "ab"[i % 2]] for i, sequence in enumerate(sequences))
    return sequences


def test_a_prediction_is_what_the_head_says_of_the_whole_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(Path("train.csv"), 40, 0)
    sequences = write_table(Path("test.csv"), 10, 1)
    Path("run.toml").write_text(RUN)
    assert main(["finetune", "run.toml"]) == 0
    assert main(["predict", "out/model", "test.csv", "--column", "sequence", "-o", "p.tsv"]) == 0
    model = load("out/model", device="cpu")
    assert model.spec.head == "sequence"
    rows = [line.split("\t") for line in Path("p.tsv").read_text().splitlines() if not line.startswith("#")][1:]
    for row, sequence in zip(rows, sequences, strict=True):
        ids = torch.from_numpy(model.tokenizer.encode(to_array(sequence))).unsqueeze(0)
        assert ids[0, 0] == model.tokenizer.cls_id
        with torch.no_grad():
            expected = model(ids).logits.softmax(-1)[0]
        np.testing.assert_allclose([float(value) for value in row[-2:]], expected.numpy(), rtol=1e-4)
