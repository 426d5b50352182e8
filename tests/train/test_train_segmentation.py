"""`chargaff finetune` on an annotation: splits that do not touch, scores of each element, a model that loads."""

import random

import numpy as np
import pytest
import torch

from chargaff.cli.main import ExitCode, main
from chargaff.hub.load import load
from chargaff.io.tables import read_table
from chargaff.train.runs import SegmentationRun, load_finetune_run
from chargaff.workflows.finetune_segmentation import open_segmenting

RUN = """
[model]
family = "caduceus"
[model.config]
d_model = 16
n_layer = 2
vocab_size = 12
rcps = true
[task]
kind = "segmentation"
[data]
kind = "annotation"
fasta = "g.fa"
annotation = "a.gff3"
elements = ["CDS+", "CDS-"]
length_bp = 200
valid_contigs = ["two"]
test_contigs = ["three"]
[train]
max_steps = 60
batch = 4
valid_every = 30
valid_batch = 8
monitor = "mcc"
optim = { lr = 1e-2 }
[out]
folder = "run"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Genes of poly-A (forward) and poly-T (the other strand) in C and G."""
    rng = random.Random(0)
    lines, records = [], []
    for contig, length in (("one", 20_000), ("two", 4_000), ("three", 4_000)):
        bases = rng.choices("CG", k=length)
        for start in range(100, length - 100, 150):
            strand = rng.choice("+-")
            bases[start : start + 60] = ("A" if strand == "+" else "T") * 60
            lines.append(f"{contig}\tx\tCDS\t{start + 1}\t{start + 60}\t.\t{strand}\t0\tParent=t{contig}{start}")
        records.append(f">{contig}\n{''.join(bases)}\n")
    (tmp_path / "g.fa").write_text("".join(records))
    (tmp_path / "a.gff3").write_text("\n".join(lines) + "\n")
    (tmp_path / "run.toml").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mcc_from(rows, least):
    """Of calling the bases with at least this probability, in steps of 1/1024."""
    called = [row["probability"] >= least for row in rows]
    cells = [sum(row[side] for row, on in zip(rows, called, strict=True) if on is is_on)
             for side in ("inside", "outside") for is_on in (True, False)]  # fmt: skip
    right, missed, wrong, quiet = cells
    product = (right + wrong) * (right + missed) * (quiet + wrong) * (quiet + missed)
    return (right * quiet - wrong * missed) / product**0.5 if product else 0.0


def test_a_run_learns_judges_each_element_and_leaves_a_model(folder, capsys):
    assert main(["finetune", "run.toml"]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "test_mcc" in out
    rows = read_table(folder / "run" / "elements.parquet").to_pylist()
    assert [(row["split"], row["element"]) for row in rows] == [
        (split, element) for split in ("valid", "test") for element in ("CDS+", "CDS-")
    ]
    assert all(row["mcc"] > 0.8 for row in rows)
    assert all(0 < row["sov"] <= 100 and 0 <= row["calibration_error"] < 0.5 for row in rows)
    result = read_table(folder / "run" / "results.parquet").to_pylist()[0]
    test = [row["mcc"] for row in rows if row["split"] == "test"]
    assert result["test_mcc"] == pytest.approx(np.mean(test))
    model = load(folder / "run" / "model", device="cpu")
    assert model.spec.head == "token"
    assert model.spec.labels == ("CDS+", "CDS-")
    counts = read_table(folder / "run" / "counts.parquet").to_pylist()
    for name, least in model.spec.thresholds.items():
        of = [row for row in counts if (row["split"], row["element"]) == ("valid", name)]
        assert mcc_from(of, least) == max(mcc_from(of, row["probability"]) for row in of)
    assert set(model.spec.thresholds) == {"CDS+", "CDS-"}
    tokens = torch.randint(7, 11, (1, 50), dtype=torch.uint8)
    other = model(model.reverse_complement(tokens)).logits.flip(1)[..., [1, 0]]
    assert torch.allclose(model(tokens).logits, other, atol=1e-5)


def test_test_regions_are_seen_by_no_other_split(folder):
    (folder / "test.bed").write_text("one\t4000\t6000\n")
    words = ["data.test_contigs=[]", "data.test_regions=test.bed", "data.valid_contigs=[]", "data.valid_fraction=0.2"]
    run = load_finetune_run("run.toml", words)
    assert isinstance(run, SegmentationRun)
    ready = open_segmenting(run)
    places = {}
    for name, source in (("train", ready.train[0]), ("valid", ready.valid), ("test", ready.test)):
        contig, start = source.windows.places(np.arange(len(source)))
        places[name] = set(zip(contig.tolist(), start.tolist(), strict=True))
    assert len(places["test"]) == 10
    assert all(contig == 0 and 4000 <= start <= 5800 for contig, start in places["test"])
    for name in ("train", "valid"):
        assert not any(contig == 0 and 3800 < start < 6000 for contig, start in places[name])
    assert not places["train"] & places["valid"]


def test_windows_without_what_is_in_focus_are_few_and_weigh_more(folder):
    """The weighted windows stand for all windows: their mean is that of all."""
    words = ['data.focus=["CDS+"]', "data.length_bp=50"]
    every = open_segmenting(load_finetune_run("run.toml", words[1:])).train[0]
    truth = np.array([(example.target[:, 0] == 1).any() for example in every.__getitems__(range(len(every)))])
    for background in (0.25, 1.0):
        found = open_segmenting(load_finetune_run("run.toml", [*words, f"data.background={background}"])).train[0]
        examples = found.__getitems__(range(len(found)))
        holds = np.array([(example.target[:, 0] == 1).any() for example in examples])
        weights = np.array([example.weight for example in examples])
        assert holds.sum() == truth.sum()
        assert (~holds).sum() == pytest.approx(background * (~truth).sum(), rel=0.25)
        assert weights.mean() == pytest.approx(1, rel=1e-5)
        assert weights[~holds] == pytest.approx(weights[holds][0] / background, rel=1e-5)
        assert weights[holds].sum() / weights.sum() == pytest.approx(truth.mean(), rel=0.2)
    ready = open_segmenting(load_finetune_run("run.toml", words))
    assert all(example.weight == 1 for example in ready.valid.__getitems__(range(len(ready.valid))))
    assert main(["finetune", "run.toml", *words, "train.max_steps=4"]) == ExitCode.DONE


def test_a_run_can_be_planned_without_training(folder, capsys):
    assert main(["finetune", "run.toml", "--dry-run"]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "2 elements: CDS+ " in out
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (['data.elements=["CDS+"]'], "CDS+ has no counterpart CDS-"),
        (['data.elements=["tRNA"]'], "no tRNA on the contigs"),
        (["data.valid_contigs=[]"], "give valid_contigs or valid_fraction"),
        (["data.annotation=none.gff3"], "none.gff3"),
        (["task.gamma=-1"], "task.gamma"),
        (['data.focus=["tRNA"]'], "focus: 'tRNA' is none of the elements"),
        (['data.focus=["CDS+"]', "data.background=0"], "data.background"),
        (["data.length_bp=100000"], "no window of 100,000 bp"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(folder, capsys, words, message):
    assert main(["finetune", "run.toml", *words]) == ExitCode.USER_ERROR
    assert message in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_a_length_curriculum_reads_longer_windows_later(folder):
    words = ["train.stages=[{steps=5, batch=8, length_bp=100}]", "train.max_steps=10"]
    ready = open_segmenting(load_finetune_run("run.toml", words))
    assert [source.windows.window_bp for source in ready.train] == [100, 200]
    assert main(["finetune", "run.toml", *words]) == ExitCode.DONE
