"""Published facts about the Nucleotide Transformer that no contract test and no golden covers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import chargaff
from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.families import get_family
from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig
from chargaff.families.nucleotide_transformer.layouts import LAYOUTS
from chargaff.hub.catalog import get_checkpoint, list_checkpoints
from chargaff.hub.load import create, from_tensors
from chargaff.hub.readers import read_weights
from chargaff.hub.save import export, save, stored_tensors
from chargaff.model import Model
from chargaff.nn.encoded import Encoded
from tests.families import literal_nucleotide_transformer as literal

FAMILY = get_family("nucleotide_transformer")
GOLDENS = Path(__file__).parents[1] / "goldens/data/nt"
ROWS = [row for row in list_checkpoints() if row.family == "nucleotide_transformer"]
NINE = [
    "500M_human_ref",
    "500M_1000G",
    "2B5_1000G",
    "2B5_multi_species",
    "50M_multi_species_v2",
    "100M_multi_species_v2",
    "250M_multi_species_v2",
    "500M_multi_species_v2",
    "1B_agro_nt",
]
# elements of the published files, contact head and unused tables included (sheet 1.4), without the rotary buffers
FILES = {
    "500M_human_ref": 485_699_306,
    "2B5_1000G": 2_547_801_226,
    "1B_agro_nt": 991_261_206,
    "50M_multi_species_v2": 55_904_972,
    "100M_multi_species_v2": 97_889_132,
    "250M_multi_species_v2": 235_120_780,
    "500M_multi_species_v2": 498_345_436,
}


def tiny(variant: str = "v1", *, seed: int = 3, head: str = "lm", **changes) -> Model:
    outputs = None if head in ("lm", "none") else 3
    values = {**FAMILY.tiny[variant], **changes}
    model = create("nucleotide_transformer", values, head=head, num_outputs=outputs, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def ids_of(model: Model, text: str) -> torch.Tensor:
    return torch.from_numpy(model.tokenizer.encode(np.frombuffer(text.encode(), np.uint8))).unsqueeze(0)


def padded(model: Model, lengths: list[int], *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of rows of these lengths, <cls> first, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, 70, (len(lengths), max(lengths)), generator=generator)
    ids[:, 0] = 3
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return ids.masked_fill(~mask, 1), mask


def test_all_nine_names_are_known_and_the_codon_model_by_both():
    assert [get_checkpoint(name).family for name in NINE] == ["nucleotide_transformer"] * 9
    assert get_checkpoint("codon_nt") is get_checkpoint("50M_3mer_multi_species_v2")
    assert {row.licence for row in ROWS} == {"CC-BY-NC-SA-4.0"}
    assert {get_checkpoint(name).context_bp for name in NINE} == {999 * 6, 2047 * 6, 1023 * 6}


@pytest.mark.parametrize("name", FILES)
def test_an_exported_file_has_as_many_numbers_as_the_published_one(name):
    row = get_checkpoint(name)
    config = NucleotideTransformerConfig.from_json(row.config)
    with torch.device("meta"):
        backbone = FAMILY.backbone(config)
        head = FAMILY.lm_head(config, backbone)
        state = {f"backbone.{key}": tensor for key, tensor in backbone.state_dict().items()}
        state |= {f"head.{key}": tensor for key, tensor in head.state_dict().items()}
        written = LAYOUTS["hub"].write(state, config)
    sizes = {key: tensor.numel() for key, tensor in written.items() if not key.endswith("inv_freq")}
    assert sum(sizes.values()) == FILES[name]


def test_v2_is_recognised_with_and_without_its_model_type(tmp_path):
    published = json.loads((GOLDENS / "hub_v2_tiny/config.json").read_text())
    assert "model_type" not in published
    for values in (published, {**published, "model_type": "esm"}):
        config = NucleotideTransformerConfig.from_json(values)
        assert FAMILY.recognises(values)
        assert (config.use_glu_in_ffn, config.add_bias_fnn, config.ffn_activation) == (True, False, "swish")
    v1 = json.loads((GOLDENS / "hub_v1_tiny/config.json").read_text())
    config = NucleotideTransformerConfig.from_json(v1)
    assert (config.use_glu_in_ffn, config.add_bias_fnn, config.ffn_activation) == (False, True, "gelu-no-approx")


def test_eps_follows_the_source_of_the_weights():
    assert chargaff.load(GOLDENS / "hub_v2_tiny", device="cpu").spec.config.layer_norm_eps == 1e-12
    assert chargaff.load(GOLDENS / "jax_ckpt_v2_tiny", device="cpu").spec.config.layer_norm_eps == 1e-5


def test_the_same_weights_agree_between_hub_and_jax_folders():
    hub, jax = (chargaff.load(GOLDENS / name, device="cpu") for name in ("hub_v2_tiny", "jax_ckpt_v2_tiny"))
    ids, mask = padded(hub, [20, 7])
    with torch.no_grad():
        apart = hub(ids, mask).logits - jax(ids, mask).logits
        assert apart.abs().max() < 5e-4  # eps 1e-12 against 1e-5
        closer = chargaff.load(GOLDENS / "hub_v2_tiny", device="cpu", config={"layer_norm_eps": 1e-5})
        assert (closer(ids, mask).logits - jax(ids, mask).logits).abs().max() < 1e-5


def test_token_dropout_scales_sequences_without_masks_too():
    model, plain = tiny("v1"), tiny("v1", token_dropout=False)
    plain.load_state_dict(model.state_dict())
    ids = ids_of(model, "ACGTGTACNTGCACGG")
    word = model.backbone.embeddings.word_embeddings(ids.int())
    apart = plain.backbone.embed(ids) - model.backbone.embed(ids)
    torch.testing.assert_close(apart, word * 0.12, rtol=1e-4, atol=1e-6)
    ids[0, 2] = 2
    scaled = model.backbone.embed(ids) - model.backbone.embeddings.position_embeddings.weight[2 : 2 + ids.shape[1]]
    factor = 0.88 / (1 - 1 / ids.shape[1])
    expected = model.backbone.embeddings.word_embeddings(ids.int()) * factor
    expected[0, 2] = 0
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_learned_positions_count_what_is_no_padding_and_begin_behind_the_pad_id(variant):
    model = tiny(variant)
    ids, mask = padded(model, [9, 4])
    right = model.encode(ids, mask).hidden[1, :4]
    left = model.encode(ids.roll(5, 1)[1:], mask.roll(5, 1)[1:]).hidden[0, 5:]
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["v1", "v2", "rescaled", "post-norm"])
def test_the_three_ways_with_padding_agree_on_real_positions(variant):
    model = tiny(variant)
    ids, mask = padded(model, [17, 3, 11])
    found = {}
    for pads in ("packed", "hub", "jax"):
        other = tiny(variant, pads=pads)
        other.load_state_dict(model.state_dict())
        found[pads] = other(ids, mask, taps=["layer.1", "attn.2.1"])
    for pads in ("hub", "jax"):
        torch.testing.assert_close(found[pads].logits[mask], found["packed"].logits[mask], rtol=1e-4, atol=1e-5)
        for tap in ("layer.1", "attn.2.1"):
            a, b = (found[name].encoded.taps[tap][mask] for name in (pads, "packed"))
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not found["packed"].encoded.hidden[~mask].any()
    assert not found["jax"].logits[~mask].any()


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "gelu-no-approx", "relu", "swish", "silu", "sin"])
@pytest.mark.parametrize("variant", list(FAMILY.tiny))
def test_every_option_follows_the_equations_pads_included(variant, activation):
    model = tiny(variant, pads="jax", ffn_activation=activation, layer_norm_eps=1e-5)
    config = model.spec.config
    ids, mask = padded(model, [13, 5])
    ids[0, 3] = ids[1, 2] = config.mask_token_id
    names = [f"layer.{k}" for k in range(config.num_hidden_layers)]
    taps = [f"attn.{k + 1}" for k in range(config.num_hidden_layers)]
    found = model(ids, mask, taps=[*names, *taps])
    state, head = ({name: t.double() for name, t in part.state_dict().items()} for part in (model.backbone, model.head))
    for row in range(2):
        states, maps = literal.encode(ids[row], state, config)
        streams = [*(found.encoded.taps[name][row] for name in names), found.encoded.hidden[row]]
        for got, expected in zip(streams, states, strict=True):
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
        for name, expected in zip(taps, maps, strict=True):
            torch.testing.assert_close(found.encoded.taps[name][row].double(), expected, rtol=1e-4, atol=1e-6)
        expected = literal.logits(ids[row], states[-1], head, config)
        torch.testing.assert_close(found.logits[row].double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_maps_are_what_values_are_averaged_with():
    model = tiny("v2")
    ids, mask = padded(model, [12, 5])
    names = ["attn.1.0", "attn.1.1"]
    taps = model.encode(ids, mask, taps=[*names, "attn.1", "layer.0"]).taps
    assert set(taps) == {*names, "attn.1", "layer.0"}
    torch.testing.assert_close(taps["attn.1"], torch.stack([taps[name] for name in names], 1))
    rows = taps["attn.1"].sum(-1)
    torch.testing.assert_close(rows, mask.float().unsqueeze(1).expand_as(rows), rtol=1e-5, atol=1e-6)
    block = model.backbone.blocks[0]
    value = block.attention.self.value(block.attention.LayerNorm(taps["layer.0"])).view(2, 12, 2, -1)
    mixed = torch.einsum("bhts,bshk->bthk", taps["attn.1"], value).flatten(2)
    branch = block.attention.output.dense(mixed)
    stream = taps["layer.0"] + branch
    after = stream + block._feed_forward(block.LayerNorm(stream))
    torch.testing.assert_close(after[mask], model.encode(ids, mask, taps=["layer.1"]).taps["layer.1"][mask])
    with pytest.raises(ConfigError, match=r"no 'attn\.3\.0'; layers are 1 to 2, heads 0 to 1"):
        model.encode(ids, mask, taps=["attn.3.0"])


@pytest.mark.parametrize("key", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_acts_in_training_alone(key):
    model = tiny("v2", **{key: 0.5})
    ids, mask = padded(model, [12, 5])
    plain = tiny("v2")
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = plain.encode(ids, mask).hidden
        assert torch.equal(model.encode(ids, mask).hidden, expected)
        assert not torch.allclose(model.train().encode(ids, mask).hidden, expected)


def test_maps_are_made_only_where_asked():
    model, calls = tiny("v2"), []
    for block in model.backbone.blocks:
        block.attention._map = lambda *args, block=block: calls.append(block)
    ids, mask = padded(model, [12, 5])
    model.encode(ids, mask, taps=["layer.1"])
    assert not calls


def test_a_long_input_is_refused_by_a_table_and_read_with_rotary_positions():
    with pytest.raises(InputError, match=r"200 tokens exceed this model's table of 128 positions.*windows"):
        tiny("v1").encode(torch.full((1, 200), 7))
    assert tiny("v2").encode(torch.full((1, 200), 7)).hidden.isfinite().all()


def test_a_rotary_model_can_be_loaded_for_longer_inputs():
    changes = {"rescaling_factor": 2.0, "max_position_embeddings": 202}
    model = chargaff.load(GOLDENS / "hub_v2_tiny", device="cpu", config=changes)
    assert model.backbone.rule.max_tokens == 200
    vectors = chargaff.embed(model, ["ACG" * 190], chargaff.EmbedOptions(window_bp=597)).vectors
    assert np.isfinite(vectors).all()


def test_rescaling_changes_the_base_as_published():
    config = NucleotideTransformerConfig.from_json(
        {**FAMILY.tiny["v2"], "rescaling_factor": 2.44140625, "key_size": 64}
    )
    assert config.rotary_base == pytest.approx(10_000 * 2.44140625 ** (64 / 62))


def test_jax_hyperparameters_without_optional_keys_have_the_codes_defaults():
    required = {
        "k_for_kmers": 6,
        "max_positions": 1000,
        "embed_scale": 1.0,
        "emb_layer_norm_before": False,
        "attention_heads": 20,
        "embed_dim": 1280,
        "ffn_embed_dim": 5120,
        "num_layers": 24,
        "token_dropout": True,
        "masking_ratio": 0.15,
        "masking_prob": 0.8,
        "somebody": "else's key",
    }
    config = NucleotideTransformerConfig.from_json(required)
    row = NucleotideTransformerConfig.from_json(get_checkpoint("500M_human_ref").config)
    assert config == replace(row, layer_norm_eps=1e-5, mask_ratio_train=pytest.approx(0.12))
    with pytest.raises(ConfigError, match="ffn_activation_name"):
        NucleotideTransformerConfig.from_json({**required, "ffn_activation_name": "tanh"})
    with pytest.raises(ConfigError, match="positional_embedding"):
        NucleotideTransformerConfig.from_json({**required, "positional_embedding": "sinusoidal"})


@pytest.mark.parametrize("variant", list(FAMILY.tiny))
def test_the_jax_layout_comes_back_to_the_bit(variant, tmp_path):
    model = tiny(variant)
    export(model, tmp_path / "jax", layout="jax")
    assert sorted(path.name for path in (tmp_path / "jax").iterdir()) == ["hyperparams.json", "pytree_ckpt.joblib"]
    again = chargaff.load(tmp_path / "jax", device="cpu")
    assert again.spec.config == replace(model.spec.config, mask_ratio_train=pytest.approx(0.12))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("variant", ["v1", "v2", "agro"])
def test_the_hub_layout_comes_back_to_the_bit(variant, tmp_path):
    model = tiny(variant)
    export(model, tmp_path / "hub")
    again = chargaff.load(tmp_path / "hub", device="cpu")
    assert again.spec.config == model.spec.config
    assert again.tokenizer == model.tokenizer
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_jax_folder_is_converted_once(tmp_path):
    model = chargaff.load(GOLDENS / "jax_ckpt_v2_tiny", device="cpu")
    save(model, tmp_path / "ours")
    again = chargaff.load(tmp_path / "ours", device="cpu")
    assert again.spec.config == model.spec.config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("variant", ["rescaled", "post-norm", "bias-kv"])
def test_what_the_hubs_code_cannot_express_is_not_written_for_it(variant, tmp_path):
    with pytest.raises(ConfigError, match="cannot express"):
        export(tiny(variant), tmp_path / "hub")


def test_the_jax_layout_has_no_place_for_a_classifier(tmp_path):
    with pytest.raises(ConfigError, match="head is 'sequence'"):
        export(tiny(head="sequence"), tmp_path / "jax", layout="jax")


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_published_classifiers_are_found_by_their_tensors(kind, tmp_path):
    model = tiny("v1", head=kind)
    export(model, tmp_path / "hub")
    names = set(load_file(tmp_path / "hub/model.safetensors"))
    assert ("classifier.dense.weight" in names) == (kind == "sequence")
    assert ("classifier.weight" in names) == (kind == "token")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    again = chargaff.load(tmp_path / "hub", device="cpu")
    assert (again.spec.head, again.spec.head_options["num_outputs"]) == (kind, 3)
    ids, mask = padded(model, [9, 4])
    with torch.no_grad():
        assert torch.equal(again(ids, mask).logits, model(ids, mask).logits)


def test_the_classifier_reads_the_class_token():
    head = tiny("v1", head="sequence").head
    hidden = torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = head.out_proj(torch.tanh(head.dense(hidden[:, 0])))
        assert torch.equal(head(Encoded(hidden)), expected)


def copied(folder: Path, source: str) -> Path:
    shutil.copytree(GOLDENS / source, folder / source)
    return folder / source


def test_config_and_weights_of_different_versions_are_refused(tmp_path):
    folder = copied(tmp_path, "hub_v2_tiny")
    v1 = json.loads((GOLDENS / "hub_v1_tiny/config.json").read_text())
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    v2 = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**v1, **{key: v2[key] for key in sizes}, "add_bias_fnn": None}))
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"do not match|different repositories"):
        chargaff.load(folder, device="cpu")
    model, changes = tiny("v1"), {**FAMILY.tiny["v1"], "use_glu_in_ffn": True}
    tensors = LAYOUTS["hub"].write(stored_tensors(model), model.spec.config)
    with pytest.raises(CheckpointError, match=r"describes v2 \(gated.*tensors are of v1"):
        from_tensors("nucleotide_transformer", changes, tensors)


def test_a_file_with_blocks_of_both_versions_is_refused(tmp_path):
    folder = copied(tmp_path, "hub_v2_tiny")
    state = load_file(folder / "model.safetensors")
    name = "esm.encoder.layer.1.intermediate.dense.weight"
    save_file({**state, name: state[name][:20].clone()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="v1 and v2 are mixed"):
        chargaff.load(folder, device="cpu")


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    folder = copied(tmp_path, "hub_v2_tiny")
    shutil.copy(GOLDENS / "hub_v1_tiny/vocab.txt", folder / "vocab.txt")
    with pytest.raises(CheckpointError, match=r"the vocabulary is 73 tokens.*that of the model is 75"):
        chargaff.load(folder, device="cpu")


def test_half_downloaded_shards_are_refused(tmp_path):
    folder = copied(tmp_path, "hub_v2_tiny")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    files = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    first = {name: state[name] for name, file in files.items() if "00001-" in file}
    save_file(first, folder / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="1 of 2 files are missing"):
        chargaff.load(folder, device="cpu")


def test_tensors_nobody_uses_are_tolerated_and_others_are_not(tmp_path):
    folder = copied(tmp_path, "hub_v2_tiny")
    state = read_weights(folder / "model.safetensors")
    extra = {
        "esm.embeddings.position_ids": torch.zeros(1, 50, dtype=torch.int64),
        "esm.rotary_embeddings.inv_freq": torch.ones(4),
        "esm.pooler.dense.weight": torch.zeros(16, 16),
    }
    save_file({**state, **extra}, folder / "model.safetensors")
    chargaff.load(folder, device="cpu")
    save_file({**state, "esm.adapter.weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"esm\.adapter\.weight"):
        chargaff.load(folder, device="cpu")
