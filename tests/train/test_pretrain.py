"""Pre-training from the command line: repeats itself, survives, and says what is wrong in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from chargaff.cli.main import main
from chargaff.config import load_table
from chargaff.hub.load import load
from chargaff.hub.readers import read_weights
from chargaff.train.log import read_log
from chargaff.train.runs import PretrainRun
from tests.train.test_resume import limit_file_size

RUN = """
[model]
family = "caduceus"
[model.config]
d_model = 16
n_layer = 2
vocab_size = 12
rcps = true
residual_in_fp32 = false
[task]
kind = "masked-lm"
[data]
fasta = "{folder}/toy.fa"
length_bp = 32
valid_contigs = ["chr2"]
[train]
max_steps = 6
batch = 8
log_every = 2
valid_every = 3
valid_samples = 10
[train.optim]
lr = 8e-3
[out]
folder = "{folder}/out"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    unit = "".join("ACGT"[i] for i in rng.integers(0, 4, 9))
    with (tmp_path / "toy.fa").open("w") as file:
        for contig in ("chr1", "chr2"):
            text = (unit * 300)[:2000]
            file.write(f">{contig}\n" + "\n".join(text[i : i + 50] for i in range(0, 2000, 50)) + "\n")
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path))
    return tmp_path


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_weights(out / "model/model.safetensors")


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import sys; from chargaff.cli.main import main; sys.exit(main())", *words]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )  # type: ignore[call-overload]


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if read_log(out / "train.csv").get("step", [0])[-1] >= step:
            return
        time.sleep(0.01)


def test_written_run_file_repeats_the_run(folder, capsys):
    assert main(["pretrain", str(folder / "run.toml"), "train.max_steps=4", "model.config.d_model=8"]) == 0
    printed = capsys.readouterr().out
    assert f"model  {folder}/out/model" in printed
    assert "perplexity" in printed
    first = weights(folder / "out")
    (folder / "out").rename(folder / "before")
    run = load_table(PretrainRun, folder / "before/run.toml")
    assert (run.train.max_steps, run.model.config["d_model"]) == (4, 8)
    assert main(["pretrain", str(folder / "before/run.toml")]) == 0
    second = weights(folder / "out")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (folder / "out/run.toml").read_text() == (folder / "before/run.toml").read_text()
    assert (folder / "out/train.csv").read_text() == (folder / "before/train.csv").read_text()
    assert (folder / "out/provenance.json").exists()
    model = load(folder / "out/best", device="cpu")
    assert model.spec.context_bp == 32
    assert model.spec.strands == "equivariant"


def test_training_goes_on_from_a_checkpoint(folder):
    assert main(["pretrain", str(folder / "run.toml"), "train.max_steps=6"]) == 0
    text = (folder / "run.toml").read_text()
    begin, end = text.index("[model]"), text.index("[task]")
    adapted = f'{text[:begin]}[model]\nname = "{folder}/out/model"\n{text[end:]}'
    (folder / "more.toml").write_text(adapted)
    words = [f"out.folder={folder}/more", "train.valid_at_start=true", "train.max_steps=2"]
    assert main(["pretrain", str(folder / "more.toml"), *words]) == 0
    before, after = (read_log(folder / name / "valid.csv") for name in ("out", "more"))
    assert after["loss"][0] == pytest.approx(before["loss"][-1], rel=1e-6)


def test_causal_model_and_region_file(folder):
    (folder / "toy.bed").write_text("chr1\t0\t100\ttrain\nchr1\t512\t600\ttrain\nchr2\t0\t100\tvalid\n")
    words = [
        f"data.bed={folder}/toy.bed",
        "data.parent_bp=512",
        "data.valid_contigs=[]",
        "task.kind=causal-lm",
        "task.rc_probability=0.5",
        "model.family=mamba",
        "model.config={d_model = 8, n_layer = 1, vocab_size = 12}",
        "train.max_steps=2",
    ]
    assert main(["pretrain", str(folder / "run.toml"), *words]) == 0


def test_stages_warm_up_length_and_batch(folder):
    stage = "train.stages=[{steps = 2, batch = 16, length_bp = 16}]"
    assert main(["pretrain", str(folder / "run.toml"), stage, "train.log_every=1"]) == 0
    log = read_log(folder / "out/train.csv")
    assert log["samples"] == [16, 32, 40, 48, 56, 64]
    assert load(folder / "out/best", device="cpu").spec.context_bp == 32


def test_dry_run_says_the_cost_and_writes_nothing(folder, capsys):
    assert main(["pretrain", str(folder / "run.toml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 steps of 8 windows of 32 bp (256 tokens a step) out of 62: 0.86 epochs" in printed
    assert "peak memory about" in printed
    assert "valid_contigs = [" in printed
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.optim.beta=1"], "train.optim.beta: unknown key, did you mean 'betas'?"),
        (["train.max_step=1"], "train.max_step: unknown key, did you mean 'max_steps'?"),
        (["task.kind=masked"], "task.kind: expected one of 'masked-lm', 'causal-lm', got 'masked'"),
        (["model.family=caduceos"], "model.family: expected one of"),
        (["model.config.d_modle=8"], "d_modle"),
        (["model.family=", "model.name=caduceus-ps-1kk"], "caduceus-ps-1k"),
        (["data.fasta=nowhere.fa"], "nowhere.fa"),
        (["data.bed=nowhere.bed"], "names the split of each region"),
        (["data.bed=nowhere.bed", "data.valid_contigs=[]"], "nowhere.bed"),
        (["data.valid_contigs=['chr9']"], "chr9"),
        (["data.length_bp=3000"], "is left"),
        (["train.batch=1000"], "train.batch: 1000 sequences a step, but the training data has only 62"),
        (["train.precision=16-mixed", "train.device=cpu"], "train.precision: 16-mixed needs a GPU"),
        (["train.max_steps"], "expected key=value"),
        (["task.rc_probability=2"], "task.rc_probability: expected less than or equal to 1, got 2"),
        (["task.mask_fraction=0.95", "task.random_fraction=0.1"], "is above 1"),
        (["model.family=cnn", "model.config={input_len = 64}"], "no language-model head"),
    ],
)
def test_wrong_settings_are_one_line(folder, capsys, words, message):
    assert main(["pretrain", str(folder / "run.toml"), *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("chargaff: ")
    assert message in line


@pytest.mark.parametrize(
    ("content", "message"),
    [("ACGT\n", "toy.fa"), ("", "toy.fa"), (">chr1\nACGT\n", "chr2")],
)
def test_wrong_fasta_is_one_line(folder, capsys, content, message):
    (folder / "toy.fa").write_text(content)
    assert main(["pretrain", str(folder / "run.toml")]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_region_past_the_end_of_its_contig(folder, capsys):
    (folder / "toy.bed").write_text("chr1\t1900\t2100\ttrain\nchr2\t0\t100\tvalid\n")
    words = [f"data.bed={folder}/toy.bed", "data.parent_bp=512", "data.valid_contigs=[]"]
    assert main(["pretrain", str(folder / "run.toml"), *words]) == 2
    assert "past the end of chr1" in capsys.readouterr().err


def test_unknown_recipe_suggests_the_nearest(capsys):
    assert main(["pretrain", "caduceus-ps-1k-128-pretrian"]) == 2
    assert "did you mean 'caduceus-ps-1k-128-pretrain'" in capsys.readouterr().err


def test_folder_of_another_run_is_refused(folder, capsys):
    assert main(["pretrain", str(folder / "run.toml"), "train.max_steps=2"]) == 0
    assert main(["pretrain", str(folder / "run.toml"), "train.max_steps=2", "data.length_bp=16"]) == 2
    assert "holds another run (data.length_bp was 32, is 16)" in capsys.readouterr().err
    assert main(["pretrain", str(folder / "run.toml"), "train.max_steps=3"]) == 0
    assert "train.max_steps was 2, is 3" in capsys.readouterr().err
    assert main(["pretrain", str(folder / "run.toml"), "train.max_steps=4", "--no-resume"]) == 2


@pytest.mark.slow
def test_ctrl_c_saves_the_state_and_prints_the_command_that_goes_on(folder):
    process = start("pretrain", str(folder / "run.toml"), "train.max_steps=1000", "train.schedule.kind=constant")
    wait_for_step(process, folder / "out", 4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    line = errors.strip().splitlines()[-1]
    reached = int(read_log(folder / "out/train.csv")["step"][-1])
    assert line.startswith("chargaff: interrupted: the state of step ")
    assert f"continue with: chargaff pretrain {folder}/out/run.toml" in line
    process = start(*line.partition("continue with: chargaff ")[2].split(), f"train.max_steps={reached + 2}")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    steps = read_log(folder / "out/train.csv")["step"]
    assert steps == sorted(set(steps))
    assert steps[-1] == reached + 2


@pytest.mark.slow
def test_second_process_and_full_disk_are_one_line(folder):
    first = start("pretrain", str(folder / "run.toml"), "train.max_steps=100000", "train.valid_every=100000")
    wait_for_step(first, folder / "out", 4)
    second = start("pretrain", str(folder / "run.toml"), "train.max_steps=100000", "train.valid_every=100000")
    _, errors = second.communicate(timeout=120)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert f"is being written by another process (number {first.pid})" in errors.strip().splitlines()[-1]
    third = start("pretrain", str(folder / "run.toml"), f"out.folder={folder}/third", preexec_fn=limit_file_size)
    _, errors = third.communicate(timeout=120)
    assert third.returncode == 2, errors
    assert "cannot be written" in errors.strip().splitlines()[-1]
