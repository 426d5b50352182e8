"""The demo runs from end to end; its helpers compute what they say."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from sklearn.metrics import matthews_corrcoef

from examples import demo

FIGURES = {"NOP56", "confusion_CNN", "confusion_Caduceus-PS", "confusion_k-mer_regression", "embedding_pca"}
FIGURES |= {"loss_cnn", "loss_pretrain", "loss_splice", "roc_pr"}


@pytest.mark.slow
def test_the_smoke_run_does_every_step(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "examples/demo.py", "--smoke", "-o", str(out)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.strip().splitlines()
    assert lines[-1].endswith(f"{out.name}/")
    assert [line.split("  ")[0] for line in lines[-4:-1]] == ["Caduceus-PS", "CNN", "k-mer regression"]
    assert {path.stem for path in out.glob("*.png")} == FIGURES
    results = json.loads((out / "results.json").read_text())
    assert results["is_smoke"]
    assert set(results["scores"]) == {"Caduceus-PS", "CNN", "k-mer regression"}


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="holds files that are not the demo's"):
        demo.prepare_folder(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_an_older_demo_is_replaced(tmp_path):
    out = tmp_path / "demo-out"
    demo.prepare_folder(out)
    (out / "old.png").touch()
    demo.prepare_folder(out)
    assert [path.name for path in out.iterdir()] == [demo.MARKER]


def test_mcc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        target, predicted = rng.integers(0, 3, (2, 40))
        counts = np.zeros((3, 3), int)
        np.add.at(counts, (target, predicted), 1)
        assert demo.mcc(counts) == pytest.approx(matthews_corrcoef(target, predicted), abs=1e-12)
    assert demo.mcc(np.array([[5, 0], [5, 0]])) == 0


def test_the_interval_holds_the_value_and_shrinks_with_more_data():
    few, many = np.array([[30, 10], [10, 30]]), np.array([[3000, 1000], [1000, 3000]])
    for counts in (few, many):
        low, high = demo.mcc_interval(counts)
        assert low < demo.mcc(counts) < high
    widths = [np.diff(demo.mcc_interval(counts))[0] for counts in (few, many)]
    # a hundred times the data: a tenth of the width
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.1)


def test_the_nearest_neighbour_is_another_row():
    vectors = np.array([[0.0, 0], [0.1, 0], [5, 5], [5.1, 5], [0.2, 0]])
    assert demo.neighbour_accuracy(vectors, ["a", "a", "b", "b", "b"]) == pytest.approx(0.8)


def test_candidates_are_the_dinucleotides_of_the_gene():
    text = "GTCCAGGTAAGT"
    found = list(demo.candidates(text, 2, len(text), step=1))
    assert found == [("donor", 6), ("donor", 10), ("acceptor", 6), ("acceptor", 11)]
    for kind, boundary in found:
        pair = text[boundary : boundary + 2] if kind == "donor" else text[boundary - 2 : boundary]
        assert pair == demo.DINUCLEOTIDE[kind]
