"""The originals' README snippets, and stored outputs of the published classes, through the Auto classes.

The snippets are the published ones with one import line added and names of folders in place of hub ids.
"""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import chargaff.integrations.transformers
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.tokenizers.bpe import BpeTokenizer, letters_definition
from tests.contract.tiny import tiny_model
from tests.integrations.folders import GOLDENS, close, exported, golden, logits_of, published, stored

CADUCEUS = """
import chargaff.integrations.transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(model_name)
model = AutoModelForMaskedLM.from_pretrained(model_name)
"""
CADUCEUS_FROM_SCRATCH = """
import chargaff.integrations.transformers
from transformers import AutoConfig, AutoModelForMaskedLM

config_overrides = {"d_model": 24, "n_layer": 3}
config = AutoConfig.from_pretrained(
 model_name,
 **config_overrides,
)
model = AutoModelForMaskedLM.from_config(config)
"""
HYENADNA = """
import chargaff.integrations.transformers
from transformers import AutoTokenizer, AutoModelForSequenceClassification
import torch

checkpoint = model_name
max_length = 100

tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(checkpoint, torch_dtype=torch.bfloat16, device_map="cpu",
                                                           trust_remote_code=True)

sequence = 'ACTG' * int(max_length/4)
sequence = [sequence] * 8
tokenized = tokenizer(sequence)["input_ids"]
labels = [0, 1] * 4
loss = model(torch.tensor(tokenized), labels=torch.tensor(labels)).loss
"""
DNABERT_S = """
import chargaff.integrations.transformers
import torch
from transformers import AutoTokenizer, AutoModel

tokenizer = AutoTokenizer.from_pretrained(model_name, trust_remote_code=True)
model = AutoModel.from_pretrained(model_name, trust_remote_code=True)

dna = "ACGTAGCATCGGATCTATCTATCGACACTTGGTTATCGATCTACGAGCATCTCGTTAGC"
inputs = tokenizer(dna, return_tensors = 'pt')["input_ids"]
hidden_states = model(inputs)[0] # [1, sequence_length, 768]

# embedding with mean pooling
embedding_mean = torch.mean(hidden_states[0], dim=0)
"""
NUCLEOTIDE_TRANSFORMER = """
import chargaff.integrations.transformers
from transformers import AutoTokenizer, AutoModelForMaskedLM
import torch

tokenizer = AutoTokenizer.from_pretrained(model_name, trust_remote_code=True)
model = AutoModelForMaskedLM.from_pretrained(model_name, trust_remote_code=True)

max_length = 24
sequences = ["ATTCCGATTCCGATTCCG", "ATTTCTCTCTCTCTCTGAGATCGATCGATCGAT"]
tokens_ids = tokenizer.batch_encode_plus(sequences, return_tensors="pt", padding="max_length",
                                         max_length = max_length)["input_ids"]

attention_mask = tokens_ids != tokenizer.pad_token_id
torch_outs = model(
    tokens_ids,
    attention_mask=attention_mask,
    encoder_attention_mask=attention_mask,
    output_hidden_states=True
)

embeddings = torch_outs['hidden_states'][-1].detach()
attention_mask = torch.unsqueeze(attention_mask, dim=-1)
mean_sequence_embeddings = torch.sum(attention_mask*embeddings, axis=-2)/torch.sum(attention_mask, axis=1)
"""


def run(snippet: str, model_name) -> dict:
    names = {"model_name": str(model_name)}
    exec(compile(snippet, "snippet", "exec"), names)
    return names


@pytest.mark.parametrize("folder", ["hub_ph_tiny", "hub_ps_tiny"])
def test_the_snippet_of_caduceus(folder):
    names = run(CADUCEUS, GOLDENS / "caduceus" / folder)
    tensors, _ = golden(f"caduceus/{folder}")
    assert close(logits_of(names["model"], tensors["input.input_ids"]), tensors["output.logits"])
    assert names["tokenizer"]("ACGT")["input_ids"] == [7, 8, 9, 10, 1]


def test_the_snippet_of_caduceus_from_scratch():
    model = run(CADUCEUS_FROM_SCRATCH, GOLDENS / "caduceus" / "hub_ps_tiny")["model"]
    assert (model.config.d_model, model.config.n_layer) == (24, 3)
    assert model(torch.tensor([[7, 8, 9, 10]])).logits.shape == (1, 4, 16)


def test_the_snippet_of_hyenadna(tmp_path):
    config = {"d_model": 16, "n_layer": 2, "max_seq_len": 102, "emb_dim": 5, "filter_order": 8, "d_inner": 32}
    model = create("hyenadna", {**config, "activation_freq": 10, "model_type": "hyenadna"}, head="sequence",
                   num_outputs=2, pooling="last", bias=False)  # fmt: skip
    names = run(HYENADNA, exported(model, tmp_path / "hyenadna"))
    assert names["model"].dtype == torch.bfloat16
    assert torch.isfinite(names["loss"])
    assert names["tokenizer"].padding_side == "left"


def test_the_snippet_of_dnabert_s(tmp_path):
    definition = stored("dnabert/tokenizer.json").read_text()
    config = {"vocab_size": 4096, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 24}  # fmt: skip
    model = create("dnabert2", config, head="pooler")
    model.tokenizer = BpeTokenizer(definition)
    names = run(DNABERT_S, exported(model, tmp_path / "dnabert-s"))
    expected = [1, 5, 194, 32, 757, 1239, 2092, 294, 24, 359, 88, 93, 32, 75, 77, 19, 2]
    assert names["inputs"].tolist() == [expected]
    assert names["hidden_states"].shape == (1, 17, 16)
    with torch.no_grad():
        states = model.eval()(torch.tensor([expected])).encoded.hidden
    assert close(names["embedding_mean"].detach(), states[0].mean(0))


def test_the_snippet_of_the_nucleotide_transformer():
    names = run(NUCLEOTIDE_TRANSFORMER, stored("nt/hub_v1_tiny"))
    assert names["mean_sequence_embeddings"].shape == (2, 30)
    assert len(names["torch_outs"]["hidden_states"]) == 3
    single = names["model"](names["tokenizer"]("ATTCCGATTCCGATTCCG", return_tensors="pt")["input_ids"],
                            output_hidden_states=True)  # fmt: skip
    assert close(names["mean_sequence_embeddings"][0], single.hidden_states[-1][0].mean(0).detach())


@pytest.mark.parametrize("folder", ["hub_v1_tiny", "hub_v2_tiny"])
@pytest.mark.parametrize("kind", [AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification,
                                  AutoModelForTokenClassification])  # fmt: skip
def test_published_folders_that_name_a_stock_type_or_none_are_ours(folder, kind):
    model = kind.from_pretrained(stored(f"nt/{folder}"))
    assert type(model).__module__.startswith("chargaff.")
    assert model.config.family == "nucleotide_transformer"


@pytest.mark.parametrize(("name", "expected"), [("hub_v1_tiny", "v1_hf_agro_like"), ("hub_v2_tiny", "hub_v2_tiny")])
def test_nucleotide_transformers_give_the_published_states(name, expected):
    tensors, _ = golden(str(stored(f"nt/{expected}.safetensors")).removesuffix(".safetensors"))
    model = AutoModelForMaskedLM.from_pretrained(stored(f"nt/{name}"))
    ids = tensors["input.input_ids"]
    mask = tensors.get("input.attention_mask", torch.ones_like(ids))
    with torch.no_grad():
        found = model(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    real = mask.bool()
    assert close(found.logits[real], tensors["output.logits"][real], 1e-4)
    for index, states in enumerate(found.hidden_states):
        if f"output.hidden_states_{index}" in tensors:
            assert close(states[real], tensors[f"output.hidden_states_{index}"][real], 1e-4), index
    for index, table in enumerate(found.attentions, start=1):
        if f"output.attentions_{index}" in tensors:
            wanted = tensors[f"output.attentions_{index}"].transpose(1, 2)[real]
            assert close(table.transpose(1, 2)[real], wanted, 1e-4), index


@pytest.mark.parametrize("name", ["ph_mlm", "ps_mlm", "ps_mlm_unfused"])
def test_caduceus_gives_the_published_states_and_loss(name, tmp_path):
    tensors = published(f"caduceus/{name}", tmp_path / "model", model_type="caduceus")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    ids = tensors["input.input_ids"]
    weights = tensors.get("input.loss_weights")
    with torch.no_grad():
        found = model(ids, labels=tensors["input.labels"], loss_weights=weights, output_hidden_states=True)
        bare = AutoModel.from_pretrained(tmp_path / "model")(ids).last_hidden_state
    assert close(found.logits, tensors["output.logits"])
    assert close(found.loss, tensors["output.loss"].view(()))
    assert close(bare, tensors["output.last_hidden_state"])
    expected = [tensors[key] for key in sorted(tensors) if key.startswith("output.hidden_states.")]
    assert len(found.hidden_states) == len(expected)
    assert all(close(got, wanted) for got, wanted in zip(found.hidden_states, expected, strict=True))


@pytest.mark.parametrize("name", ["ps_seqcls_mean", "ph_seqcls_conjoin_eval"])
def test_caduceus_classifiers_give_the_published_logits_and_loss(name, tmp_path):
    tensors = published(f"caduceus/{name}", tmp_path / "model", model_type="caduceus")
    _, meta = golden(f"caduceus/{name}")
    options = json.loads(meta["config"])["_classifier_kwargs"]
    options.pop("training", None)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", **options)
    with torch.no_grad():
        found = model(tensors["input.input_ids"], labels=tensors["input.labels"])
    assert close(found.logits, tensors["output.logits"])
    assert close(found.loss, tensors["output.loss"].view(()))
    if tensors["input.input_ids"].dim() == 3:  # the other strand is computed where only one is given
        one = logits_of(model, tensors["input.input_ids"][..., 0])
        assert close(one, tensors["output.logits"])


def test_hyenadna_gives_the_published_states_and_loss(tmp_path):
    tensors = published("hyenadna/hf_causal_lm", tmp_path / "model", model_type="hyenadna")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        found = model(tensors["input.input_ids"], labels=tensors["input.labels"], output_hidden_states=True)
    assert close(found.logits, tensors["output.logits"], 1e-4)
    assert close(found.loss, tensors["output.loss"].view(()), 1e-4)
    expected = [tensors[key] for key in sorted(tensors) if key.startswith("output.hidden_states.")]
    assert len(found.hidden_states) == len(expected)
    assert all(close(got, wanted, 1e-4) for got, wanted in zip(found.hidden_states, expected, strict=True))


def test_hyenadna_classifiers_read_the_position_before_the_padding(tmp_path):
    tensors = published("hyenadna/hf_sequence_classification", tmp_path / "model", model_type="hyenadna")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        for side in ("left", "right"):
            found = model(tensors[f"input.input_ids_{side}_padded"], labels=tensors["input.labels"])
            assert close(found.logits, tensors[f"output.logits_{side}_padded"], 1e-4), side
            if side == "left":
                assert close(found.loss, tensors["output.loss_left_padded"].view(()), 1e-4)


ENCODERS = {
    "dnabert/mlm_h2": (AutoModelForMaskedLM, {"model_type": "bert", "alibi_starting_size": 512}),
    "dnabert/seqcls_3way": (AutoModelForSequenceClassification, {"model_type": "bert", "alibi_starting_size": 512}),
    "nt/v1_hf_mlm": (AutoModelForMaskedLM, {"model_type": "esm"}),
    "nt/v2_hub_mlm": (AutoModelForMaskedLM, {}),
    "nt/v1_hf_seqcls": (AutoModelForSequenceClassification, {"model_type": "esm"}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_give_the_published_logits_and_loss(name, tmp_path):
    kind, marks = ENCODERS[name]
    tensors = published(name, tmp_path / "model", **marks)
    if name.startswith("dnabert"):
        (tmp_path / "model" / "tokenizer.json").write_text(letters_definition())
    model = kind.from_pretrained(tmp_path / "model")
    ids, mask = tensors["input.input_ids"], tensors["input.attention_mask"]
    with torch.no_grad():
        found = model(ids, attention_mask=mask, labels=tensors.get("input.labels"))
    real = mask.bool() if found.logits.dim() == 3 else slice(None)
    assert close(found.logits[real], tensors["output.logits"][real], 1e-4)
    if "output.loss" in tensors:
        assert close(found.loss, tensors["output.loss"].view(()), 1e-4)


def test_a_loaded_hyenadna_classifier_reads_the_last_position_in_chargaff_too(tmp_path):
    published("hyenadna/hf_sequence_classification", tmp_path / "model", model_type="hyenadna")
    assert chargaff.load(tmp_path / "model", device="cpu").spec.head_options["pooling"] == "last"


def test_the_tokenizer_of_caduceus_gives_the_stored_ids():
    cases = json.loads((GOLDENS / "caduceus" / "tokenizer_cases.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(
        GOLDENS / "caduceus" / "hub_ps_tiny", model_max_length=cases["model_max_length"]
    )
    for case in cases["hub_tokenizer"]:
        text = case["text"]
        found = tokenizer(text, **case["kwargs"])["input_ids"]
        assert found == case["encoding"]["input_ids"], case
    for case in cases["decode"]:
        assert tokenizer.decode(case["ids"]) == case["text"]
    assert tokenizer.get_vocab() == cases["vocab"]
    assert len(tokenizer) == cases["len"]
    assert tokenizer.complement_map == {int(key): value for key, value in cases["complement_map"].items()}


@pytest.mark.parametrize(("name", "size"), [("hub_v1_6mer", 4105), ("hub_v2_6mer", 4107), ("hub_v2_3mer", 75)])
def test_the_tokenizer_of_the_nucleotide_transformer_gives_the_stored_ids(name, size, tmp_path):
    cases = json.loads(stored("nt/tokenizer_cases.json").read_text())["cases"]
    tiny = get_family("nucleotide_transformer").tiny["v1" if "v1" in name else "v2"]
    model = create("nucleotide_transformer", {**tiny, "vocab_size": size})
    tokenizer = AutoTokenizer.from_pretrained(exported(model, tmp_path / "model"))
    assert tokenizer.padding_side == "right"
    for case in cases:
        if "ids" in case[name]:
            assert tokenizer(case["sequence"])["input_ids"] == case[name]["ids"], case["sequence"]
            assert tokenizer.convert_ids_to_tokens(case[name]["ids"]) == case[name]["tokens"]


def test_the_tokenizer_of_dnabert_gives_the_stored_ids(tmp_path):
    definition = stored("dnabert/tokenizer.json").read_text()
    tensors, meta = golden(str(stored("dnabert/tokenizer.safetensors")).removesuffix(".safetensors"))
    model = tiny_model("dnabert2", "two-heads", head="none")
    model = create("dnabert2", {**model.spec.config.to_json(), "vocab_size": 4096}, head="none")
    model.tokenizer = BpeTokenizer(definition)
    tokenizer = AutoTokenizer.from_pretrained(exported(model, tmp_path / "dnabert2"))

    def texts(name: str) -> list[str]:
        found = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.startswith(f"input.{name}.")}
        return [found[key].numpy().astype(np.uint8).tobytes().decode() for key in sorted(found, key=int)]

    for number, text in enumerate(texts("text")):
        assert tokenizer(text)["input_ids"] == tensors[f"output.ids.{number}"].tolist(), text
    limit = json.loads(meta["config"])["max_length"]
    batch = tokenizer(texts("batch_text"), padding=True, truncation=True, max_length=limit, return_tensors="pt")
    assert torch.equal(batch["input_ids"], tensors["output.batch_ids"])
    assert torch.equal(batch["attention_mask"], tensors["output.batch_mask"])
    pairs = tokenizer(texts("pair_a"), texts("pair_b"), padding=True, return_tensors="pt")
    assert torch.equal(pairs["input_ids"], tensors["output.pair_ids"])
    assert torch.equal(pairs["token_type_ids"], tensors["output.pair_type_ids"])


def test_the_folder_of_a_training_run_is_ours():
    folder = GOLDENS / "xlstm" / "checkpoint_fixture" / "dna_xlstm_tiny_mlm_ph"
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert model.config.family == "xlstm"
    tokens = torch.tensor([[7, 8, 9, 10, 11, 7]])
    assert torch.equal(logits_of(model, tokens), logits_of(chargaff.load(folder, device="cpu"), tokens))
    assert AutoTokenizer.from_pretrained(folder)("ACGT")["input_ids"] == [7, 8, 9, 10, 1]


def test_a_config_keeps_published_keys():
    config = AutoConfig.from_pretrained(GOLDENS / "caduceus" / "hub_ps_tiny")
    assert config.complement_map["7"] == 10
    assert config.ssm_cfg["d_state"] == 16
