"""Loading: the same model from every kind of file, and one clear error for every kind that does not fit."""

import json
import logging
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chargaff.errors import BackendError, CheckpointError, ConfigError
from chargaff.families import get_family
from chargaff.hub.catalog import get_checkpoint
from chargaff.hub.load import create, from_tensors, load

DATA = Path(__file__).parent.parent / "goldens" / "data" / "caduceus"
TINY_PS = {"d_model": 16, "n_layer": 2, "vocab_size": 12, "rcps": True}
TINY_PH = {**TINY_PS, "rcps": False}
IN_PROJ = "caduceus.backbone.layers.0.mixer.{}.in_proj.weight"


@pytest.fixture(params=["hub_ps_tiny", "hub_ph_tiny"])
def published(request) -> Path:
    return DATA / request.param


@pytest.fixture
def ph(tmp_path) -> Path:
    """A copy of the Ph folder that the test may change."""
    return shutil.copytree(DATA / "hub_ph_tiny", tmp_path / "ph")


def rewrite(folder: Path, change) -> Path:
    """Applies `change` to the tensors of a folder."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def rewrite_config(folder: Path, **values) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def same_tensors(one, two) -> bool:
    ours, theirs = one.state_dict(), two.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


# what comes out


def test_published_folder_computes_what_its_authors_code_computes(published):
    model = load(published, device="cpu")
    expected = load_file(DATA / f"{published.name}.safetensors")
    logits = model(expected["input.input_ids"]).logits
    scale = expected["output.logits"].abs().max()
    assert (logits - expected["output.logits"]).abs().max() <= 1e-5 * scale + 1e-6  # KINDS.md, caduceus


def test_facts_of_a_published_folder(published):
    spec = load(published, device="cpu").spec
    assert (spec.family, spec.head, spec.name, spec.context_bp) == ("caduceus", "lm", str(published), 64)
    assert spec.strands == ("equivariant" if "ps" in published.name else "forward-only")
    assert len(spec.sha256) == 64


def test_loading_leaves_no_meta_tensor_and_no_random_number_drawn(published):
    before = torch.get_rng_state()
    model = load(published, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert not [name for name, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta]
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_tied_parameters_are_one_object(published):
    model = load(published, device="cpu")
    names = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in names.items():
        if ".mamba_rev." in name and (".in_proj." in name or ".out_proj." in name):
            assert parameter is names[name.replace("mamba_rev", "mamba_fwd")]
    head = next(parameter for name, parameter in names.items() if name.startswith("head."))
    assert any(parameter is head for name, parameter in names.items() if "word_embeddings" in name)


def test_tensors_do_not_hang_on_the_file(ph):
    model = load(ph, device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = ph / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    storages = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    assert len(storages) == len(list(model.parameters()))


def test_attributes_of_parameters_survive(published):
    flagged = [
        name for name, p in load(published, device="cpu").named_parameters() if getattr(p, "keep_float32", False)
    ]
    assert len(flagged) == 8  # A_log and D, two directions, two layers


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_dtype_changes_all_but_the_float32_islands(published, dtype):
    model = load(published, device="cpu", dtype=dtype)
    wanted = torch.bfloat16 if dtype == "bfloat16" else dtype
    for name, parameter in model.named_parameters():
        is_island = name.endswith(("A_log", ".D"))
        assert parameter.dtype == (torch.float32 if is_island else wanted), name
    assert all(not buffer.is_floating_point() for buffer in model.buffers())


def test_without_a_dtype_the_stored_one_stays(ph):
    def to_bf16(state):
        state.update({name: tensor.bfloat16() for name, tensor in state.items()})

    kinds = {name: p.dtype for name, p in load(rewrite(ph, to_bf16), device="cpu").named_parameters()}
    assert kinds["backbone.norm_f.weight"] == torch.bfloat16
    assert kinds["backbone.layers.0.mixer.mamba_fwd.A_log"] == torch.float32


# heads


def test_head_none_drops_the_head(published):
    model = load(published, device="cpu", head="none")
    assert model.head is None
    assert model.spec.head == "none"
    assert all(name.startswith("backbone.") for name in model.state_dict())


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_head_that_is_not_there_is_not_invented(published, head):
    with pytest.raises(CheckpointError, match=f"no '{head}' head .*has: lm.*chargaff finetune"):
        load(published, head=head)


def test_unknown_head(published):
    with pytest.raises(ConfigError, match=r"model.head: expected one of none, lm, sequence, token, got 'lmm'"):
        load(published, head="lmm")


@pytest.mark.parametrize("is_token", [False, True])
def test_published_classifier(ph, is_token):
    weight = torch.randn(3, 16)
    rewrite(ph, lambda state: state.update({"score.weight": weight}))
    rewrite_config(ph, id2label={"10": "c", "0": "a", "2": "b"})
    model = load(ph, device="cpu", head="token" if is_token else None)
    assert model.spec.head == ("token" if is_token else "sequence")
    assert model.spec.head_options["num_outputs"] == 3
    assert model.spec.head_options["bias"] is False
    assert torch.equal(model.head.linear.weight, weight)
    assert model.spec.labels == (() if is_token else ("a", "b", "c"))


def test_language_model_of_a_file_with_a_classifier(ph):
    expected = load(ph, device="cpu")
    rewrite(ph, lambda state: state.update({"score.weight": torch.randn(3, 16)}))
    assert same_tensors(load(ph, device="cpu", head="lm"), expected)


def test_bare_backbone(tmp_path, published):
    folder = shutil.copytree(published, tmp_path / "bare")
    prefix = "caduceus.backbone."
    state = {name[9:]: t for name, t in load_file(folder / "model.safetensors").items() if name.startswith(prefix)}
    save_file(state, folder / "model.safetensors")
    model = load(folder, device="cpu")
    assert model.spec.head == ("none" if "ps" in published.name else "lm")  # PS heads hold a table of their own
    whole = load(published, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.parameters(), whole.backbone.parameters(), strict=True))


# other kinds of file


def every_name(folder: Path) -> dict[str, torch.Tensor]:
    """The published tensors with all tied duplicates, as in training checkpoints."""
    model = load(folder, device="cpu")
    names = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    renamed = {name.replace("backbone.", "caduceus.backbone.", 1): t for name, t in names.items() if name[0] == "b"}
    return renamed | {name.replace("head.", "lm_head.", 1): t for name, t in names.items() if name[0] == "h"}


def test_torch_pickle_with_every_tied_name(published, tmp_path):
    torch.save(every_name(published), tmp_path / "pytorch_model.bin")
    shutil.copy(published / "config.json", tmp_path)
    assert same_tensors(load(tmp_path, device="cpu"), load(published, device="cpu"))


@pytest.mark.parametrize("where", ["folder", "file"])
def test_run_folder_of_the_training_framework(published, tmp_path, where):
    counter = {"train_torchmetrics.num_tokens.count": torch.tensor(5)}
    state = OrderedDict({f"model.{name}": tensor for name, tensor in every_name(published).items()} | counter)
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": state, "hyper_parameters": Path("x"), "epoch": 1}, path)
    config = json.loads((published / "config.json").read_text())
    keys = get_family("caduceus").config.__dataclass_fields__
    values = {key: value for key, value in config.items() if key in keys}
    target = "caduceus.configuration_caduceus.CaduceusConfig"
    (tmp_path / "model_config.json").write_text(json.dumps({"config": {"_target_": target, **values}}))
    (tmp_path / "config.json").write_text(json.dumps({"model": {"config": values}, "trainer": {"max_steps": 5}}))
    model = load(tmp_path if where == "folder" else path, device="cpu")
    assert same_tensors(model, load(published, device="cpu"))
    (tmp_path / "model_config.json").unlink()
    assert same_tensors(load(path, device="cpu"), model)


def test_fine_tuned_training_checkpoint_has_a_sequence_head(published, tmp_path):
    state = {f"model.{name}": tensor for name, tensor in every_name(published).items()}
    decoder = {"weight": torch.randn(2, 16), "bias": torch.randn(2)}
    state |= {f"decoder.0.output_transform.{name}": tensor for name, tensor in decoder.items()}
    torch.save({"state_dict": state}, tmp_path / "best.ckpt")
    shutil.copy(published / "config.json", tmp_path)
    model = load(tmp_path, device="cpu")
    assert (model.spec.head, model.spec.head_options["num_outputs"]) == ("sequence", 2)
    assert all(torch.equal(getattr(model.head.linear, name), tensor) for name, tensor in decoder.items())


# tied duplicates


def test_equal_duplicates_are_accepted(ph):
    expected = load(ph, device="cpu")

    def add(state):
        state[IN_PROJ.format("mamba_rev")] = state[IN_PROJ.format("mamba_fwd")].clone()
        state["lm_head.weight"] = state["caduceus.backbone.embeddings.word_embeddings.weight"].clone()

    assert same_tensors(load(rewrite(ph, add), device="cpu"), expected)


def test_the_other_name_alone_is_enough(ph):
    expected = load(ph, device="cpu")

    def swap(state):
        state[IN_PROJ.format("mamba_rev")] = state.pop(IN_PROJ.format("mamba_fwd"))

    assert same_tensors(load(rewrite(ph, swap), device="cpu"), expected)


def test_different_duplicates_name_both_and_the_config_key(ph):
    rewrite(ph, lambda state: state.update({IN_PROJ.format("mamba_rev"): state[IN_PROJ.format("mamba_fwd")] + 1}))
    with pytest.raises(CheckpointError) as caught:
        load(ph, device="cpu")
    message = str(caught.value)
    assert "layers.0.mixer.mamba_fwd.in_proj.weight and " in message
    assert "layers.0.mixer.mamba_rev.in_proj.weight differ" in message
    assert "bidirectional_weight_tie=True" in message


def test_untied_model_needs_and_takes_both(ph):
    rewrite_config(ph, bidirectional_weight_tie=False)
    with pytest.raises(CheckpointError, match=r"4 missing \(.*mamba_rev\.in_proj\.weight.*mamba_rev\.out_proj"):
        load(ph, device="cpu")

    def add(state):
        for name in [name for name in state if name.endswith(("in_proj.weight", "out_proj.weight"))]:
            state[name.replace("mamba_fwd", "mamba_rev")] = state[name] + 1

    model = load(rewrite(ph, add), device="cpu")
    mixer = model.backbone.layers[0].mixer
    assert torch.equal(mixer.mamba_rev.in_proj.weight, mixer.mamba_fwd.in_proj.weight + 1)


# what does not fit


def test_missing_tensors_are_counted_and_the_first_five_named(ph):
    def drop(state):
        for name in [name for name in state if ".layers.1." in name]:
            del state[name]

    with pytest.raises(CheckpointError) as caught:
        load(rewrite(ph, drop), device="cpu")
    message = str(caught.value)
    assert str(ph) in message
    assert "model.safetensors" in message
    assert "17 missing (" in message
    assert message.count("backbone.layers.1.") == 5
    assert "\n" not in message


def test_every_kind_of_problem_is_in_one_message(ph):
    def spoil(state):
        state["caduceus.backbone.layers.0.norm.weights"] = state.pop("caduceus.backbone.layers.0.norm.weight")
        state["caduceus.backbone.norm_f.weight"] = torch.ones(17)
        name = "caduceus.backbone.layers.1.norm.weight"
        state[name] = state[name].long()

    with pytest.raises(CheckpointError) as caught:
        load(rewrite(ph, spoil), device="cpu")
    message = str(caught.value)
    assert "1 missing (backbone.layers.0.norm.weight)" in message
    assert "1 unexpected (backbone.layers.0.norm.weights)" in message
    assert "1 of another shape (backbone.norm_f.weight (17,), expected (16,))" in message
    assert "1 of another kind (backbone.layers.1.norm.weight torch.int64, expected torch.float32)" in message


def test_name_of_no_layout(ph):
    rewrite(ph, lambda state: state.update({"encoder.weight": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"ph \(model\.safetensors\): .*encoder\.weight"):
        load(ph, device="cpu")


def test_head_of_a_file_is_not_dropped_by_mistake(ph):
    rewrite(ph, lambda state: state.update({"lm_head.bias": torch.ones(16)}))
    with pytest.raises(CheckpointError, match=r"1 unexpected \(head\.bias\)"):
        load(ph, device="cpu")


# descriptions


def test_weights_without_a_description(ph):
    (ph / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.json, .*, config\.json, hyperparams\.json says what"):
        load(ph)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: cannot be read as JSON"),
        ("[1]", "config.json: expected a JSON object, found list"),
        (
            '{"model_type": "bert", "hidden_size": 3}',
            "of no family known here: model_type 'bert', keys model_t",
        ),
        ("<html>", "config.json: cannot be read as JSON"),
    ],
)
def test_malformed_or_foreign_description(ph, text, message):
    (ph / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load(ph)


def test_wrong_value_in_a_published_config_names_file_and_key(ph):
    rewrite_config(ph, n_layer="two")
    with pytest.raises(CheckpointError, match=r"ph/config\.json: config\.n_layer: expected int, got 'two'"):
        load(ph)


def test_tokenizer_files_of_another_vocabulary(ph):
    path = ph / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "BertTokenizer"}))
    with pytest.raises(CheckpointError, match="BertTokenizer"):
        load(ph)


def test_config_keys_can_be_overridden(ph):
    model = load(ph, device="cpu", config={"norm_epsilon": 0.5, "residual_in_fp32": True})
    assert model.spec.config.norm_epsilon == 0.5
    assert model.spec.config.residual_in_fp32 is True
    assert model.spec.config.d_model == 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm_epsilonn": 1.0}, r"config\.norm_epsilonn: unknown key, did you mean 'norm_epsilon'\?"),
        ({"zzz": 1.0}, r"config\.zzz: unknown key, known: d_model, "),
        ({"n_layer": "two"}, r"config\.n_layer: expected int, got 'two'"),
    ],
)
def test_overrides_are_checked(ph, values, message):
    with pytest.raises(ConfigError, match=message):
        load(ph, config=values)


def test_licence_is_shown_once(ph, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "chargaff")
    row = get_checkpoint("caduceus-ph-1k-256")
    path = ph / "model.safetensors"
    from chargaff.hub.download import sha256_of

    monkeypatch.setitem(row.files, "model.safetensors", sha256_of(path))
    for _ in range(2):
        spec = load(ph, device="cpu").spec
    assert (spec.licence, spec.paper, spec.notes["copy_of"]) == (row.licence, row.paper, row.name)
    assert caplog.text.count("weights under Apache-2.0") == 1


# devices and types


@pytest.mark.parametrize("device", ["gpu", "cpu0", "cuda:x"])
def test_unknown_device(ph, device):
    with pytest.raises(ConfigError, match="device: expected auto, cpu, cuda"):
        load(ph, device=device)


def test_absent_device(ph):
    with pytest.raises(BackendError, match="CUDA devices"):
        load(ph, device="cuda:99")


def test_unknown_dtype(ph):
    with pytest.raises(ConfigError, match=r"dtype: expected one of float32, .*got 'half'"):
        load(ph, dtype="half")


def test_automatic_device_is_the_gpu_where_there_is_one(ph):
    assert load(ph).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


# tensors and nothing


def test_from_tensors_is_load_without_files(published):
    state = load_file(published / "model.safetensors")
    config = get_family("caduceus").config.from_json(json.loads((published / "config.json").read_text()))
    assert same_tensors(from_tensors("caduceus", config, state), load(published, device="cpu"))


def test_from_tensors_knows_its_layouts(published):
    with pytest.raises(ConfigError, match="layout: expected one of hub, lightning, got 'jax'"):
        from_tensors("caduceus", TINY_PS, {}, layout="jax")


def test_fresh_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    one = create("caduceus", TINY_PS, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert same_tensors(create("caduceus", TINY_PS, seed=3), one)
    assert not same_tensors(create("caduceus", TINY_PS, seed=4), one)


def test_fresh_model_is_complete():
    model = create("caduceus", TINY_PS, name="mine")
    assert (model.spec.name, model.spec.head, model.spec.strands) == ("mine", "lm", "equivariant")
    assert not [name for name, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta]
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    names = dict(model.named_parameters(remove_duplicate=False))
    assert len(names) > len(set(map(id, names.values()))), "ties are gone"


@pytest.mark.parametrize("name", ["mamba-1k-128", "caduceus-ps-1k-118", "cnn-genomic-benchmarks"])
def test_fresh_weights_for_a_row_of_the_catalogue(name):
    row = get_checkpoint(name)
    model = create(row.family, row.config, head=row.head, num_outputs=len(row.labels) or None)
    assert sum(parameter.numel() for parameter in model.parameters()) == row.params


@pytest.mark.parametrize(("head", "shape"), [("sequence", (2, 3)), ("token", (2, 9, 3)), ("lm", (2, 9, 16))])
def test_fresh_heads(head, shape):
    model = create("caduceus", TINY_PH, head=head, num_outputs=None if head == "lm" else 3)
    assert model(torch.full((2, 9), 7)).logits.shape == shape


def test_fresh_sequence_head_with_options():
    model = create("caduceus", TINY_PH, head="sequence", num_outputs=3, pooling="last", bias=False)
    assert model.head.pooling == "last"
    assert model.head.linear.bias is None
    assert dict(model.spec.head_options) == {"num_outputs": 3, "pooling": "last", "bias": False}


def test_fresh_model_in_bfloat16_keeps_its_float32_islands():
    kinds = {name: p.dtype for name, p in create("caduceus", TINY_PH, dtype="bfloat16").named_parameters()}
    assert kinds["backbone.norm_f.weight"] == torch.bfloat16
    assert kinds["backbone.layers.0.mixer.mamba_fwd.A_log"] == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {**TINY_PH, "d_modell": 3}}, r"config\.d_modell: unknown key, did you mean 'd_model'"),
        ({"config": 3}, "model.config: expected CaduceusConfig or its keys, got int"),
        ({"family": "caducous"}, r"model\.family: expected one of .*caduceus.*got 'caducous'"),
        ({"head": "sequence"}, "a 'sequence' head needs num_outputs"),
        ({"head": "sequence", "num_outputs": 0}, "needs num_outputs, a positive integer, got 0"),
        ({"head": "segment"}, "model.head: expected one of none, lm, sequence, token, got 'segment'"),
        ({"family": "cnn", "config": {}, "head": "lm"}, "no language-model head"),
    ],
)
def test_wrong_requests_for_a_fresh_model(options, message):
    with pytest.raises(ConfigError, match=message):
        create(**{"family": "caduceus", "config": TINY_PH, **options})


@pytest.mark.gpu
def test_a_model_on_the_gpu_is_the_one_on_the_cpu(published):
    here, there = load(published, device="cpu"), load(published, device="cuda")
    assert {tensor.device.type for tensor in [*there.parameters(), *there.buffers()]} == {"cuda"}
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.parameters(), there.parameters(), strict=True))
    names = dict(there.named_parameters(remove_duplicate=False))
    assert len(names) > len(set(map(id, names.values()))), "ties are gone"


@pytest.mark.gpu
def test_fresh_weights_do_not_depend_on_the_device():
    before = torch.cuda.get_rng_state()
    there = create("caduceus", TINY_PS, seed=3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    here = create("caduceus", TINY_PS, seed=3)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.parameters(), there.parameters(), strict=True))
    assert sum(p.numel() for p in there.parameters()) == sum(p.numel() for p in here.parameters())
