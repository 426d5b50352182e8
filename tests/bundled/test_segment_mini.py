"""The annotators that come with the package: small, sealed, described, strand-aware, and as good as they say."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from sklearn.metrics import matthews_corrcoef

from chargaff.cli.main import ExitCode, main
from chargaff.data.annotation import read_annotation
from chargaff.hub.catalog import get_checkpoint, list_checkpoints
from chargaff.hub.load import load
from chargaff.workflows.segment import SegmentOptions, compute_part, plan_segmenting
from examples.annotator.cards import ANNOTATORS, card

DATA = REPOSITORY / "examples" / "data"
SHIPPED = [row.name for row in list_checkpoints() if row.package_folder is not None and row.head == "token"]


@pytest.fixture(params=SHIPPED)
def row(request):
    return get_checkpoint(request.param)


@pytest.fixture
def record(row):
    return json.loads((row.package_folder / "training.json").read_text())


@pytest.fixture
def model(row):
    return load(row.name, device="cpu", offline=True)


def test_the_fungal_annotator_is_among_them():
    assert "chargaff-segment-mini" in SHIPPED
    assert set(SHIPPED) <= set(ANNOTATORS)


def test_the_file_is_small_and_the_recorded_one(row):
    assert (row.package_folder / "model.safetensors").stat().st_size <= 2_500_000
    for name, sha256 in row.files.items():
        assert hashlib.sha256((row.package_folder / name).read_bytes()).hexdigest() == sha256


def test_it_loads_without_network_and_is_what_its_row_says(row, model, record):
    assert model.spec.name == row.name
    assert model.spec.labels == row.labels == tuple(record["elements"])
    assert model.spec.context_bp == row.context_bp
    assert model.spec.licence == row.licence
    assert {name: round(least, 4) for name, least in model.spec.thresholds.items()} == {
        name: scores["threshold"] for name, scores in record["held_out"].items()
    }
    assert sum(parameter.numel() for parameter in model.parameters()) == row.params


def test_no_file_tells_where_it_was_made(row):
    for path in row.package_folder.iterdir():
        if path.suffix in (".json", ".md"):
            assert not re.search(r"(?<![\w.])/(tmp|home|root|work)/", path.read_text()), path.name


@torch.inference_mode()
def test_the_other_strand_has_the_swapped_answers(model):
    tokens = torch.randint(7, 11, (1, 301), dtype=torch.uint8)
    swapped = [model.spec.labels.index(name[:-1] + ("-" if name[-1] == "+" else "+")) for name in model.spec.labels]
    other = model(model.reverse_complement(tokens)).logits.flip(1)[..., swapped]
    assert torch.allclose(model(tokens).logits, other, atol=1e-4)


def test_the_card_is_the_record_and_a_page_of_the_documentation(row, record):
    text = (row.package_folder / "README.md").read_text()
    assert text == card(record)
    assert (REPOSITORY / "docs" / "models" / f"{row.name}.md").read_text() == text
    assert f"models/{row.name}.md" in (REPOSITORY / "mkdocs.yml").read_text()
    for name, scores in record["held_out"].items():
        assert f"| `{name}` | {scores['mcc']:.3f} | {scores['auprc']:.3f} |" in text


def test_the_models_verb_prints_the_essentials(row, record, capsys):
    assert main(["models", row.name]) == ExitCode.DONE
    out = capsys.readouterr().out
    for name, scores in record["held_out"].items():
        assert f"{name}: {scores['mcc']:.3f}" in out
    assert f"steps: {record['steps']:,}" in out
    assert "README.md" in out


def test_a_held_out_figure_of_the_card_can_be_recomputed(model, record):
    """MCC of every element on the held-out place that is in the repository."""
    found = record.get("region")
    if found is None:
        pytest.skip("no held-out place of this genome is in the repository")
    job = plan_segmenting(model, DATA / found["fasta"], SegmentOptions())
    annotation = read_annotation(DATA / found["annotation"], model.spec.labels, job.genome)
    values = np.concatenate([part for parts in job.parts for part in compute_part(job, parts)], axis=1)
    truth = annotation.labels(0, 0, job.genome.lengths[found["record"]]).T
    assert values.shape == truth.shape
    for number, name in enumerate(model.spec.labels):
        mcc = matthews_corrcoef(truth[number], values[number] >= model.spec.thresholds[name])
        assert mcc == pytest.approx(found["test"][name]["mcc"], abs=2e-3), name
    assert found["record"] in (REPOSITORY / "docs" / "models" / f"{model.spec.name}.md").read_text()
