"""The model that comes with the package: small, sealed, described, the default of the verbs, and as good as it says."""

import hashlib
import json
import math
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REPOSITORY

from chargaff.cli.main import ExitCode, main
from chargaff.hub.catalog import DEFAULT_MODEL, get_checkpoint
from chargaff.hub.load import load
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import BASE_CODE, translate
from chargaff.train.runs import ModelTable
from chargaff.workflows.training import open_model

sys.path.insert(0, str(REPOSITORY / "examples" / "mini"))
from card import card

HELD_OUT_SLICE = "chr20_2600001_2700000"
"""100 kb of human 20:1-11 Mb, in examples/data."""


@pytest.fixture(scope="module")
def row():
    return get_checkpoint(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def record(row):
    return json.loads((row.package_folder / "training.json").read_text())


@pytest.fixture(scope="module")
def model():
    return load(DEFAULT_MODEL, device="cpu", offline=True)


def test_the_file_is_small_and_the_recorded_one(row):
    weights = row.package_folder / "model.safetensors"
    assert weights.stat().st_size <= 2_500_000
    for name, sha256 in row.files.items():
        assert hashlib.sha256((row.package_folder / name).read_bytes()).hexdigest() == sha256


def test_it_loads_without_network_and_keeps_its_strand_contract(model, capsys):
    assert model.spec.strands == "equivariant"
    assert sum(parameter.numel() for parameter in model.parameters()) == 492_160
    assert main(["doctor", "--strands", "--device", "cpu"]) == ExitCode.DONE
    assert capsys.readouterr().out.count(": kept") == 3


def test_the_card_is_the_record(row, record):
    assert (row.package_folder / "README.md").read_text() == card(record)


def test_the_card_is_a_page_of_the_documentation(row):
    page = REPOSITORY / "docs" / "models" / f"{DEFAULT_MODEL}.md"
    assert page.read_text() == (row.package_folder / "README.md").read_text()


def test_the_models_verb_prints_the_essentials(capsys, record):
    assert main(["models", DEFAULT_MODEL]) == ExitCode.DONE
    out = capsys.readouterr().out
    human = record["held_out"]["Homo_sapiens"]["15 %"]["model"]["nats"]
    assert f"Homo sapiens: {human:.3f}" in out
    for stage in record["stages"]:
        assert f"steps: {stage['steps']:,}" in out
    human = record["held_out"]["Homo_sapiens"]["1 in 64"]["counts, all seen"]["nats"]
    assert f"bases on either side {human:.3f})" in out
    assert "README.md" in out


def test_every_organism_of_the_record_is_better_than_its_base_composition(record):
    for species, rates in record["held_out"].items():
        for found in (rates["15 %"], rates["1 in 64"]):
            assert found["model"]["nats"] < found["composition"]["nats"], species


@torch.inference_mode()
def test_a_held_out_figure_of_the_card_can_be_recomputed(model, record):
    """Human, 15 % hidden, on 100 kb of the 10 Mb."""
    bases = translate(Genome(REPOSITORY / "examples" / "data" / "chr20_slices.fa.gz").fetch(HELD_OUT_SLICE), BASE_CODE)
    windows = bases[: len(bases) // 1024 * 1024].reshape(-1, 1024)
    hidden = (np.random.default_rng(1).random(windows.shape) < 0.15) & (windows < 4)
    ids = np.array([model.tokenizer.vocab.index(letter) for letter in "ACGTN"])
    tokens = torch.from_numpy(ids[windows]).masked_fill(torch.from_numpy(hidden), int(model.tokenizer.mask_id))
    logits = torch.cat([model(part).logits[..., ids[:4]] for part in tokens.split(16)])
    nats = torch.nn.functional.cross_entropy(
        logits[torch.from_numpy(hidden)].double(), torch.from_numpy(windows[hidden].astype(np.int64))
    ).item()
    piece = record["slice"]
    assert piece["record"] == HELD_OUT_SLICE
    assert nats == pytest.approx(piece["nats"], abs=2e-4)
    assert f"{piece['nats']:.3f} nats" in (REPOSITORY / "docs" / "models" / f"{DEFAULT_MODEL}.md").read_text()


def test_verbs_take_it_when_no_model_is_named(tmp_path, caplog, capsys):
    fasta = tmp_path / "a.fa"
    fasta.write_text(">one\n" + "ACGTTGCA" * 30 + "\n>two\nGATTACA\n")
    assert main(["embed", str(fasta), "-o", str(tmp_path / "a.parquet")]) == ExitCode.DONE
    assert capsys.readouterr().err.count(f"model: {DEFAULT_MODEL}, which comes with chargaff") == 1
    assert len(pq.read_table(tmp_path / "a.parquet")["embedding"][0].as_py()) == 128
    assert main(["score", str(fasta), "-o", str(tmp_path / "a.tsv")]) == ExitCode.DONE
    scores = [line for line in (tmp_path / "a.tsv").read_text().splitlines() if not line.startswith("#")]
    assert len(scores) == 1 + 240 + 7
    assert main(["export", "-o", str(tmp_path / "hub")]) == ExitCode.DONE
    again = load(tmp_path / "hub", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(load(DEFAULT_MODEL).parameters(), again.parameters(), strict=True))


def test_predict_says_that_it_has_not_been_fine_tuned(tmp_path, capsys):
    fasta = tmp_path / "a.fa"
    fasta.write_text(">one\nACGT\n")
    assert main(["predict", str(fasta), "-o", str(tmp_path / "a.tsv")]) == ExitCode.USER_ERROR
    assert "finetune" in capsys.readouterr().err


def test_it_has_no_revisions(capsys):
    assert main(["models", f"{DEFAULT_MODEL}@1"]) == ExitCode.USER_ERROR
    assert "has no revisions" in capsys.readouterr().err


def test_one_base_has_an_embedding(model):
    tokens = torch.from_numpy(model.tokenizer.encode(np.frombuffer(b"A", np.uint8), special=False).astype(np.int64))
    hidden = model.encode(tokens[None]).hidden
    assert hidden.shape[1] == 1
    assert math.isfinite(hidden.sum().item())


def test_what_is_trained_from_it_is_no_copy_of_it(tmp_path):
    """The note that names what an unaltered weight file is a copy of does not go on into other weights."""
    copy = shutil.copytree(get_checkpoint(DEFAULT_MODEL).package_folder, tmp_path / "copy")
    about = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(about | {"licence": ""}))
    assert load(copy).spec.notes["copy_of"] == DEFAULT_MODEL
    model = open_model(ModelTable(name=str(copy)), seed=0, head=None)
    assert "copy_of" not in model.spec.notes
    assert model.spec.licence == "Apache-2.0"
