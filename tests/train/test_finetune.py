"""Fine-tuning and prediction from the command line, on sequences whose class is their composition."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from chargaff.cli.main import main
from chargaff.data.batch import Batch
from chargaff.data.loader import TokenRule
from chargaff.data.rng import SampleRng
from chargaff.hub.load import load
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.train.log import read_log

LENGTH_BP = 24


def write_table(path: Path, rows: int, seed: int, *, vary: bool = False, value: bool = False) -> Path:
    """Class "at" or "gc" by composition; with `value` the share of G and C instead."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "label"])
        for row in range(rows):
            length = LENGTH_BP - int(rng.integers(0, 6)) if vary else LENGTH_BP
            share = rng.random() if value else (0.8 if row % 2 else 0.2)
            letters = np.where(
                rng.random(length) < share, rng.choice(list("GC"), length), rng.choice(list("AT"), length)
            )
            text = "".join(letters)
            label = f"{sum(text.count(c) for c in 'GC') / length:.4f}" if value else ("gc" if row % 2 else "at")
            writer.writerow([f"seq{row}", text, label])
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_table(tmp_path / "train.csv", 48, 0)
    write_table(tmp_path / "test.csv", 20, 1)
    return tmp_path


RUN = """
[model]
family = "{family}"
[model.config]
d_model = 8
n_layer = 1
vocab_size = 12
residual_in_fp32 = false
{config}
[task]
kind = "sequence"
{task}
[data]
kind = "files"
train = "{folder}/train.csv"
test = "{folder}/test.csv"
{data}
[train]
epochs = 6
batch = 8
monitor = "{monitor}"
optim = {{ lr = 3e-2, betas = [0.9, 0.999] }}
schedule = {{ warmup = 0.01, min_lr_ratio = 0.1, after_warmup = false }}
[out]
folder = "{folder}/out"
"""


def run_file(
    folder: Path,
    *,
    family: str = "caduceus",
    config: str = "rcps = true",
    task: str = "",
    data: str = "",
    monitor: str = "accuracy",
) -> str:
    path = folder / "run.toml"
    path.write_text(RUN.format(folder=folder, family=family, config=config, task=task, data=data, monitor=monitor))
    return str(path)


def test_finetune_then_predict(data, capsys):
    path = run_file(data, config="rcps = false", task='strands = "conjoin-eval"')
    assert main(["finetune", path, "--seeds", "2"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in table] == ["seed", "1", "2", "mean", "model"]

    results = pq.read_table(data / "out/results.parquet")
    assert results.num_rows == 2
    accuracy = results["test_accuracy"].to_pylist()
    assert min(accuracy) >= 0.9
    predictions = pq.read_table(data / "out/predictions.parquet").to_pylist()
    assert [row["seed"] for row in predictions] == [1] * 20 + [2] * 20
    right = [row["target"] == int(row["p_gc"] > row["p_at"]) for row in predictions if row["seed"] == 1]
    assert np.mean(right) == pytest.approx(accuracy[0])
    for seed in (1, 2):
        valid = read_log(data / f"out/seed-{seed}/valid.csv")
        best = results["best_step"].to_pylist()[seed - 1]
        assert valid["accuracy"][valid["step"].index(best)] == max(valid["accuracy"])
        assert results["valid_accuracy"].to_pylist()[seed - 1] == max(valid["accuracy"])

    capsys.readouterr()
    assert (
        main(
            [
                "predict",
                str(data / "out/model"),
                str(data / "test.csv"),
                "--column",
                "sequence",
                "-o",
                str(data / "found.parquet"),
            ]
        )
        == 0
    )
    found = pq.read_table(data / "found.parquet")
    assert found.column_names == ["id", "length_bp", "predicted", "p_at", "p_gc"]
    model_of = int(json.loads((data / "out/model/model.json").read_text())["notes"]["seed"])
    expected = [row["p_gc"] for row in predictions if row["seed"] == model_of]
    np.testing.assert_allclose(found["p_gc"].to_numpy(), expected, rtol=1e-5, atol=1e-6)
    assert found["id"].to_pylist() == [row["id"] for row in csv.DictReader((data / "test.csv").open())]
    metadata = json.loads(found.schema.metadata[b"model"])
    assert metadata["strands"] == "conjoined"


def test_prediction_of_both_strands_does_not_depend_on_the_strand(data):
    assert (
        main(["finetune", run_file(data, config="rcps = false", task='strands = "conjoin-eval"'), "train.epochs=1"])
        == 0
    )
    rows = list(csv.DictReader((data / "test.csv").open()))
    for name, turn in (("forward", lambda s: s), ("reverse", lambda s: to_string(reverse_complement(to_array(s))))):
        (data / f"{name}.fa").write_text("".join(f">{row['id']}\n{turn(row['sequence'])}\n" for row in rows))
        for strands in ("both", "forward"):
            out = data / f"{name}-{strands}.tsv"
            assert (
                main(
                    ["predict", str(data / "out/model"), str(data / f"{name}.fa"), "-o", str(out), "--strands", strands]
                )
                == 0
            )

    def probabilities(name: str) -> np.ndarray:
        lines = [line for line in (data / f"{name}.tsv").read_text().splitlines() if not line.startswith("#")]
        return np.array([float(row["p_gc"]) for row in csv.DictReader(lines, delimiter="\t")])

    np.testing.assert_allclose(probabilities("forward-both"), probabilities("reverse-both"), rtol=1e-4)
    assert not np.allclose(probabilities("forward-forward"), probabilities("reverse-forward"), rtol=1e-4)


def test_long_and_rejected_records(data, capsys):
    assert main(["finetune", run_file(data, data=f"max_bp = {LENGTH_BP}"), "train.epochs=1"]) == 0
    text = "".join(row["sequence"] for row in csv.DictReader((data / "test.csv").open()))
    half, third = LENGTH_BP // 2, LENGTH_BP // 3
    (data / "in.fa").write_text(f">long\n{text[: 2 * LENGTH_BP + half]}\n>odd\n{'RYKM' * 6}\n>short\n{text[:third]}\n")
    for how, rows in (("cut", [text[:LENGTH_BP]]), ("windows", None)):
        out = data / f"{how}.parquet"
        code = main(["predict", str(data / "out/model"), str(data / "in.fa"), "-o", str(out), "--long-records", how])
        assert code == 3
        found = pq.read_table(out)
        assert found["id"].to_pylist() == ["long", "short"]
        assert found["length_bp"].to_pylist() == [2 * LENGTH_BP + half, third]
        if rows:
            model = load(data / "out/model", device="cpu")
            tokens = torch.from_numpy(model.tokenizer.encode(to_array(rows[0]), special=False))
            expected = model(tokens.unsqueeze(0)).logits.softmax(1)[0, 1].item()
            assert found["p_gc"].to_pylist()[0] == pytest.approx(expected, rel=1e-5)
    cut, windows = (pq.read_table(data / f"{how}.parquet")["p_gc"].to_pylist() for how in ("cut", "windows"))
    assert cut[1] == windows[1]
    assert cut[0] != windows[0]
    assert "odd" in Path(f"{data}/cut.parquet.rejected.tsv").read_text()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_the_same_in_training_and_prediction(data, side):
    write_table(data / "train.csv", 48, 0, vary=True)
    write_table(data / "test.csv", 20, 1, vary=True)
    path = run_file(data, data=f'padding = "{side}"\nmax_bp = {LENGTH_BP}')
    assert main(["finetune", path, "train.epochs=2"]) == 0
    assert (
        main(
            [
                "predict",
                str(data / "out/model"),
                str(data / "test.csv"),
                "--column",
                "sequence",
                "-o",
                str(data / "found.parquet"),
            ]
        )
        == 0
    )
    expected = pq.read_table(data / "out/predictions.parquet")["p_gc"].to_numpy()
    np.testing.assert_allclose(pq.read_table(data / "found.parquet")["p_gc"].to_numpy(), expected, rtol=1e-5, atol=1e-6)
    # by hand: pads in front (or behind), part of the computation and of the mean
    model = load(data / "out/model", device="cpu")
    row = next(csv.DictReader((data / "test.csv").open()))
    tokens = model.tokenizer.encode(to_array(row["sequence"]), special=False)
    pads = np.full(LENGTH_BP - len(tokens), model.tokenizer.pad_id, tokens.dtype)
    ids = np.concatenate([pads, tokens] if side == "left" else [tokens, pads])
    by_hand = model(torch.from_numpy(ids).unsqueeze(0)).logits.softmax(1)[0, 1].item()
    assert float(expected[0]) == pytest.approx(by_hand, rel=1e-5)


def test_regression_learns_a_value(data):
    write_table(data / "train.csv", 64, 0, value=True)
    write_table(data / "test.csv", 24, 1, value=True)
    assert main(["finetune", run_file(data, data='labels = "value"', monitor="pearson"), "train.epochs=10"]) == 0
    results = pq.read_table(data / "out/results.parquet")
    assert results["test_pearson"].to_pylist()[0] > 0.8
    found = pq.read_table(data / "out/predictions.parquet")
    assert "label" in found.column_names


def test_cnn_baseline_trains(data):
    (data / "run.toml").write_text(RUN.format(folder=data, family="cnn", config="", task="", data="", monitor="mcc"))
    text = (data / "run.toml").read_text().split("[model.config]")[
        0
    ] + "[model.config]\ninput_len = 64\nembedding_dim = 8\n"
    rest = (data / "run.toml").read_text().split("[task]")[1]
    (data / "run.toml").write_text(text + "[task]" + rest)
    assert main(["finetune", str(data / "run.toml")]) == 2
    assert main(["finetune", str(data / "run.toml"), "data.max_bp=64", "data.padding=left", "train.optim.lr=1e-2"]) == 0
    assert pq.read_table(data / "out/results.parquet")["test_accuracy"].to_pylist()[0] >= 0.7
    assert (
        main(
            [
                "predict",
                str(data / "out/model"),
                str(data / "test.csv"),
                "--column",
                "sequence",
                "-o",
                str(data / "found.parquet"),
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.strand=augment"], "task.strand: unknown key, did you mean 'strands'?"),
        (["train.monitor=acuracy"], "train.monitor: expected one of loss, accuracy, f1_macro"),
        (["data.train=nowhere.csv"], "nowhere.csv"),
        (["data.label=klass"], "klass"),
        (["model.family=caduceos"], "model.family: expected one of"),
        (["model.config.d_modl=8"], "d_modl"),
        (["model.name=caduceus-ps-1k"], "give either name"),
        (["task.class_weights=[1.0]"], "task.class_weights: 1 for 2 classes"),
        (["train.batch=999"], "train.batch: 999 sequences a step, but the training data has only 43"),
        (["data.labels=value"], "expected a finite number"),
        (["train.epochs=2", "train.max_steps=3"], "give either max_steps or epochs, not both"),
        (["data.kind=dataset"], "data.name: missing"),
    ],
)
def test_wrong_settings_are_one_line(data, capsys, words, message):
    assert main(["finetune", run_file(data), *words]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
    assert errors[-1].startswith("chargaff: ")


def test_labels_that_the_training_rows_do_not_have(data, capsys):
    text = (data / "test.csv").read_text().replace(",gc", ",GC-rich", 1)
    (data / "test.csv").write_text(text)
    assert main(["finetune", run_file(data)]) == 2
    assert "'GC-rich'; the classes are at, gc" in capsys.readouterr().err


def test_sequences_of_different_lengths_without_padding_are_refused_before_training(data, capsys):
    write_table(data / "train.csv", 48, 0, vary=True)
    assert main(["finetune", run_file(data)]) == 2
    assert "data.padding: sequences have" in capsys.readouterr().err
    assert not (data / "out").exists()


def test_a_head_that_keeps_positions_predicts_as_it_was_trained_and_names_other_lengths(data, capsys):
    path = run_file(data, task='pooling = "none"')
    assert main(["finetune", path]) == 0
    expected = pq.read_table(data / "out/predictions.parquet")["p_gc"].to_numpy()
    words = ["predict", str(data / "out/model"), "--column", "sequence"]
    assert main([*words, str(data / "test.csv"), "-o", str(data / "found.parquet")]) == 0
    np.testing.assert_allclose(pq.read_table(data / "found.parquet")["p_gc"].to_numpy(), expected, rtol=1e-5, atol=1e-6)
    (data / "short.csv").write_text("id,sequence\na,ACGTACGT\n")
    capsys.readouterr()
    assert main([*words, str(data / "short.csv"), "-o", str(data / "short.parquet")]) == 2
    assert f"weighs {LENGTH_BP} positions apart; got a sequence of 8" in capsys.readouterr().err
    (data / "test.fa").write_text(">a\nACGTACGT\n>b\nACGTACGTACGTACGT\n")
    assert main(["embed", str(data / "out/model"), str(data / "test.fa"), "-o", str(data / "vectors.parquet")]) == 0
    assert pq.read_table(data / "vectors.parquet").num_rows == 2


def test_a_head_that_keeps_positions_needs_one_length(data, capsys):
    write_table(data / "train.csv", 48, 0, vary=True)
    assert main(["finetune", run_file(data, task='pooling = "none"', data='padding = "left"\npad_to_max = false')]) == 2
    assert "data.pad_to_max: pooling none weighs positions apart" in capsys.readouterr().err
    assert main(["finetune", run_file(data, task='pooling = "none"', data='padding = "left"')]) == 0
    assert load(data / "out/model", device="cpu").head.positions == LENGTH_BP


def test_language_model_is_no_predictor(data, capsys):
    from tests.train.toy import run

    run(data / "lm", "max_steps=1")
    code = main(
        ["predict", str(data / "lm/model"), str(data / "test.csv"), "--column", "sequence", "-o", str(data / "x.tsv")]
    )
    assert code == 2
    assert "has a 'lm' head and answers no question" in capsys.readouterr().err


def test_dry_run_writes_nothing(data, capsys):
    assert main(["finetune", run_file(data), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "43 training, 5 validation and 20 test rows" in printed
    assert "parameters on cpu" in printed
    assert not (data / "out").exists()


@pytest.mark.parametrize("strands", ["forward", "augment", "conjoin-eval", "conjoin"])
@pytest.mark.parametrize("variant", ["ph", "ps"])
def test_strand_rules(variant, strands):
    """In training and in evaluation: which strands are read, and that averages are of both outputs."""
    from chargaff.data.labels import Labels
    from chargaff.families import get_family
    from chargaff.hub.load import create
    from chargaff.train.heads import attach_head
    from chargaff.train.runs import SequenceTaskTable
    from chargaff.workflows.finetune import make_task

    model = create("caduceus", get_family("caduceus").tiny[variant], head="none", seed=3)
    labels = Labels("class", np.array([0, 1, 2]), ("a", "b", "c"))
    task = make_task(SequenceTaskTable(kind="sequence", strands=strands), labels, model, TokenRule())
    attach_head(model, task, labels.names)
    tokens = torch.randint(7, 11, (40, 15), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = Batch(tokens, None, torch.zeros(40, dtype=torch.int64), torch.arange(40))
    ready = task.prepare(batch, SampleRng(1, 0), is_training=True)
    is_flipped = (ready.tokens == model.reverse_complement(tokens)).all(1)
    expected = strands in ("augment", "conjoin-eval")
    assert (0.25 < is_flipped.float().mean() < 0.75) if expected else not is_flipped.any()
    assert torch.equal(task.prepare(batch, SampleRng(1, 0), is_training=False).tokens, tokens)

    other = Batch(model.reverse_complement(tokens), None, batch.target, batch.index)
    for mode in (model.train, model.eval):
        mode()
        here, there = task.predict(model, batch), task.predict(model, other)
        both = variant == "ps" or strands == "conjoin" or (strands == "conjoin-eval" and not model.training)
        assert torch.allclose(here, there, atol=1e-5) == both
    if variant == "ph":
        forward = model.head(model.encode(tokens))
        backward = model.head(model.encode(model.reverse_complement(tokens)))
        wanted = (forward + backward) / 2 if strands in ("conjoin", "conjoin-eval") else forward
        torch.testing.assert_close(task.predict(model.eval(), batch), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_write_one_result(data):
    """Both train, one judges: every test row is predicted once, and the table is printed once."""
    path = run_file(data)
    assert main(["finetune", path, "train.epochs=2", f"out.folder={data}/one"]) == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    program = data / "program.py"
    program.write_text(
        "import sys\nfrom chargaff.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    words = ["finetune", path, "train.epochs=2", f"out.folder={data}/two", "train.devices=2", "train.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, str(program), *words, "train.device=cpu"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seed\t") == 1
    one, two = (pq.read_table(data / name / "predictions.parquet") for name in ("one", "two"))
    assert two.num_rows == one.num_rows == 20
    np.testing.assert_allclose(two["p_gc"].to_numpy(), one["p_gc"].to_numpy(), rtol=1e-3)
