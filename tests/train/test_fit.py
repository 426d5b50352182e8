"""What `fit` promises besides resuming."""

import csv
import io
import json
import os
import subprocess
import sys
from math import exp
from pathlib import Path

import pytest
import torch

from chargaff.data.loader import TokenRule
from chargaff.errors import ConfigError, InputError
from chargaff.hub.load import load
from chargaff.hub.readers import read_weights
from chargaff.tasks.causal_lm import CausalLM
from chargaff.tasks.masked_lm import MaskedLM
from chargaff.tasks.sequence import SequenceTask
from chargaff.train.config import is_rising
from chargaff.train.fit import fit
from chargaff.train.log import read_log
from chargaff.train.progress import progress
from chargaff.train.schedules import make_schedule
from tests.train.toy import Repeats, run, spec, tiny


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return read_weights(out / "model/model.safetensors")


def worst(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize(("family", "variant"), [("caduceus", "ph"), ("caduceus", "ps-even"), ("mamba", "tied")])
def test_loss_falls(tmp_path, family, variant):
    model = tiny(family, variant)
    make = CausalLM if family == "mamba" else MaskedLM
    result = fit(model, make(model.tokenizer), Repeats(40, 14), Repeats(8, 14), spec(max_steps=40), tmp_path / "run")
    log = read_log(tmp_path / "run/train.csv")
    assert log["loss"][-1] < 0.5 * log["loss"][0]
    assert result.metrics["perplexity"] == pytest.approx(exp(result.metrics["loss"]))
    assert result.metrics["accuracy"] > 0.5


def test_folder_holds_what_is_promised(tmp_path):
    result = run(tmp_path / "run", "max_steps=7")
    out = tmp_path / "run"
    names = {path.name for path in out.iterdir()}
    assert names == {
        "model",
        "best",
        "checkpoints",
        "train.csv",
        "valid.csv",
        "events.jsonl",
        "curves.png",
        "result.json",
    }
    assert (out / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = list(csv.DictReader((out / "train.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4", "6", "7"]
    settings = spec(max_steps=7)
    schedule = make_schedule(settings.schedule, settings.optim.lr, 7)
    assert [float(row["lr"]) for row in rows] == [schedule(step) for step in (1, 3, 5, 6)]
    valid = read_log(out / "valid.csv")
    assert valid["step"] == [5, 7]
    assert result.best_value == min(valid["loss"])
    assert result.best_step == valid["step"][valid["loss"].index(min(valid["loss"]))]
    assert json.loads((out / "result.json").read_text())["steps"] == 7
    kinds = [json.loads(line)["event"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert kinds.count("checkpoint") == 3
    final, best = load(result.model, device="cpu"), load(result.best, device="cpu")
    tokens = torch.full((1, 9), 8)
    assert torch.isfinite(final(tokens).logits).all()
    assert best.spec.family == "caduceus"


def test_best_weights_are_those_of_the_best_evaluation(tmp_path):
    """With a learning rate that explodes late, the best evaluation is an early one."""
    model = tiny("mamba", "tied")
    task = CausalLM(model.tokenizer)
    settings = spec(
        max_steps=12,
        valid_every=2,
        optim={"lr": 0.5},
        schedule={"kind": "linear", "warmup_steps": 12, "warmup_lr": 1e-3},
    )
    valid = Repeats(8, 14)
    result = fit(model, task, Repeats(40, 14), valid, settings, tmp_path / "run")
    log = read_log(tmp_path / "run/valid.csv")
    assert result.best_step < 12
    assert result.best_value == min(log["loss"])
    again = fit(
        load(result.best, device="cpu"),
        task,
        Repeats(40, 14),
        valid,
        spec(max_steps=1, valid_at_start=True),
        tmp_path / "again",
    )
    first = read_log(tmp_path / "again/valid.csv")
    assert first["loss"][0] == pytest.approx(result.best_value, rel=1e-6)
    assert again.steps == 1


def test_early_stopping_counts_evaluations_without_gain(tmp_path):
    result = run(tmp_path / "run", "max_steps=100", "optim.lr=1e-9", "valid_every=3", "patience=2", "min_delta=0.1")
    assert result.steps == 9  # the first is the best; then two without a gain of 0.1
    assert result.stop_reason == "loss has not improved in 2 evaluations"
    words = ("max_steps=100", "optim.lr=1e-9", "valid_every=3", "patience=2", "min_delta=0.1")
    assert run(tmp_path / "run", *words) == result
    (tmp_path / "run/result.json").unlink()  # as if killed after the last state was saved
    assert run(tmp_path / "run", *words) == result


@pytest.mark.parametrize(
    "words", [["micro_batch=1"], ["micro_batch=3"], ["activation_checkpointing=true"], ["workers=1"]]
)
def test_memory_settings_leave_the_result_as_it_is(tmp_path, words):
    run(tmp_path / "plain", "max_steps=4")
    run(tmp_path / "other", "max_steps=4", *words)
    left, right = (read_log(tmp_path / name / "train.csv") for name in ("plain", "other"))
    assert right["loss"] == pytest.approx(left["loss"], rel=1e-5)
    assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=1e-4)
    # adam divides by the gradient's size, so rounding of tiny gradients shows
    assert worst(weights_of(tmp_path / "plain"), weights_of(tmp_path / "other")) < 1e-3
    if words == ["workers=1"]:
        assert worst(weights_of(tmp_path / "plain"), weights_of(tmp_path / "other")) == 0


def test_logged_loss_is_the_mean_over_all_positions_since_the_last_row(tmp_path):
    run(
        tmp_path / "each", "max_steps=6", "log_every=1", "optim.lr=1e-12", "schedule.kind=constant", "schedule.warmup=0"
    )
    run(
        tmp_path / "three",
        "max_steps=6",
        "log_every=3",
        "optim.lr=1e-12",
        "schedule.kind=constant",
        "schedule.warmup=0",
    )
    each, three = (read_log(tmp_path / name / "train.csv") for name in ("each", "three"))
    assert min(each["loss"][:3]) < three["loss"][0] < max(each["loss"][:3])
    assert len(three["loss"]) == 2


def test_bfloat16_trains_and_keeps_float32_weights(tmp_path):
    result = run(tmp_path / "run", "precision=bf16-mixed", "max_steps=12")
    log = read_log(tmp_path / "run/train.csv")
    assert log["loss"][-1] < log["loss"][0]
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights_of(tmp_path / "run").values())
    assert result.steps == 12


def test_frozen_backbone_does_not_move(tmp_path):
    model = tiny("caduceus", "ph", head="none")
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    task = SequenceTask(model.tokenizer, 2)
    settings = spec(max_steps=5, freeze_backbone=True, monitor="accuracy")
    fit(
        model,
        task,
        Repeats(20, 14, targets=True),
        Repeats(8, 14, targets=True),
        settings,
        tmp_path / "run",
        labels=("even", "odd"),
    )
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    saved = load(tmp_path / "run/model", device="cpu")
    assert saved.spec.labels == ("even", "odd")
    assert saved.spec.head == "sequence"


def test_stages_change_length_and_batch(tmp_path):
    model = tiny("mamba", "tied")
    settings = spec(max_steps=7, batch=4, stages=[{"steps": 3, "batch": 8, "length_bp": 7}], log_every=1)
    task = CausalLM(model.tokenizer)
    fit(model, task, [Repeats(40, 7), Repeats(40, 21)], None, settings, tmp_path / "run")
    log = read_log(tmp_path / "run/train.csv")
    assert log["samples"] == [8, 16, 24, 28, 32, 36, 40]
    assert log["epoch"] == [0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(ConfigError, match=r"2 stages .* need as many sources, got 1"):
        fit(tiny("mamba", "tied"), task, Repeats(40, 7), None, settings, tmp_path / "other")


def test_epochs_become_steps(tmp_path):
    settings = spec(max_steps=None, epochs=3, valid_every=None, batch=4)
    model = tiny("mamba", "tied")
    result = fit(model, CausalLM(model.tokenizer), Repeats(11, 14), Repeats(8, 14), settings, tmp_path / "run")
    assert result.steps == 6
    assert read_log(tmp_path / "run/valid.csv")["step"] == [2, 4, 6]


def test_random_state_and_mode_of_the_caller_are_kept(tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    run(tmp_path / "run", "max_steps=2")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"monitor": "f1"}, "train.monitor: expected one of loss, perplexity, accuracy, got 'f1'"),
        ({"batch": 41}, "train.batch: 41 sequences a step, but the training data has only 40"),
        ({"precision": "16-mixed", "device": "cpu"}, "train.precision: 16-mixed needs a GPU"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path, changes, message):
    model = tiny("mamba", "tied")
    with pytest.raises(ConfigError, match=message):
        fit(
            model,
            CausalLM(model.tokenizer),
            Repeats(40, 7),
            Repeats(8, 7),
            spec(**changes, valid_every=1),
            tmp_path / "r",
        )


def test_rows_of_different_lengths_need_padding(tmp_path):
    class Uneven(Repeats):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return type(example)((example.views[0][: 5 + index % 2],), None, id=str(index))

    model = tiny("mamba", "tied")
    task = CausalLM(model.tokenizer)
    with pytest.raises(InputError, match=r"data\.padding"):
        fit(model, task, Uneven(8, 9), None, spec(max_steps=1), tmp_path / "a")
    rule = TokenRule(padding="right")
    assert fit(tiny("mamba", "tied"), task, Uneven(8, 9), None, spec(max_steps=1), tmp_path / "b", rule=rule).steps == 1


def test_folder_with_a_run_is_refused_without_resume(tmp_path):
    model = tiny("mamba", "tied")
    task, data = CausalLM(model.tokenizer), Repeats(40, 7)
    fit(model, task, data, None, spec(max_steps=1), tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run already"):
        fit(model, task, data, None, spec(max_steps=2), tmp_path / "run", resume=False)


@pytest.mark.parametrize(
    ("monitor", "mode", "rising"),
    [
        ("loss", "auto", False),
        ("mcc", "auto", True),
        ("mse", "auto", False),
        ("loss", "max", True),
        ("mcc", "min", False),
    ],
)
def test_direction_of_metrics(monitor, mode, rising):
    assert is_rising(monitor, mode) == rising


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, caplog, is_terminal):
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    with caplog.at_level("INFO"), progress(10) as show:
        show(3, "loss 1.5")
        show(10, "loss 0.5")
    assert ("10/10" in stream.getvalue()) == is_terminal
    assert caplog.messages == ([] if is_terminal else ["step 3 of 10: loss 1.5", "step 10 of 10: loss 0.5"])


TWO_PROCESSES = """
import sys
from pathlib import Path
from tests.train.toy import run
if __name__ == "__main__":
    run(Path(sys.argv[1]), "max_steps=5", "device=cpu", *sys.argv[2:])
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Gradients of each global batch are the same, whoever computes them; validation is gathered from both."""
    program = tmp_path / "program.py"
    program.write_text(TWO_PROCESSES)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), *sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    for name, words in (
        ("one", []),
        ("two", ["devices=2", "strategy=ddp"]),
        ("four", ["devices=2", "strategy=ddp", "micro_batch=1"]),
    ):
        done = subprocess.run(
            [sys.executable, str(program), str(tmp_path / name), *words],
            env=environment,
            timeout=300,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        start = json.loads((tmp_path / name / "events.jsonl").read_text().splitlines()[0])
        assert start["processes"] == (1 if name == "one" else 2)
    one, two, four = (read_log(tmp_path / name / "train.csv") for name in ("one", "two", "four"))
    for other in (two, four):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    valid = [read_log(tmp_path / name / "valid.csv") for name in ("one", "two", "four")]
    assert valid[1]["loss"] == pytest.approx(valid[0]["loss"], rel=1e-4)
    assert worst(weights_of(tmp_path / "one"), weights_of(tmp_path / "two")) < 1e-3
