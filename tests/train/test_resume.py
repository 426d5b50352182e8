"""A run that was killed, interrupted or resumed ends as if nothing had happened."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.hub.readers import read_weights
from chargaff.tasks.causal_lm import CausalLM
from chargaff.train.fit import fit
from chargaff.train.log import read_log
from tests.train.toy import Repeats, run, spec, tiny

PROGRAM = Path(__file__).parent / "toy.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join((str(PROGRAM.parents[2]), *sys.path)),
    "OMP_NUM_THREADS": "1",
}


def start(out: Path, *words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(out), *words]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


def finish(out: Path, *words: str) -> None:
    process = start(out, *words)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def last_step(out: Path) -> int:
    rows = read_log(out / "train.csv").get("step", [0.0])
    return int(rows[-1])


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if last_step(out) >= step:
            return
        time.sleep(0.01)


def assert_same_run(left: Path, right: Path) -> None:
    for name in ("train.csv", "valid.csv"):
        assert (left / name).read_text() == (right / name).read_text()
    for folder in ("model", "best"):
        one, other = (read_weights(side / folder / "model.safetensors") for side in (left, right))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(out)
    return out


@pytest.mark.parametrize(("kills", "workers"), [(1, 0), pytest.param(3, 2, marks=pytest.mark.slow)])
def test_killed_run_ends_bit_identical(whole, tmp_path, kills, workers):
    """Killed at random moments; the second time with loader processes from there on."""
    chance = random.Random(kills)
    out = tmp_path / "run"
    for _ in range(kills):
        process = start(out)
        wait_for_step(process, out, chance.randint(last_step(out) + 1, 23))
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.communicate()
    finish(out, f"workers={workers}")
    assert_same_run(whole, out)
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_saves_its_state_and_loses_no_step(whole, tmp_path, number):
    out = tmp_path / "run"
    process = start(out, "checkpoint_every=1000")
    wait_for_step(process, out, 7)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert "TrainingInterrupted" in errors
    assert "is saved in" in errors
    reached = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 7 < reached < 24
    assert f"the state of step {reached} of 24 is saved" in errors
    finish(out)
    assert_same_run(whole, out)


@pytest.mark.slow
def test_signal_to_one_of_two_processes_stops_both_after_the_same_step(tmp_path):
    """As `kill` sends it; a terminal's Ctrl-C reaches both, but maybe not in the same step."""
    out, words = tmp_path / "run", ("device=cpu", "devices=2", "strategy=ddp", "checkpoint_every=1000")
    process = start(out, *words)
    wait_for_step(process, out, 7)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    reached = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 7 < reached < 24
    assert errors.count(f"the state of step {reached} of 24 is saved") == 2
    finish(out, *words)
    assert last_step(out) == 24


@pytest.mark.slow
def test_second_process_in_the_same_folder_is_refused(tmp_path):
    out = tmp_path / "run"
    process = start(out, "max_steps=100000")
    wait_for_step(process, out, 2)
    with pytest.raises(InputError, match=f"is being written by another process .number {process.pid}."):
        run(out)
    process.kill()
    process.communicate()
    result = run(out, "max_steps=8")  # the lock died with its holder
    assert result.steps == 8


def test_resuming_in_the_same_process_is_exact_too(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    schedule = "schedule.kind=constant"  # other kinds depend on the number of steps
    run(whole, schedule, "max_steps=9", "valid_every=3")
    for steps in (4, 5, 9):
        run(parts, schedule, f"max_steps={steps}", "valid_every=3")
    log, other = read_log(whole / "train.csv"), read_log(parts / "train.csv")
    shared = [log["step"].index(step) for step in (6.0, 8.0)]
    same = [other["step"].index(step) for step in (6.0, 8.0)]
    assert [log["lr"][i] for i in shared] == [other["lr"][i] for i in same]
    one, two = (read_weights(side / "model/model.safetensors") for side in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_finished_run_is_not_repeated(tmp_path):
    first = run(tmp_path / "run", "max_steps=3")
    before = (tmp_path / "run/events.jsonl").read_text()
    assert run(tmp_path / "run", "max_steps=3") == first
    assert (tmp_path / "run/events.jsonl").read_text() == before


def test_run_killed_after_its_last_state_is_only_concluded(tmp_path):
    first = run(tmp_path / "run", "max_steps=3")
    before = read_weights(tmp_path / "run/model/model.safetensors")
    (tmp_path / "run/result.json").unlink()
    shutil.rmtree(tmp_path / "run/model")
    assert run(tmp_path / "run", "max_steps=3") == first
    after = read_weights(tmp_path / "run/model/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_finished_run_gives_its_weights_to_the_model(tmp_path):
    data, settings = Repeats(18, 21), spec(max_steps=3)
    models = [tiny("mamba", "tied", seed=seed) for seed in (1, 2)]
    for model in models:
        fit(model, CausalLM(model.tokenizer), data, None, settings, tmp_path / "run")
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_damaged_state_is_named(tmp_path):
    out = tmp_path / "run"
    run(out, "max_steps=2")
    (out / "result.json").unlink()
    state = out / "checkpoints/last.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a readable training state"):
        run(out, "max_steps=4")


def limit_file_size() -> None:
    """Files of more than 100 kB cannot be written: the system's answer is that of a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.slow
def test_full_disk_is_one_line_and_leaves_the_former_state(tmp_path):
    out = tmp_path / "run"
    run(out, "max_steps=3")
    state = (out / "checkpoints/last.ckpt").read_bytes()
    process = start(out, "max_steps=9", preexec_fn=limit_file_size)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "InputError: " in errors
    assert "last.ckpt: cannot be written" in errors
    assert "free some space" in errors
    assert "the state of step 3 is intact" in errors
    assert (out / "checkpoints/last.ckpt").read_bytes() == state
    assert not list(out.rglob("*.part"))


def test_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"of step \d+ is not a finite number.*the state of step \d+ is in") as caught:
        run(
            out,
            "optim.kind=sgd",
            "optim.lr=1e30",
            "clip=0",
            "schedule.kind=constant",
            "schedule.warmup_steps=4",
            "schedule.warmup_lr=1e-3",
            "checkpoint_every=1",
        )
    assert "train.optim.lr" in str(caught.value)
    state = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values() if tensor.is_floating_point())
