"""`chargaff report` of runs that label single bases: the run's own numbers, every element, curves from all bases."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chargaff.cli.main import ExitCode, main
from chargaff.report.statistics import Calibration
from chargaff.tasks.segmentation import BINS, count_scores
from chargaff.workflows.report import write_report
from chargaff.workflows.report_elements import read_elements
from chargaff.workflows.run_folder import read_run
from tests.report.browser import browser
from tests.report.runs import ELEMENTS, annotator, finetuned
from tests.report.test_report import OUTSIDE, OVERLAPS, SMALLEST, read


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("annotator")


@pytest.fixture(scope="module")
def run(place) -> Path:
    return annotator(place / "test")


@pytest.fixture(scope="module")
def report(run, place):
    return write_report(run, place / "report")


def recorded(run: Path, split: str) -> list[dict]:
    return [row for row in pq.read_table(run / "elements.parquet").to_pylist() if row["split"] == split]


def test_scores_are_those_the_run_has_recorded(run, report):
    (scores,) = report.elements.values()
    assert tuple(scores) == ELEMENTS
    for name in ELEMENTS:
        rows = [row for row in recorded(run, "test") if row["element"] == name]
        assert [row["seed"] for row in rows] == [1, 2]
        for score, value in scores[name].items():
            assert value == pytest.approx(np.mean([row[score] for row in rows]))
    stored = json.loads((report.page.parent / "report.json").read_text())
    assert stored["elements"]["run"] == scores
    assert stored["scores"] == {}


def test_counts_of_the_run_make_its_scores(run):
    """counts.parquet holds every judged base once, and MCC and area follow from it."""
    table = pq.read_table(run / "counts.parquet").to_pylist()
    for row in pq.read_table(run / "elements.parquet").to_pylist():
        counts = np.zeros((2, BINS))
        for part in table:
            if all(part[key] == row[key] for key in ("seed", "split", "element")):
                counts[:, round(part["probability"] * BINS)] += part["outside"], part["inside"]
        assert counts.sum() == 4000
        found = count_scores(counts[1], counts[0])
        for score in ("mcc", "auprc", "f1", "calibration_error", "bases"):
            assert found[score] == pytest.approx(row[score], nan_ok=True)


def test_everything_is_on_the_page(run, report):
    page = read(report)
    text = " ".join(" ".join(page.words).split())
    for part in ("Elements", "Precision and recall", "Calibration", "Fine-tuning: run", "Provenance", "genes.bed"):
        assert part in text
    for name in ELEMENTS:
        assert name in text
    mean = np.mean([row["mcc"] for row in recorded(run, "test")])
    assert f"Test MCC {mean:.3f}".replace("-", "−") in text
    names = {path.name for path in (report.page.parent / "figures").glob("*.svg")}
    assert sum("-pr-" in name for name in names) == sum("-calibration-" in name for name in names) == 2
    assert any("-loss" in name for name in names)
    assert any("-auprc" in name for name in names)


def test_a_browser_shows_it_on_every_screen(report):
    with browser() as tab:
        for width in (390, 1280):
            tab.open(report.page, width=width)
            assert tab.requests() == []
            assert tab.complaints() == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate("document.querySelectorAll('figure svg').length") >= 6
            assert tab.evaluate(OVERLAPS) == []
            assert tab.evaluate(OUTSIDE) == []
            assert tab.evaluate(SMALLEST) >= 8


def test_without_test_windows_the_validation_ones_are_shown(place):
    run = annotator(place / "valid", seeds=1, has_test=False)
    found = read_elements(read_run(run))
    assert found.split == "valid"
    text = " ".join(read(write_report(run, place / "valid-report")).words)
    assert "Scores of each element on the validation windows" in text


def test_a_run_without_counts_says_that_curves_are_missing(run, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        if path.name != "counts.parquet":
            (copy / path.name).symlink_to(path)
    text = " ".join(read(write_report(copy, tmp_path / "report")).words)
    assert "no curves can be drawn" in text
    assert ELEMENTS[2] in text


def test_it_stands_beside_other_runs(run, place, tmp_path):
    other = finetuned(place / "classes", "classes", seeds=1)
    page = read(write_report([other, run], tmp_path / "report"))
    assert not [name for name, count in page.ids.items() if count > 1]
    text = " ".join(page.words)
    assert "Test scores" in text
    assert "Scores of each element on the test windows" in text


def test_what_is_wrong_is_told_in_one_line(run, tmp_path, capsys):
    broken = tmp_path / "run"
    broken.mkdir()
    for path in run.iterdir():
        if path.name != "elements.parquet":
            (broken / path.name).symlink_to(path)
    pq.write_table(pa.table({"seed": [1], "element": ["gene+"]}), broken / "elements.parquet")
    assert main(["report", str(broken), "-o", str(tmp_path / "out")]) == ExitCode.USER_ERROR
    assert "has no column auprc, bases, mcc, split" in capsys.readouterr().err
    assert main(["report", str(run), "-o", str(tmp_path / "out"), "--kmers"]) == ExitCode.USER_ERROR
    assert "has no test predictions to compare with" in capsys.readouterr().err


def test_weights_count_events_several_times():
    probability, is_right = np.array([0.1, 0.7, 0.9]), np.array([False, True, True])
    times = np.array([3, 1, 2])
    one, other = (
        Calibration.of(probability, is_right, weight=times.astype(float)),
        Calibration.of(np.repeat(probability, times), np.repeat(is_right, times)),
    )
    for name in ("counts", "stated", "observed", "low", "high", "error"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), equal_nan=True)
