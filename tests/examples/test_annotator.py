"""The scripts around the shipped annotators: they judge as a run does, and the baseline is what it says."""

import json

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from chargaff.data.batch import Batch
from chargaff.data.holdout import HeldOut, read_held_out
from chargaff.hub.catalog import parse_rows
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import BASE_CODE, reverse_complement, translate
from chargaff.tasks.protocol import LossOut
from chargaff.tasks.segmentation import BINS, SegmentationMetrics
from chargaff.train.runs import load_finetune_run
from chargaff.workflows.finetune_segmentation import train_segmentation
from examples.annotator import baseline, evaluate, ship, spliceai, tally
from examples.annotator.cards import ANNOTATORS, card
from examples.annotator.references import sites, stretches

RUN = """
[model]
family = "caduceus"
[model.config]
d_model = 8
n_layer = 1
vocab_size = 12
rcps = true
[task]
kind = "segmentation"
[data]
kind = "annotation"
fasta = "{folder}/genome.fa"
annotation = "{folder}/genes.bed"
elements = ["gene+", "gene-"]
length_bp = 100
valid_contigs = ["chr2"]
test_contigs = ["chr3"]
[train]
max_steps = 2
monitor = "mcc"
[out]
folder = "{folder}/run"
"""


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    """Genes of A (forward) and T (reverse) with every fifth base at random, in random C and G."""
    folder = tmp_path_factory.mktemp("annotator")
    rng, lines = np.random.default_rng(5), []
    with (folder / "genome.fa").open("w") as fasta:
        for contig in ("chr1", "chr2", "chr3"):
            letters = rng.choice(list("CG"), 6030)
            for start in range(50, 5900, 200):
                strand = "+" if rng.random() < 0.5 else "-"
                letters[start : start + 60] = "A" if strand == "+" else "T"
                letters[start : start + 60 : 5] = rng.choice(list("ACGT"), 12)
                lines.append(f"{contig}\t{start}\t{start + 60}\tgene\t0\t{strand}\n")
            fasta.write(f">{contig}\n{''.join(letters)}\n")
    (folder / "genes.bed").write_text("".join(lines))
    (folder / "run.toml").write_text(RUN.format(folder=folder))
    return folder / "run.toml"


@pytest.fixture(scope="module")
def ready(run_file):
    return tally.open_run(run_file)


def answers(source, probability):
    return [([row], probability[row : row + 1]) for row in range(len(source))]


def random_answers(source, seed):
    return np.random.default_rng(seed).random((len(source), 100, 2), np.float32)


def test_answers_are_counted_as_a_run_counts_them(ready):
    source, probability = ready.test, random_answers(ready.test, 1)
    found = tally.count_answers(source, answers(source, probability))
    metrics = SegmentationMetrics(("gene+", "gene-"))
    target = torch.from_numpy(np.stack([example.target for example in source.__getitems__(range(len(source)))]))
    logits = torch.from_numpy(probability).double().logit()
    batch = Batch(tokens=target[..., 0], mask=None, index=torch.arange(len(target)), target=target)
    metrics.update(batch, LossOut(torch.zeros(()), torch.ones(()), logits))
    np.testing.assert_allclose(found.counts.sum(0).sum(-1), metrics.counts().sum(-1))
    for name, row in metrics.by_element().items():
        for score in ("mcc", "auprc", "f1"):
            assert found.scores()[name][score] == pytest.approx(row[score], abs=1e-3)


def test_blocks_hold_each_base_once_whatever_the_windows(ready, monkeypatch):
    monkeypatch.setattr(tally, "BLOCK_BP", 1030)
    found = tally.count_answers(ready.test, answers(ready.test, random_answers(ready.test, 1)))
    assert found.blocks == tuple(f"chr3:{number}" for number in range(6))
    assert found.counts[:, 0].sum((1, 2)).tolist() == [1030] * 5 + [6000 - 5 * 1030]


def test_the_best_threshold_is_the_best_of_all(ready):
    found = tally.count_answers(ready.test, answers(ready.test, random_answers(ready.test, 2) ** 2))
    chosen = found.best_thresholds()
    for name in found.elements:
        every = [found.scores({name: step / BINS})[name]["mcc"] for step in range(BINS)]
        assert found.scores(chosen)[name]["mcc"] == max(every)


def test_a_model_differs_from_itself_by_nothing_and_only_the_same_bases_are_compared(ready, tmp_path):
    found = tally.count_answers(ready.test, answers(ready.test, random_answers(ready.test, 3)))
    found.save(tmp_path / "a.npz")
    again = tally.Tally.read(tmp_path / "a.npz")
    half = dict.fromkeys(found.elements, 0.5)
    for row in tally.differences(found, again, half, half).values():
        assert row == {score: {"difference": 0.0, "low": 0.0, "high": 0.0} for score in ("mcc", "auprc")}
    other = tally.count_answers(ready.valid, answers(ready.valid, random_answers(ready.valid, 3)))
    with pytest.raises(SystemExit, match="not judged on the same bases"):
        tally.differences(found, other, half, half)


@pytest.fixture(scope="module")
def layout(ready):
    return baseline.lay_out(ready)


def test_the_layout_holds_both_strands_and_their_labels(ready, layout):
    genome = ready.test.windows.genome
    for contig, name in enumerate(genome.contigs):
        for flipped, bases in ((False, genome.fetch(name)), (True, reverse_complement(genome.fetch(name)))):
            first = layout.offset[contig]
            if flipped:
                first = 2 * layout.size - layout.offset[contig] - len(bases)
            codes = translate(bases, BASE_CODE).astype(int)
            expected = sum(codes[k : k + 1000] * 4 ** (5 - k) for k in range(6))
            np.testing.assert_array_equal(layout.codes[first : first + 1000], expected)
    found = baseline.labels(ready.test, layout, "gene")
    for number, strand in enumerate((found[: layout.size], found[layout.size :][::-1])):
        truth = ready.test.annotation.labels(2, 0, 6000)[:, number]
        np.testing.assert_array_equal(strand[layout.offset[2] : layout.offset[2] + 6000], truth)
        assert (strand[: layout.offset[2]] == -1).all()


def test_the_slope_of_the_regression_is_its_derivative(layout):
    rng = np.random.default_rng(0)
    bases, truth = layout.offset[0] + rng.integers(0, 6000, 50), rng.integers(0, 2, 50).astype(float)
    x = rng.normal(size=5441) * 0.1

    def loss(x):
        return baseline.regress(layout.codes, bases, truth, baseline.table(x[:-1]), x[-1], 20)

    value, slope, bias_slope = loss(x)
    odds = baseline.log_odds(layout.codes, baseline.table(x[:-1]), x[-1], 20, np.sort(bases))
    odds = odds[np.argsort(np.argsort(bases, kind="stable"), kind="stable")].astype(float)
    assert value == pytest.approx(np.mean(np.logaddexp(0, -odds * (2 * truth - 1))), rel=1e-5)
    full = np.append(baseline.folded(slope), bias_slope)
    used = np.argsort(-abs(full))[[0, 1, 5, 20, 60]]
    for place in [*used, 5440]:
        step = np.zeros(5441)
        step[place] = 1e-5
        numeric = (loss(x + step)[0] - loss(x - step)[0]) / 2e-5
        assert full[place] == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_the_baseline_finds_what_content_tells(run_file, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "WINDOWS_BP", (8, 24, 96))
    output = tmp_path / "baseline.json"
    monkeypatch.setattr("sys.argv", ["baseline.py", str(run_file), "-o", str(output)])
    baseline.main()
    record = json.loads(output.read_text())
    assert record["chosen_on_validation"]["gene"]["window_bp"] < 96
    assert min(row["mcc"] for row in record["test"].values()) > 0.8
    assert tally.Tally.read(output.with_suffix(".npz")).counts[:, 0].sum() == 6000
    monkeypatch.setattr(
        "sys.argv", ["baseline.py", str(run_file), "-o", str(tmp_path / "b.json"), "--chosen", str(output)]
    )
    baseline.main()
    assert json.loads((tmp_path / "b.json").read_text())["test"] == record["test"]


def test_a_model_is_judged_beside_a_baseline_of_the_same_bases_only(run_file, tmp_path, monkeypatch, capsys):
    run = load_finetune_run(run_file, [f"out.folder={tmp_path / 'run'}", "train.batch=4"])
    train_segmentation(run)
    monkeypatch.setattr(baseline, "WINDOWS_BP", (8,))
    known, out = tmp_path / "baseline.json", tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["baseline.py", str(run_file), "-o", str(known)])
    baseline.main()
    words = ["evaluate.py", str(tmp_path / "run" / "model"), str(run_file), "--baseline", str(known), "-o", str(out)]
    monkeypatch.setattr("sys.argv", words)
    evaluate.main()
    record = json.loads(out.read_text())
    apart = record["model_minus_baseline_at_thresholds"]["gene+"]["mcc"]
    expected = record["test_at_thresholds"]["gene+"]["mcc"] - record["baseline"]["test"]["gene+"]["mcc"]
    assert apart["difference"] == pytest.approx(expected, abs=2e-4)
    longer = tmp_path / "longer.toml"
    longer.write_text(run_file.read_text().replace("length_bp = 100", "length_bp = 700"))
    monkeypatch.setattr("sys.argv", [*words[:2], str(longer), *words[3:]])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "judged on other bases" in capsys.readouterr().err


def test_splice_sites_move_from_the_exon_to_the_intron():
    probability = np.zeros((10, 2), np.float32)
    probability[6, 0], probability[3, 1] = 0.9, 0.8  # first base of an exon; last base of one
    found = sites(probability)
    np.testing.assert_array_equal(np.flatnonzero(found[:, 0]), [4, 5])
    np.testing.assert_array_equal(np.flatnonzero(found[:, 1]), [4, 5])


def test_neighbouring_windows_are_read_together(monkeypatch):
    monkeypatch.setattr("examples.annotator.references.STRETCH_BP", 300)
    contig = np.array([0, 0, 0, 0, 1, 1])
    start = np.array([0, 100, 200, 300, 400, 600])
    assert list(stretches(contig, start, 100)) == [[0, 1, 2], [3], [4], [5]]


def test_a_graph_of_layers_is_the_network_it_describes():
    torch.manual_seed(0)
    conv, last = torch.nn.Conv1d(4, 5, 3, dilation=2, padding=2), torch.nn.Conv1d(5, 3, 1)
    norm = torch.nn.BatchNorm1d(5, eps=1e-3).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    scale = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).detach()
    plain = {"activation": "linear", "dilation": 1, "padding": 0}
    layers = [
        {"kind": "InputLayer", "name": "in", "inputs": []},
        {"kind": "Conv1D", "name": "a", "inputs": ["in"], "weight": conv.weight, "bias": conv.bias} | plain
        | {"dilation": 2, "padding": 2},
        {"kind": "BatchNormalization", "name": "b", "inputs": ["a"], "scale": scale[:, None],
         "shift": (norm.bias - norm.running_mean * scale)[:, None]},
        {"kind": "Activation", "name": "c", "inputs": ["b"]},
        {"kind": "Add", "name": "d", "inputs": ["c", "a"]},
        {"kind": "Cropping1D", "name": "e", "inputs": ["d"], "crop": [2, 3]},
        {"kind": "Conv1D", "name": "f", "inputs": ["e"], "weight": last.weight, "bias": last.bias} | plain
        | {"activation": "softmax"},
    ]  # fmt: skip
    x = torch.randn(1, 4, 20)
    hidden = conv(x)
    expected = last((norm(hidden).relu() + hidden)[..., 2:-3]).softmax(1)
    torch.testing.assert_close(spliceai.run_graph(layers, x), expected)


def test_the_run_files_hold_out_what_must_be_held_out():
    folder = REPOSITORY / "examples" / "annotator"
    fungus, human = (load_finetune_run(folder / name) for name in ("fungus.toml", "human.toml"))
    sites = load_finetune_run(folder / "human_sites.toml")
    assert human.model.name == str(sites.out.folder / "model")
    for key in ("fasta", "annotation", "elements", "valid_fraction", "test_regions", "exclude", "exclude_species"):
        assert getattr(sites.data, key) == getattr(human.data, key)
    listed = read_held_out(REPOSITORY / "examples/data/holdout.tsv.gz", [f"chr{n:02}" for n in range(1, 24)])
    assert set(fungus.data.valid_contigs + fungus.data.test_contigs) == {place.contig for place in listed}
    assert fungus.data.exclude is not None
    assert human.data.exclude_species == "Homo_sapiens"
    places = HeldOut(read_held_out(human.data.exclude, ["20"], species=human.data.exclude_species), ["20"])
    assert places.overlap(np.zeros(1, int), np.array([1_000_000]), np.array([1_000_001])).all()


def test_the_held_out_region_of_the_repository_lies_on_a_test_contig():
    record = Genome(REPOSITORY / "examples/data/umaydis.fa.gz")
    (name,) = record.contigs
    contig, first, last = name.split("_")
    assert record.lengths[name] == int(last) - int(first) + 1 == 100_000
    assert set(record.fetch(name).tobytes()) == set(b"ACGT")
    assert contig in load_finetune_run(REPOSITORY / "examples/annotator/fungus.toml").data.test_contigs


ROW = """
[{name}]
source = "none:x"
layout = "hub"
head = "lm"
context_bp = {bp}
params = 1
paper = "p"

[{name}.config]
d_model = 8
n_layer = 1
vocab_size = 12
"""


def test_a_row_replaces_its_older_self_and_nothing_else():
    before = (REPOSITORY / "src/chargaff/families/caduceus/checkpoints.toml").read_text()
    once = ship.with_row(before, "some-model", ROW.format(name="some-model", bp=10).lstrip())
    longer = once + ROW.format(name="zz", bp=1)
    twice = ship.with_row(longer, "some-model", ROW.format(name="some-model", bp=20).lstrip())
    old, new = parse_rows("caduceus", before), parse_rows("caduceus", twice)
    assert [row.name for row in new] == [*(row.name for row in old), "some-model", "zz"]
    assert new[: len(old)] == old
    assert new[len(old)].context_bp == 20
    page = ship.with_page("nav:\n      - models/chargaff-caduceus-ps-mini.md\n", "other")
    assert page == ship.with_page(page, "other")
    assert "models/other.md" in page


def record_of(name):
    scores = {"mcc": 0.5, "auprc": 0.4, "f1": 0.3, "threshold": 0.25, "mcc_at_threshold": 0.55}
    below = {"baseline_mcc": 0.3, "baseline_auprc": 0.2, "difference": 0.25, "low": 0.2, "high": 0.3}
    reference = {
        "reference": "finder",
        "places": [],
        "test_bases": 10,
        "trained_on": "this",
        "test": {"CDS+": {"mcc": 0.9}},
    }
    return {
        "name": name, "backbone": "b", "backbone_sha256": "5a", "elements": ["CDS+", "CDS-"], "parameters": 1000,
        "megabytes": 2.0, "window_bp": 2048, "recipe": "r", "leaves_out_listed_places": True,
        "overrides": ["train.max_steps=3"], "seed": 1, "steps": 3, "kept_step": 2, "hours": 0.5, "hardware": "a core",
        "curve": {"step": [1], "mcc": [0.1], "auprc": [0.1]}, "test_bases": 1000,
        "held_out": {"CDS+": scores | below, "CDS-": scores | below | {"difference": 0.01, "low": -0.1}},
        "baseline": {"chosen_on_validation": {"CDS": {"window_bp": 800}}},
        "references": [reference], "data": [{"content": "c", "package": "p", "sha256": "s"}],
    }  # fmt: skip


@pytest.mark.parametrize("name", ANNOTATORS)
def test_a_card_says_where_the_model_stands(name):
    text = card(record_of(name))
    assert "| `CDS+` | 0.500 | 0.400 | 0.550 (0.25) | 0.300 | 0.200 | +0.250 (+0.200 to +0.300) |" in text
    assert "is missed: 1 of 2 elements, 1 of them with an interval above zero; not `CDS-`." in text
    assert "Not held out: trained on this." in text
    assert "train.max_steps=3" in text
