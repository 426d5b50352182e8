"""The demo runs from end to end, and finds the places it says it reads."""

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from examples import demo

MODELS = ["Caduceus-PS mini, fine-tuned", "CNN", "k-mer regression"]


@pytest.mark.slow
def test_the_smoke_run_does_every_step(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "examples/demo.py", "--smoke", "-o", str(out)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.strip().splitlines()
    assert lines[-1].endswith("annotation/index.html")
    assert lines[-2].endswith("report.html")
    assert [line.split("  ")[0] for line in lines[-5:-2]] == MODELS
    page = (out / "report" / "report.html").read_text()
    assert "Every GT of NOP56" in page
    assert "Contigs of six bacteria" in page
    results = json.loads((out / "results.json").read_text())
    assert results["is_smoke"]
    assert list(results["scores"]) == MODELS
    assert results["notes"]["annotation, CDS"]["inside"] > 0
    assert demo.FUNGUS.name in (out / "annotation" / "index.html").read_text()


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


def test_candidates_are_the_dinucleotides_of_the_gene():
    text = "GTCCAGGTAAGT"
    found = list(demo.candidates(text, 2, len(text), step=1))
    assert found == [("donor", 6), ("donor", 10), ("acceptor", 6), ("acceptor", 11)]
    for kind, boundary in found:
        pair = text[boundary : boundary + 2] if kind == "donor" else text[boundary - 2 : boundary]
        assert pair == demo.DINUCLEOTIDE[kind]
