"""Every shipped recipe is parsed, agrees with what it trains on, and runs for a moment on a toy model and toy data."""

import random
import re

import pytest

from chargaff.cli.main import main
from chargaff.data.formats import get_dataset
from chargaff.hub.catalog import list_checkpoints
from chargaff.hub.load import create
from chargaff.hub.save import save
from chargaff.train.runs import FinetuneRun, PretrainRun, list_recipes, load_run

RECIPES = list_recipes()
PRETRAIN = [name for name, path in RECIPES.items() if path.parent.name == "pretrain"]
FINETUNE = [name for name in RECIPES if name not in PRETRAIN]
LENGTH_BP = 80


def letters(count: int, rng: random.Random) -> str:
    return "".join(rng.choices("ACGT", k=count))


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Tiny models and a genome."""
    folder = tmp_path_factory.mktemp("toys")
    tiny = {"d_model": 8, "n_layer": 1, "vocab_size": 12}
    save(create("caduceus", {**tiny, "rcps": True}), folder / "caduceus-ps")
    save(create("caduceus", tiny), folder / "caduceus-ph")
    save(create("mamba", tiny), folder / "mamba")
    (folder / "genome.fa").write_text(f">chr1\n{letters(2000, random.Random(0))}\n")
    (folder / "genome.bed").write_text("chr1\t0\t500\ttrain\nchr1\t1000\t1200\tvalid\n")
    return folder


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_pretraining_recipe_runs(name, toys, tmp_path):
    words = [f"data.fasta={toys}/genome.fa", f"data.bed={toys}/genome.bed", "data.length_bp=64", "data.parent_bp=512"]
    words += ["model.config.d_model=8", "model.config.n_layer=1", "train.max_steps=2", "train.batch=2"]
    words += ["train.valid_every=2", "train.precision=32", "train.device=cpu", f"out.folder={tmp_path}/run"]
    assert main(["pretrain", name, *words]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("name", FINETUNE)
def test_a_finetuning_recipe_runs(name, toys, tmp_path):
    run = load_run(FinetuneRun, name)
    make_data(run, tmp_path)
    words = [f"data.root={tmp_path}", f"data.max_bp={LENGTH_BP}", f"out.folder={tmp_path}/run"]
    words += ["train.seeds=1", "train.epochs=1", "train.batch=8", "train.precision=32", "train.device=cpu"]
    if run.model.family == "cnn":
        words += [f"model.config.input_len={LENGTH_BP}", "model.config.embedding_dim=4"]
    else:
        kind = re.match(r"caduceus-p[hs]|mamba", name)[0]
        words += [f"model.name={toys}/{kind}"]
    assert main(["finetune", name, *words]) == 0
    assert (tmp_path / "run" / "results.parquet").exists()


def make_data(run: FinetuneRun, folder) -> None:
    """A toy version of the recipe's data set, in its own format."""
    dataset, rng = get_dataset(run.data.name), random.Random(1)
    for split in ("train", "test"):
        place = folder / dataset.files[split]
        if dataset.format == "folder-of-classes":
            for label in dataset.classes:
                (place / label).mkdir(parents=True)
                for number in range(8):
                    (place / label / f"{number}.txt").write_text(letters(LENGTH_BP, rng))
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            labels = [label for label in dataset.classes for _ in range(8)]
            place.write_text("".join(f">{i}|{label}\n{letters(LENGTH_BP, rng)}\n" for i, label in enumerate(labels)))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_begins_with_the_command_that_runs_it(name):
    comment = RECIPES[name].read_text().partition("\n\n")[0]
    verb = "pretrain" if name in PRETRAIN else "finetune"
    assert f"#     chargaff {verb} {name} " in comment


@pytest.mark.parametrize("name", FINETUNE)
def test_a_finetuning_recipe_agrees_with_its_data_set_and_checkpoint(name):
    run = load_run(FinetuneRun, name)
    dataset = get_dataset(run.data.name)
    assert run.data.max_bp == dataset.max_length_bp
    assert run.train.monitor == dataset.metric
    assert run.train.schedule.horizon_samples == dataset.schedule_rows
    if run.model.family:
        assert run.model.config == {"number_of_classes": len(dataset.classes), "input_len": dataset.max_length_bp}
    elif not run.model.name.startswith("runs/"):
        assert run.model.name in {row.name for row in list_checkpoints()}


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_pretraining_recipe_takes_a_million_tokens_a_step(name):
    run = load_run(PretrainRun, name)
    assert run.train.batch * run.data.length_bp == 1 << 20


def test_ph_and_ps_recipes_differ_in_strands_alone():
    ph, ps = (load_run(PretrainRun, f"caduceus-{kind}-1k-118-pretrain").model_dump() for kind in ("ph", "ps"))
    assert (ph["task"].pop("rc_probability"), ps["task"].pop("rc_probability")) == (0.5, 0.0)
    assert (ph["model"]["config"].pop("rcps"), ps["model"]["config"].pop("rcps")) == (False, True)
    ph.pop("out"), ps.pop("out")
    assert ph == ps
