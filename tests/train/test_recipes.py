"""Every recipe parses, says what was published, and runs."""

import re
import shutil
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch

from chargaff.config import read_toml
from chargaff.data.formats import get_dataset, list_datasets
from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub.catalog import get_checkpoint
from chargaff.train.runs import FinetuneRun, PretrainRun, find_run_file, list_recipes, load_run
from chargaff.workflows.finetune import finetune
from chargaff.workflows.pretrain import pretrain
from chargaff.workflows.training import open_model

RECIPES = list_recipes()
OWN = {
    "chargaff-caduceus-ps-mini-pretrain": ["model.config.d_model=8"],
    "chargaff-caduceus-ps-mini-second-pretrain": ["model.name=chargaff-caduceus-ps-mini"],
    "chargaff-caduceus-ps-mini-third-pretrain": ["model.name=chargaff-caduceus-ps-mini"],
    "chargaff-caduceus-ps-mini-fourth-pretrain": ["model.name=chargaff-caduceus-ps-mini"],
    "chargaff-caduceus-ps-mini-fifth-pretrain": ["model.name=chargaff-caduceus-ps-mini"],
    "chargaff-caduceus-ps-mini-sixth-pretrain": ["model.name=chargaff-caduceus-ps-mini"],
}
"""Of the checkpoint that ships with the package, with what makes them quick or, later stages, possible."""
PRETRAINING = [name for name in RECIPES if name.endswith("-pretrain") and name not in OWN]
FINETUNING = [name for name in RECIPES if name not in [*PRETRAINING, *OWN]]

# arXiv 2403.03234: model, windows, width, layers, updates
PUBLISHED_PRETRAINING = {
    f"{model}-{length}-{width}-pretrain": (length, width, layers, updates)
    for model in ("caduceus-ph", "caduceus-ps", "mamba")
    for length, width, layers, updates in (
        ("1k", 118, 4, 10_000),
        ("1k", 128, 4, 10_000),
        ("1k", 256, 4, 10_000),
        ("32k", 256, 8, 10_000),
        ("131k", 256, 16, 50_000),
    )
    if not (model == "mamba" and width == 118)
}
PARAMETERS = {
    "caduceus": {
        (118, 4): 470_702,
        (128, 4): 541_312,
        (256, 4): 1_934_592,
        (256, 8): 3_864_832,
        (256, 16): 7_725_312,
    },
    "mamba": {(128, 4): 468_608, (256, 4): 1_756_416, (256, 8): 3_508_480, (256, 16): 7_012_608},
}
LENGTHS_BP = {"1k": 1 << 10, "32k": 1 << 15, "131k": 1 << 17}

# learning rates of Mamba, Caduceus without equivariance, Ph, PS
GENOMIC_BENCHMARKS = {
    "dummy_mouse_enhancers_ensembl": (2e-3, 2e-3, 2e-3, 2e-3),
    "demo_coding_vs_intergenomic_seqs": (2e-3, 1e-3, 2e-3, 1e-3),
    "demo_human_or_worm": (2e-3, 1e-3, 2e-3, 1e-3),
    "human_enhancers_cohn": (1e-3, 1e-3, 1e-3, 2e-3),
    "human_enhancers_ensembl": (2e-3, 1e-3, 1e-3, 1e-3),
    "human_ensembl_regulatory": (1e-3, 2e-3, 2e-3, 1e-3),
    "human_ocr_ensembl": (2e-3, 2e-3, 2e-3, 2e-3),
    "human_nontata_promoters": (1e-3, 2e-3, 2e-3, 2e-3),
}
# (learning rate, batch) of Ph and of PS; histone marks not named here are 1e-3 with 128 for both
NT_TASKS = {
    "H3K4me1": ((1e-3, 512), (1e-3, 128)),
    "H3K4me2": ((1e-3, 128), (1e-3, 512)),
    "H3K4me3": ((1e-3, 512), (1e-3, 512)),
    "enhancers": ((1e-3, 512), (1e-3, 512)),
    "enhancers_types": ((1e-3, 512), (2e-3, 512)),
    "promoter_all": ((1e-3, 512), (1e-3, 128)),
    "promoter_no_tata": ((1e-3, 512), (1e-3, 128)),
    "promoter_tata": ((1e-3, 128), (1e-3, 512)),
    "splice_sites_all": ((1e-3, 512), (1e-3, 512)),
}
USUAL = ((1e-3, 128), (1e-3, 128))


def task_of(name: str) -> str:
    return read_toml(RECIPES[name])["data"]["name"].partition("/")[2]


def model_of(name: str) -> str:
    return name.removesuffix(f"-{task_of(name)}")


def test_every_published_run_has_a_recipe():
    assert set(PRETRAINING) == set(PUBLISHED_PRETRAINING)
    models = ("caduceus-ph", "caduceus-ph-single", "caduceus-ps", "cnn", "mamba")
    expected = {f"{model}-{task}" for model in models for task in GENOMIC_BENCHMARKS}
    nt_tasks = [row.name.partition("/")[2] for row in list_datasets() if row.name.startswith("nt_tasks/")]
    assert len(nt_tasks) == 18
    expected |= {f"caduceus-{kind}-{task}" for kind in ("ph", "ps") for task in nt_tasks}
    assert set(FINETUNING) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_begins_with_its_command(name):
    comment = re.match(r"(#.*\n)+", RECIPES[name].read_text()).group()
    verb = "pretrain" if name.endswith("-pretrain") else "finetune"
    assert re.search(rf"^#     chargaff {verb} {re.escape(name)}( |$)", comment, re.MULTILINE)
    assert name in OWN or "arXiv 2403.03234" in comment


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_recipe_says_what_was_published(name):
    run = load_run(PretrainRun, name)
    length, width, layers, updates = PUBLISHED_PRETRAINING[name]
    is_mamba, is_ps = name.startswith("mamba"), name.startswith("caduceus-ps")
    assert run.model.config["d_model"] == width
    assert run.model.config["n_layer"] == layers
    assert run.data.length_bp == LENGTHS_BP[length]
    assert run.train.max_steps == updates
    assert run.train.batch * run.data.length_bp == 1 << 20
    assert run.task.kind == ("causal-lm" if is_mamba else "masked-lm")
    assert run.task.rc_probability == (0.0 if is_ps else 0.5)
    optim, schedule = run.train.optim, run.train.schedule
    assert (optim.kind, optim.lr, optim.betas, optim.weight_decay) == ("adamw", 8e-3, (0.9, 0.95), 0.1)
    assert (schedule.kind, schedule.warmup, schedule.warmup_lr, schedule.min_lr) == ("cosine", 0.1, 1e-6, 1e-4)
    assert schedule.after_warmup
    assert (run.train.clip, run.train.seed, run.train.precision) == (1.0, 2222, "16-mixed")
    if not is_mamba:
        assert run.task.probability == 0.15
        assert run.model.config["rcps"] == is_ps


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_recipe_makes_a_model_of_the_published_size(name):
    run = load_run(PretrainRun, name)
    _, width, layers, _ = PUBLISHED_PRETRAINING[name]
    family = get_family(run.model.family)
    with torch.device("meta"):
        config = family.config.from_json(run.model.config, strict=True)
        backbone = family.backbone(config)
        head = family.lm_head(config, backbone)
    unique = {id(p): p.numel() for module in (backbone, head) for p in module.parameters()}
    assert sum(unique.values()) == PARAMETERS[run.model.family][width, layers]


@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning_recipe_says_what_was_published(name):
    run = load_run(FinetuneRun, name)
    task, model = task_of(name), model_of(name)
    row = get_dataset(run.data.name)
    assert (run.data.max_bp, run.data.padding, run.data.pad_to_max) == (row.max_length_bp, "left", True)
    assert run.task.counts_padding
    assert run.train.monitor == row.metric
    optim, schedule = run.train.optim, run.train.schedule
    assert (optim.kind, optim.betas, optim.weight_decay) == ("adamw", (0.9, 0.999), 0.1)
    assert (schedule.warmup, schedule.warmup_lr, schedule.min_lr_ratio, schedule.after_warmup) == (
        0.01,
        1e-6,
        0.1,
        False,
    )
    assert schedule.horizon_samples == row.schedule_rows
    assert (run.train.seed, run.train.clip) == (2222, 1.0)
    if task in GENOMIC_BENCHMARKS:
        assert (run.train.seeds, run.train.epochs) == (5, 10)
        order = ("mamba", "caduceus-ph-single", "caduceus-ph", "caduceus-ps")
        expected = (1e-3, 64) if model == "cnn" else (GENOMIC_BENCHMARKS[task][order.index(model)], 256)
    else:
        assert (run.train.seeds, run.train.epochs) == (10, 20)
        expected = NT_TASKS.get(task, USUAL)[model == "caduceus-ps"]
    assert (optim.lr, run.train.batch) == expected
    strands = {"mamba": "augment", "caduceus-ph-single": "augment", "caduceus-ph": "conjoin-eval"}
    assert run.task.strands == strands.get(model, "forward")
    if model == "cnn":
        assert run.model.config["input_len"] == row.max_length_bp
        assert run.model.config["number_of_classes"] == len(row.classes)
    if model.startswith("caduceus"):
        checkpoint = get_checkpoint(run.model.name)
        assert checkpoint.family == "caduceus"
        assert checkpoint.config["rcps"] == (model == "caduceus-ps")
        assert checkpoint.params == (470_702 if task in GENOMIC_BENCHMARKS else 1_934_592)


def test_two_recipes_differ_where_diff_says():
    one, other = (RECIPES[f"caduceus-{kind}-1k-118-pretrain"].read_text().splitlines() for kind in ("ph", "ps"))
    changed = {line.split("=")[0].strip() for line in set(one) ^ set(other) if "=" in line and not line.startswith("#")}
    assert changed == {"rcps", "rc_probability", "folder"}


def test_recipe_is_found_by_name_and_a_typo_is_answered():
    assert find_run_file("mamba-1k-128-pretrain") == RECIPES["mamba-1k-128-pretrain"]
    with pytest.raises(ConfigError, match="did you mean 'mamba-1k-128-pretrain'"):
        find_run_file("mamba-1k-128-pretrian")
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file"):
        load_run(PretrainRun, "nowhere.toml")


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genome")
    rng = np.random.default_rng(0)
    letters = "".join("ACGTN"[i] for i in rng.choice(5, 4000, p=[0.24, 0.24, 0.24, 0.24, 0.04]))
    (folder / "toy.fa").write_text(">chr1\n" + "\n".join(letters[i : i + 80] for i in range(0, 4000, 80)) + "\n")
    (folder / "toy.bed").write_text("chr1\t0\t500\ttrain\nchr1\t600\t1000\ttrain\nchr1\t1500\t2000\tvalid\n")
    return folder


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_recipe_runs_two_steps(name, genome, tmp_path):
    words = [
        f"data.fasta={genome}/toy.fa",
        f"data.bed={genome}/toy.bed",
        "data.length_bp=16",
        "data.parent_bp=256",
        "model.config.d_model=8",
        "model.config.n_layer=2",
        "train.max_steps=2",
        "train.batch=4",
        "train.valid_every=2",
        "train.valid_samples=4",
        "train.precision=32",
        f"out.folder={tmp_path}/run",
    ]
    check_two_steps(name, words)


@pytest.mark.parametrize("name", OWN)
def test_own_recipe_runs_two_steps(name, genome, tmp_path):
    (genome / "holdout.bed").write_text("chr1\t0\t100\n")
    words = [
        f"data.fasta={genome}/toy.fa",
        f"data.exclude={genome}/holdout.bed",
        "data.length_bp=16",
        "data.valid_fraction=0.2",
        *OWN[name],
        "train.max_steps=2",
        "train.batch=4",
        "train.valid_every=2",
        f"out.folder={tmp_path}/run",
    ]
    check_two_steps(name, words)


def check_two_steps(name, words):
    result = pretrain(load_run(PretrainRun, name, words))
    assert result.steps == 2
    assert np.isfinite(result.metrics["loss"])


def toy_suite(folder: Path, name: str) -> Path:
    """A few sequences in the files of a known data set."""
    row = get_dataset(name)
    rng = np.random.default_rng(1)
    for split, relative in row.files.items():
        path = folder / relative
        sequences = ["".join("ACGT"[i] for i in rng.integers(0, 4, 20)) for _ in range(12)]
        labels = [row.classes[i % len(row.classes)] for i in range(12)]
        if row.format == "folder-of-classes":
            for number, (text, label) in enumerate(zip(sequences, labels, strict=True)):
                (path / label).mkdir(parents=True, exist_ok=True)
                (path / label / f"{number}.txt").write_text(text)
        elif row.format == "fasta-label":
            path.parent.mkdir(parents=True, exist_ok=True)
            records = [f">{i}|{label}\n{text}\n" for i, (text, label) in enumerate(zip(sequences, labels, strict=True))]
            path.write_text("".join(records))
        else:
            pytest.fail(f"{name}: make a toy of format {row.format!r} for this test, split {split}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning_recipe_runs_two_steps(name, tmp_path):
    run_two_steps(name, tmp_path)


@pytest.mark.parametrize(
    "name", [name for name in FINETUNING if task_of(name) in ("human_ocr_ensembl", "promoter_tata")]
)
def test_one_finetuning_recipe_of_each_model_runs_two_steps(name, tmp_path):
    run_two_steps(name, tmp_path)


def run_two_steps(name: str, folder: Path) -> None:
    model = {
        "cnn": ["model.config.embedding_dim=4", "model.config.input_len=64", "data.max_bp=64"],
        "mamba": ["model.name=mamba-1k-128", "model.weights=fresh", "model.config.d_model=8", "model.config.n_layer=1"],
    }.get(model_of(name), ["model.weights=fresh", "model.config.d_model=8", "model.config.n_layer=2"])
    words = [
        *model,
        *(["data.max_bp=24"] if model_of(name) != "cnn" else []),
        f"data.root={toy_suite(folder / 'data', read_toml(RECIPES[name])['data']['name'])}",
        "train.epochs=2",
        "train.batch=10",
        "train.seeds=1",
        "train.precision=32",
        f"out.folder={folder}/run",
    ]
    run = load_run(FinetuneRun, name, words)
    result = finetune(run)
    assert result.rows[0]["steps"] == 2 == run.train.epochs * ceil(10 / 10)
    assert 0 <= result.summary["test_accuracy"] <= 1
    shutil.rmtree(folder)


def test_config_that_contradicts_its_checkpoint_needs_the_command_line(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        RECIPES["caduceus-ps-human_ocr_ensembl"]
        .read_text()
        .replace(
            'name = "caduceus-ps-1k-118"',
            'name = "caduceus-ps-1k-118"\nweights = "fresh"\nconfig = { d_model = 8, n_layer = 4 }',
        )
    )
    run = load_run(FinetuneRun, path)
    with pytest.raises(
        ConfigError, match=r"model\.config\.d_model: 8 contradicts the checkpoint caduceus-ps-1k-118 \(118\)"
    ):
        open_model(run.model, seed=0, head="none")
    run = load_run(FinetuneRun, path, ["model.config.d_model=8", "model.config.ssm_cfg.d_state=4"])
    assert run.model.override == ("d_model", "ssm_cfg")
    model = open_model(run.model, seed=0, head="none")
    assert model.spec.config.d_model == 8
    assert model.spec.config.to_json()["ssm_cfg"]["d_state"] == 4
    assert model.spec.config.to_json()["ssm_cfg"]["d_conv"] == 4
