"""Saving and exporting: nothing is lost, nothing is left half done, and published files come out as published."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.hub.catalog import get_checkpoint
from chargaff.hub.download import sha256_of
from chargaff.hub.load import create, load
from chargaff.hub.save import export, save
from chargaff.tokenizers.char import CharTokenizer

DATA = Path(__file__).parent.parent / "goldens" / "data" / "caduceus"
TINY = {"d_model": 16, "n_layer": 2, "vocab_size": 12, "rcps": True}
HEADS = [("lm", {}), ("none", {}), ("sequence", {"num_outputs": 3, "pooling": "first"}), ("token", {"num_outputs": 2})]
HEADS += [("sequence", {"num_outputs": 3, "bias": False})]


@pytest.fixture(params=["hub_ps_tiny", "hub_ph_tiny"])
def published(request) -> Path:
    return DATA / request.param


@pytest.fixture
def saved(tmp_path) -> Path:
    save(create("caduceus", TINY, seed=1), tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, **values) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize(("head", "options"), HEADS)
def test_a_saved_model_is_the_same_to_the_bit(tmp_path, head, options, dtype):
    model = create("caduceus", TINY, head=head, seed=5, dtype=dtype, **options)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name])
    assert (again.spec.head, again.spec.head_options) == (model.spec.head, model.spec.head_options)


def test_an_own_head_of_a_family_returns(tmp_path):
    model = create("cnn", {"input_len": 80, "embedding_dim": 8}, head="sequence", num_outputs=5)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    tokens = torch.full((2, 80), 7)
    assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)
    with pytest.raises(CheckpointError, match="holds no 'token' head"):
        load(tmp_path / "model", head="token")


def test_a_common_head_on_a_family_with_its_own_returns(tmp_path):
    from chargaff.nn.heads import SequenceHead

    model = create("cnn", {"input_len": 80, "embedding_dim": 8}, head="none")
    model.head = SequenceHead(model.backbone.width, 2)
    model.spec = replace(model.spec, head="sequence", head_options={"num_outputs": 2, "pooling": "mean", "bias": True})
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    assert torch.equal(again.head.linear.weight, model.head.linear.weight)


def test_facts_return(tmp_path):
    model = create("caduceus", TINY, head="sequence", num_outputs=2, name="mine")
    facts = {
        "labels": ("no", "yes"),
        "thresholds": {"yes": 0.3},
        "context_bp": 77,
        "licence": "MIT",
        "paper": "doi:1",
        "parent": "caduceus-ps-131k",
        "notes": {"data": "toy", "seed": "3"},
        "head_options": {**model.spec.head_options, "problem": "single-label"},
    }
    model.spec = replace(model.spec, **facts)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu").spec
    for key, value in facts.items():
        assert getattr(again, key) == value, key
    assert again.config == model.spec.config
    assert again.name == str(tmp_path / "model")
    assert again.sha256 == sha256_of(tmp_path / "model" / "model.safetensors")


def test_a_copy_remembers_what_it_is_a_copy_of(tmp_path):
    save(create("caduceus", TINY, name="first"), tmp_path / "model")
    assert load(tmp_path / "model", device="cpu").spec.parent == "first"


def test_options_of_the_tokenizer_return(tmp_path):
    model = create("caduceus", TINY)
    model.tokenizer = CharTokenizer.standard(n_as_pad=True)
    save(model, tmp_path / "model")
    assert load(tmp_path / "model", device="cpu").tokenizer == model.tokenizer


def test_tied_names_are_written_once_with_metadata_for_other_readers(saved):
    with safe_open(saved / "model.safetensors", "pt") as file:
        names = list(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert not [name for name in names if "mamba_rev.in_proj" in name or "mamba_rev.out_proj" in name]
    assert "head.lm_head.weight" not in names


def test_description_can_be_read_by_people(saved):
    content = json.loads((saved / "model.json").read_text())
    assert content["family"] == "caduceus"
    assert content["config"]["d_model"] == 16
    assert content["tokenizer"]["class"] == "CharTokenizer"
    assert content["files"] == {"model.safetensors": sha256_of(saved / "model.safetensors")}
    assert content["params"] == sum(p.numel() for p in load(saved, device="cpu").parameters())


def test_a_head_can_be_left_behind_when_loading(tmp_path):
    save(create("caduceus", TINY, head="sequence", num_outputs=3), tmp_path / "model")
    model = load(tmp_path / "model", device="cpu", head="none")
    assert model.head is None
    assert model.spec.labels == ()


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = create("caduceus", TINY).train()
    before = {name: (tensor, tensor._version) for name, tensor in model.state_dict(keep_vars=True).items()}
    save(model, tmp_path / "model")
    assert model.training
    assert all(t is before[n][0] and t._version == before[n][1] for n, t in model.state_dict(keep_vars=True).items())


# on disk


def test_nothing_is_replaced_unless_asked(saved):
    with pytest.raises(InputError, match="exists already"):
        save(create("caduceus", TINY, seed=2), saved)
    save(create("caduceus", TINY, seed=2), saved, overwrite=True)
    expected = create("caduceus", TINY, seed=2).backbone.norm_f.weight
    assert torch.equal(load(saved, device="cpu").backbone.norm_f.weight, expected)


def test_a_failure_leaves_the_old_folder_and_nothing_else(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    broken = create("caduceus", TINY, seed=2)
    broken.spec = replace(broken.spec, notes={"x": object()})
    with pytest.raises(TypeError):
        save(broken, saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path):
    code = f"""
import resource
from chargaff.hub.load import create
from chargaff.hub.save import save
model = create("caduceus", {TINY})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
save(model, {str(tmp_path / "model")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("chargaff.errors.InputError")
    assert "model: cannot be written (File too large); free some space" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_altered_weights_are_noticed(saved):
    state = load_file(saved / "model.safetensors")
    state["backbone.norm_f.weight"] += 1
    save_file(state, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.json says .*altered after saving"):
        load(saved)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 99}, "format 99, expected 1; was it written by a newer version"),
        ({"config": {"d_modell": 3}}, "did you mean 'd_model'"),
        ({"family": "other"}, "expected one of .*got 'other'"),
        ({"labels": None}, "incomplete or altered"),
        ({"thresholds": [0.5]}, "incomplete or altered"),
        ({"thresholds": {"yes": "often"}}, "incomplete or altered"),
        ({"tokenizer": {"class": "BpeTokenizer"}}, "the tokenizer is not the family's CharTokenizer"),
        ({"tokenizer": {"class": "CharTokenizer", "colour": 1}}, "tokenizer: .*colour"),
        ({"head": "sequence", "head_options": {"num_outputs": 2}}, r"1 unexpected|missing"),
        ({"head": "dance"}, "model.head: expected one of .*got 'dance'"),
    ],
)
def test_altered_description_is_refused(saved, values, message):
    rewrite(saved, **values)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        load(saved)


def test_incomplete_description_is_refused(saved):
    content = json.loads((saved / "model.json").read_text())
    del content["strands"]
    (saved / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"incomplete or altered \(KeyError\('strands'\)\)"):
        load(saved)


def test_a_description_without_thresholds_is_read(saved):
    content = json.loads((saved / "model.json").read_text())
    del content["thresholds"]
    (saved / "model.json").write_text(json.dumps(content))
    assert load(saved).spec.thresholds == {}


def test_config_of_a_saved_model_can_be_overridden(saved):
    assert load(saved, device="cpu", config={"norm_epsilon": 0.5}).spec.config.norm_epsilon == 0.5
    with pytest.raises(ConfigError, match="did you mean 'norm_epsilon'"):
        load(saved, config={"norm_epsilonn": 0.5})


# export


def test_export_is_the_published_folder_again(published, tmp_path):
    export(load(published, device="cpu"), tmp_path / "out")
    names = sorted(path.name for path in published.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (published / weights).read_bytes()
    for name in names:
        if name.endswith(".json"):
            assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((published / name).read_text()), name


def test_an_exported_model_loads_again(published, tmp_path):
    model = load(published, device="cpu")
    export(model, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.spec.context_bp == model.spec.context_bp


def test_export_after_saving_and_loading_is_still_the_published_folder(published, tmp_path):
    save(load(published, device="cpu"), tmp_path / "saved")
    export(load(tmp_path / "saved", device="cpu"), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()


@pytest.mark.parametrize("labels", [(), ("donor", "acceptor", "neither")])
def test_classifier_in_the_published_layout(tmp_path, labels):
    model = create("caduceus", TINY, head="sequence", num_outputs=3, bias=False)
    model.spec = replace(model.spec, context_bp=64, labels=labels)
    export(model, tmp_path / "out")
    assert "score.weight" in load_file(tmp_path / "out" / "model.safetensors")
    again = load(tmp_path / "out", device="cpu")
    assert again.spec.head == "sequence"
    assert again.spec.labels == (labels or ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert torch.equal(again.head.linear.weight, model.head.linear.weight)


@pytest.mark.parametrize(
    ("family", "head", "message"),
    [
        ("caduceus", "sequence", "no place for this model's sequence head: .*head.linear.bias"),
        ("caduceus", "token", "published layout has lm, sequence, none, got 'token'"),
        ("mamba", "sequence", "no place for this model's sequence head"),
    ],
)
def test_heads_that_the_published_layout_does_not_know(tmp_path, family, head, message):
    config = {"d_model": 16, "n_layer": 2, "vocab_size": 12}
    model = create(family, config, head=head, num_outputs=3)
    model.spec = replace(model.spec, context_bp=64)
    with pytest.raises(ConfigError, match=message):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "size"), [("caduceus-ph-1k-256", 7_746_792), ("caduceus-ps-131k", 30_937_760)])
def test_weight_file_has_the_size_of_the_published_one(tmp_path, name, size):
    row = get_checkpoint(name)
    model = create(row.family, row.config)
    model.spec = replace(model.spec, context_bp=row.context_bp)
    export(model, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == size  # caduceus sheet 1.1


def test_mamba_is_exported_with_its_tied_head(tmp_path):
    model = create("mamba", {"d_model": 16, "n_layer": 2, "vocab_size": 12})
    export(model, tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(state["lm_head.weight"], state["backbone.embedding.weight"])
    again = load(tmp_path / "out", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(("family", "layout", "known"), [("caduceus", "lightning", "hub"), ("mamba", "jax", "hub")])
def test_layouts_that_cannot_be_written(tmp_path, family, layout, known):
    model = create(family, {"d_model": 16, "n_layer": 2, "vocab_size": 12})
    with pytest.raises(ConfigError, match=f"layout: {family} can be written in {known}, got '{layout}'"):
        export(model, tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_families_without_a_published_form_are_not_exported(tmp_path):
    model = create("cnn", {"input_len": 80, "embedding_dim": 8}, head="none")
    with pytest.raises(ConfigError, match="layout: cnn can be written in none, got 'hub'"):
        export(model, tmp_path / "out")


def test_export_does_not_replace_unless_asked(published, tmp_path):
    model = load(published, device="cpu")
    shutil.copytree(published, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        export(model, tmp_path / "out")
    export(model, tmp_path / "out", overwrite=True)
