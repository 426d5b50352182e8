"""`chargaff report`: true numbers, one file without a network, equal bytes, one line for everything that is wrong."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chargaff.cli.main import ExitCode, main
from chargaff.errors import ConfigError, InputError
from chargaff.report.panels import draw_comparison
from chargaff.workflows.answers import Answers, answers_of_run, read_answers
from chargaff.workflows.report import MapSource, Report, ReportOptions, write_report
from chargaff.workflows.run_folder import read_run
from tests.report.browser import browser
from tests.report.runs import CLASSES, MARKS, TARGETS, finetuned, pretrained

KINDS = list(TARGETS)
FEW = ReportOptions(repeats=30)
SPECIES = ("E. coli", "<i>B</i> & co", "H. pylori")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(place) -> dict[str, Path]:
    return {kind: finetuned(place / kind, kind) for kind in KINDS} | {"pretrain": pretrained(place / "pretrain")}


@pytest.fixture(scope="module")
def embeddings(place) -> Path:
    """Three groups of records, and a table that names them in another order."""
    rng = np.random.default_rng(0)
    group = np.arange(45) % 3
    vectors = (rng.normal(size=(45, 6)) + 6 * np.eye(6)[group]).astype(np.float32)
    ids = [f"contig{row}" for row in range(45)]
    path = place / "contigs.parquet"
    pq.write_table(pa.table({"id": ids, "embedding": list(vectors)}), path)
    rows = [f'{name},"{SPECIES[number]}"\n' for name, number in zip(ids, group, strict=True)]
    (place / "species.csv").write_text("name,species\n" + "".join(reversed(rows)))
    return path


@pytest.fixture(scope="module")
def report(place, runs, embeddings) -> Report:
    """A report with everything in it."""
    other = finetuned(place / "other", "classes", seeds=1)
    source = MapSource(embeddings, "species", place / "species.csv")
    options = ReportOptions(
        title="All <of> it", name="Mamba & co", groups="block", references={"chance": 1.39}, repeats=30
    )
    return write_report(
        [runs["classes"], runs["pretrain"]],
        place / "whole",
        baselines={"second <run>": other},
        has_kmers=True,
        maps=[source],
        options=options,
    )


class Reader(HTMLParser):
    """Collects what a test asks about, and requires that elements are closed in order."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        values = dict(attrs)
        self.ids.update([values["id"]] if "id" in values else [])
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(report: Report) -> Reader:
    return Reader(report.page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_the_run_has_recorded(kind, runs, tmp_path):
    report = write_report(runs[kind], tmp_path / "report", options=FEW)
    recorded = pq.read_table(runs[kind] / "results.parquet").to_pydict()
    (scores,) = report.scores.values()
    for name, score in scores.items():
        # probabilities are stored in float32
        expected = recorded[f"test_{name}"]
        assert list(score["seeds"].values()) == pytest.approx(expected, rel=1e-5, abs=1e-6), name
        assert score["mean"] == pytest.approx(np.mean(expected), rel=1e-5, abs=1e-6)
        assert score["spread"] == pytest.approx(np.std(expected, ddof=1), rel=1e-3, abs=1e-6)
        low, high = score["interval"]
        assert low <= high
    stored = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(stored["scores"][runs[kind].name]) == set(scores)


def test_equal_runs_give_equal_bytes(runs, embeddings, tmp_path):
    for name in ("one", "two"):
        write_report(runs["binary"], tmp_path / name, has_kmers=True, maps=[MapSource(embeddings)], options=FEW)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 12
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_everything_is_on_the_page(report):
    page = read(report)
    text = " ".join(page.words)
    for part in ("Test scores", "ROC and precision-recall", "Confusion", "Classes", "Calibration", "Provenance"):
        assert part in text
    assert "Fine-tuning: run" in text
    assert "Pre-training: run" in text
    assert "k-mer regression" in text
    assert re.search(r"\b[0-9a-f]{64}\b", text), "checksums of the inputs"
    assert not [name for name, count in page.ids.items() if count > 1]


def test_names_are_text_wherever_they_stand(report):
    page = read(report)
    assert page.tags["b"] == page.tags["i"] + 5, "the five tiles alone are bold"
    assert page.tags["i"] == 0
    text = "".join(page.words)
    for name in (*CLASSES, *SPECIES, "second <run>", "Mamba & co", "All <of> it"):
        assert name in text, name


def test_the_file_needs_no_other(report):
    text = report.page.read_text(encoding="utf-8")
    page = read(report)
    assert page.tags["script"] == page.tags["img"] == page.tags["iframe"] == 0
    outside = [link for link in page.links if not link.startswith(("#", "data:"))]
    assert all((report.page.parent / link).is_file() for link in outside)
    assert set(outside) == {f"figures/{path.name}" for path in (report.page.parent / "figures").iterdir()}
    assert not re.search(r"@import|@font-face|url\((?!#)", text)
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


def test_each_figure_lies_beside_the_page(report):
    folder = report.page.parent / "figures"
    pictures = sorted(folder.glob("*.svg"))
    assert len(pictures) >= 18
    for path in pictures:
        root = ET.fromstring(path.read_bytes())
        assert root.tag.endswith("svg")
        assert len(list(root.iter())) > 10
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def luminance(code: str) -> float:
    parts = np.array([int(code[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, two: str) -> float:
    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(report, scheme):
    """WCAG 2.1: 4.5 for text, 3 for lines and points."""
    blocks = re.findall(r":root \{(.*?)\}", report.page.read_text(encoding="utf-8"), flags=re.S)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[scheme]))
    for name in ("ink", "muted", "link"):
        assert min(contrast(colours[name], colours[ground]) for ground in ("surface", "page")) >= 4.5, name
    assert contrast(colours["warn"], colours["warn-surface"]) >= 4.5
    series = [name for name in colours if name.startswith("series-")]
    assert len(series) == 8
    assert min(contrast(colours[name], colours["surface"]) for name in series) >= 3


OVERLAPS = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim())
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()])
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 2 &&
    Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 5).map(([b]) => [svg.ariaLabel, a, b]))
})"""
OUTSIDE = """[...document.querySelectorAll('figure svg text')].filter(text => {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect()
  return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 2
}).map(text => text.textContent)"""
SMALLEST = """Math.min(...[...document.querySelectorAll('figure svg text')].map(text => {
  const svg = text.ownerSVGElement
  return parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width
}))"""


def test_a_browser_shows_it_on_every_screen(report, runs, tmp_path):
    """Without a request or a complaint; nothing wider than the screen, no label on another or too small to read."""
    others = [write_report(runs[kind], tmp_path / kind, options=FEW) for kind in ("values", "labels", "binary")]
    with browser() as tab:
        for page in (report.page, *(other.page for other in others)):
            for width in (390, 1280):
                tab.open(page, width=width)
                assert tab.requests() == []
                assert tab.complaints() == []
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                assert tab.evaluate("document.querySelectorAll('figure svg').length") >= 3
                assert tab.evaluate(OVERLAPS) == []
                assert tab.evaluate(OUTSIDE) == []
                assert tab.evaluate(SMALLEST) >= 8
        grounds = []
        for scheme in ("light", "dark"):
            tab.open(report.page, scheme=scheme)
            grounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            line = tab.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
            assert line == tab.evaluate("getComputedStyle(document.body).color")
        assert grounds[0] != grounds[1]


def test_baselines_are_compared_row_by_row(runs, tmp_path):
    """A model beside itself differs by nothing; beside a copy with shuffled answers it is ahead."""
    main_answers = answers_of_run(read_run(runs["classes"]))
    rng = np.random.default_rng(0)
    worse = {1: rng.permutation(main_answers.values[1])}
    shuffled = Answers("noise", "single-label", main_answers.names, main_answers.target, worse)
    baselines = {"twin": runs["classes"], "noise": shuffled}
    report = write_report(runs["classes"], tmp_path / "report", baselines=baselines, options=ReportOptions(repeats=200))
    assert report.scores["twin"] == report.scores["run"]
    text = " ".join(" ".join(read(report).words).split())
    assert re.search(r"twin 0\.000 0\.000 to 0\.000 \S+ not told apart", text)
    assert re.search(r"noise 0\.\d+ 0\.\d+ to \d\.\d+ \S+ higher", text)


def test_a_long_name_stands_beside_its_score_in_two_lines():
    rows = [("Caduceus-PS mini, fine-tuned", [0.9], 0.8, 1.0), ("CNN", [0.8], 0.7, 0.9)]
    words = [text.strip() for text in ET.fromstring(draw_comparison("c", "MCC", rows, alt="").svg).itertext()]
    assert [name for name in ("Caduceus-PS mini,", "fine-tuned", "CNN") if name not in words] == []


def test_classes_in_another_order_are_put_in_place(runs, tmp_path):
    table = pq.read_table(runs["classes"] / "predictions.parquet")
    names = read_answers(runs["classes"] / "predictions.parquet", "x").names
    turned = {name: table[name] for name in ("seed", *(f"p_{name}" for name in reversed(names)))}
    turned["target"] = [names[number] for number in table["target"].to_pylist()]
    pq.write_table(pa.table(turned), tmp_path / "turned.parquet")
    baselines = {"turned": tmp_path / "turned.parquet"}
    report = write_report(runs["classes"], tmp_path / "report", baselines=baselines, options=FEW)
    for name, score in report.scores["turned"].items():
        assert score["mean"] == pytest.approx(report.scores["run"][name]["mean"])


def test_the_map_finds_the_groups(report):
    text = " ".join(" ".join(read(report).words).split())
    assert "100.0% of records" in text
    assert "adjusted Rand 1.000, NMI 1.000" in text


def test_a_run_that_goes_on_can_be_reported(runs, tmp_path, capsys):
    half = tmp_path / "half"
    shutil.copytree(runs["pretrain"], half)
    (half / "result.json").unlink()
    with pytest.raises(InputError, match=r"\(stopped at step 6\); go on with `chargaff pretrain .*run.toml`"):
        write_report(half)
    assert not (half / "report").exists()
    assert main(["report", str(half), "--unfinished"]) == 0
    assert capsys.readouterr().out == f"{half / 'report' / 'report.html'}\n"
    assert "This run is not finished: 6 steps are logged." in (half / "report" / "report.html").read_text()


def test_an_older_report_is_replaced_and_nothing_else(runs, tmp_path):
    report = write_report(runs["pretrain"], tmp_path / "report", options=ReportOptions(title="first"))
    (report.page.parent / "figures" / "old.svg").touch()
    write_report(runs["pretrain"], tmp_path / "report", options=ReportOptions(title="second"))
    assert "<h1>second</h1>" in report.page.read_text()
    assert not (report.page.parent / "figures" / "old.svg").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for place, words in (
        (tmp_path / "mine", "holds files that are no report"),
        (tmp_path / "mine/notes.txt", "is a file"),
    ):
        with pytest.raises(InputError, match=words):
            write_report(runs["pretrain"], tmp_path / place)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def wrong_inputs(runs, place, folder):
    """(words of the command, what the message must say)"""
    (folder / "empty").mkdir()
    names = read_answers(runs["classes"] / "predictions.parquet", "x").names
    few = {"target": [0, 1], **{f"p_{name}": [0.5, 0.2] for name in names}}
    pq.write_table(pa.table(few), folder / "few.parquet")
    pq.write_table(pa.table({"targt": [0, 1], "p_a": [0.5, 0.2]}), folder / "typo.parquet")
    pq.write_table(pa.table({**few, f"p_{names[0]}": [0.5, float("nan")]}), folder / "nan.parquet")
    run, embeddings = runs["classes"], place / "contigs.parquet"
    beside = [run, "-o", folder / "out", "--repeats", "10"]
    return [
        ([], "at least one run folder"),
        ([folder / "none"], "no such folder"),
        ([folder / "empty"], "holds no run"),
        ([run.parent], "did you mean"),
        ([run / "seed-1"], f"did you mean {run}?"),
        ([*beside, "--baselines", "twin"], "expected NAME=VALUE"),
        ([*beside, "--baselines", f"few={folder / 'few.parquet'}"], "2 and 60 rows"),
        ([*beside, "--baselines", f"typo={folder / 'typo.parquet'}"], "no column 'target', did you mean 'targt'?"),
        ([*beside, "--baselines", f"nan={folder / 'nan.parquet'}"], "no finite number (row 2)"),
        ([*beside, "--baselines", f"other={runs['binary']}"], "answers single-label"),
        ([*beside, "--baselines", f"values={runs['values']}"], "answers regression"),
        ([*beside, "--groups", "blok"], "did you mean 'block'?"),
        ([*beside, "--embeddings", embeddings, "--labels", "species"], "no column 'species'"),
        ([*beside, "--labels", "species"], "belong to --embeddings"),
        ([*beside, "--embeddings", folder / "few.parquet"], "no columns 'id' and 'embedding'"),
        ([*beside, "--references", "chance=high"], "expected a number"),
        ([run, "--repeats", "1"], "repeats: expected at least 10"),
        ([runs["pretrain"], "-o", folder / "out", "--kmers"], "need one fine-tuning run"),
        ([runs["values"], "-o", folder / "out", "--kmers"], "needs classes"),
    ]


def test_what_is_wrong_is_told_in_one_line(runs, place, embeddings, tmp_path, capsys):
    for words, message in wrong_inputs(runs, place, tmp_path):
        assert main(["report", *map(str, words)]) == ExitCode.USER_ERROR, words
        error = capsys.readouterr().err
        assert message in error, (words, error)
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_umap_says_what_to_install(runs, embeddings, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(ImportError, match=r"UMAP of embeddings needs the package 'umap-learn'.*chargaff\[umap\]"):
        write_report(runs["pretrain"], tmp_path / "report", maps=[MapSource(embeddings, method="umap")])


def test_answers_of_several_seeds_must_be_for_the_same_rows(runs, tmp_path):
    table = pq.read_table(runs["binary"] / "predictions.parquet")
    pq.write_table(table.slice(0, table.num_rows - 1), tmp_path / "cut.parquet")
    with pytest.raises(InputError, match="rows of seed 2 are not those of seed 1"):
        read_answers(tmp_path / "cut.parquet", "cut")


def test_multi_label_runs_show_every_label(runs, tmp_path):
    report = write_report(runs["labels"], tmp_path / "report", options=FEW)
    names = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert sum("-roc-" in name for name in names) == sum("-calibration-" in name for name in names) == 2 * len(MARKS)
    assert not any("confusion" in name for name in names)
    assert all(name in "".join(read(report).words) for name in MARKS)


def test_one_run_cannot_have_two_models_of_one_name(runs, tmp_path):
    with pytest.raises(ConfigError, match="names must differ"):
        write_report(runs["classes"], tmp_path / "report", baselines={"run": runs["classes"]}, options=FEW)


def test_time_of_an_interrupted_run_is_added_up(runs, tmp_path):
    """Seconds in the log count from each start."""
    half = tmp_path / "half"
    shutil.copytree(runs["pretrain"], half)
    starts = [{"event": "start", "step": step, "time": 1000.0 + step} for step in (0, 4)]
    trained = [{"event": "train", "step": step, "time": 2000.0, "seconds": step * 1.0} for step in (2, 4, 5, 6)]
    events = [starts[0], *trained[:2], starts[1], *trained[2:]]
    lines = "".join(f"{json.dumps(event)}\n" for event in events)
    (half / "events.jsonl").write_text(lines + '{"event": "tra')
    run = read_run(half)
    assert run.repetitions[0].seconds == 10
    assert run.started == "1970-01-01 00:16 UTC"
