"""Trainer, adapters, pipelines, generation, the hub's cache; and what is not ours stays as it was."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    EsmConfig,
    GPT2Config,
    Trainer,
    TrainingArguments,
    pipeline,
)

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families import list_families
from chargaff.hub.load import load
from chargaff.integrations.transformers import ChargaffConfig, ChargaffTokenizer, register
from tests.contract.tiny import IDS, VARIANTS, random_tokens, relative_error, tiny_model
from tests.integrations.folders import auto_class, exported, logits_of, saved

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Could not find a config file:UserWarning"
    ),  # peft, of folders without config.json
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = REPOSITORY / "docs" / "guides" / "transformers.md"
# float32 sums in another order differ by a few units of 2^-24, times the depth
REORDERED = 1e-5
CAUSAL = [("mamba", "tied"), ("hyenadna", "training"), ("llama", "causal"), ("xlstm", "hybrid-causal")]


def lora_targets() -> dict[str, list[str]]:
    """Family -> names of layers for LoRA, as the guide gives them."""
    rows = re.findall(r"^\| `(\w+)` \| (`[^|]+`) \|", GUIDE.read_text(), flags=re.M)
    return {family: re.findall(r"`(\w+)`", names) for family, names in rows}


class Sequences(Dataset):
    """Random sequences; the class is whether there are more of one id than of another."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens
        self.labels = (tokens == tokens[0, 0]).sum(1) > (tokens == tokens[1, 1]).sum(1)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index].long()}


def training_arguments(folder: Path, **options) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], per_device_train_batch_size=8, save_strategy="steps",
        eval_strategy="steps", save_steps=4, eval_steps=4, max_steps=8, learning_rate=1e-2, logging_steps=4,
        load_best_model_at_end=True, disable_tqdm=True, seed=1, dataloader_pin_memory=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("variant", [("caduceus", "ps"), ("hyenadna", "training"), ("nucleotide_transformer", "v2")])
def test_trainer_trains_keeps_the_best_and_resumes(variant, tmp_path):
    folder = saved(*variant, tmp_path / "model")
    tokens = random_tokens(load(folder, device="cpu"), batch=64, tokens=24)
    results = []
    for resumes in (False, True):
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trainer = Trainer(
            model, training_arguments(tmp_path / "run"), train_dataset=Sequences(tokens[:48]),
            eval_dataset=Sequences(tokens[48:]), processing_class=AutoTokenizer.from_pretrained(folder),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4") if resumes else None)
        assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())
        results.append(trainer.evaluate()["eval_loss"])
        best = trainer.state.best_model_checkpoint
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    again = AutoModelForSequenceClassification.from_pretrained(best)
    assert torch.equal(logits_of(again, tokens[:4]), logits_of(model.eval(), tokens[:4]))
    assert torch.equal(logits_of(load(best, device="cpu"), tokens[:4]), logits_of(again, tokens[:4]))
    assert isinstance(AutoTokenizer.from_pretrained(best), ChargaffTokenizer)


def test_trainer_continues_masked_pretraining_with_the_stock_collator(tmp_path):
    folder = saved("caduceus", "ph", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    rows = [tokenizer("ACGTTGCA" * 3 + "N" * (index % 3)) for index in range(32)]
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    trainer = Trainer(
        model, training_arguments(tmp_path / "run", gradient_checkpointing=True), train_dataset=rows,
        eval_dataset=rows[:8], data_collator=collator, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def with_noise(model, scale: float = 0.3) -> None:
    """Adapters begin as zero; random ones must show."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)


def test_the_guide_names_layers_for_every_family():
    assert set(lora_targets()) == set(list_families()) - {"cnn"}


@pytest.mark.parametrize(("family", "variant"), VARIANTS, ids=IDS)
def test_lora_on_the_named_layers_acts_learns_and_merges(family, variant, tmp_path):
    if family == "cnn":
        pytest.skip("convolutions alone: train it whole")
    folder = saved(family, variant, tmp_path / "model")
    model = auto_class(load(folder, device="cpu")).from_pretrained(folder)
    tokens = random_tokens(load(folder, device="cpu"))
    plain = logits_of(model, tokens)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=lora_targets()[family])).eval()
    adapters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert adapters
    assert all("lora_" in name for name in adapters)
    assert relative_error(logits_of(adapted, tokens), plain) < REORDERED, "fresh adapters change nothing"
    with_noise(adapted)
    adapted(tokens).logits.square().mean().backward()
    idle = [name for name, p in adapters.items() if p.grad is None or not p.grad.any()]
    assert not idle, f"adapters that are never used: {idle[:5]}"
    lean, full = logits_of(adapted, tokens), adapted(tokens).logits.detach()
    assert relative_error(lean, plain) > 1e-3
    assert relative_error(lean, full) < REORDERED, "without gradients another path is taken; it must count adapters too"
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        auto_class(load(folder, device="cpu")).from_pretrained(folder), tmp_path / "adapter"
    )
    assert relative_error(logits_of(again.eval(), tokens), lean) < REORDERED
    merged = adapted.merge_and_unload()
    assert relative_error(logits_of(merged, tokens), lean) < REORDERED
    merged.save_pretrained(tmp_path / "merged")
    assert relative_error(logits_of(load(tmp_path / "merged", device="cpu"), tokens), lean) < REORDERED


@pytest.mark.parametrize(("family", "variant"), VARIANTS, ids=IDS)
def test_lora_on_convolutions_acts_with_and_without_gradients(family, variant, tmp_path):
    folder = saved(family, variant, tmp_path / "model")
    model = auto_class(load(folder, device="cpu")).from_pretrained(folder)
    named = dict(model.backbone.named_modules(prefix="backbone"))
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d)
    layers = [name for name, layer in named.items() if isinstance(layer, kinds) and layer.groups == 1]
    if not layers:
        pytest.skip("no convolution that mixes channels")
    tokens = random_tokens(load(folder, device="cpu"))
    for name in layers:  # one at a time: none may hide behind another
        adapted = get_peft_model(
            auto_class(load(folder, device="cpu")).from_pretrained(folder), LoraConfig(r=2, target_modules=[name])
        ).eval()
        plain = logits_of(adapted, tokens)
        with_noise(adapted, 1.0)
        lean, full = logits_of(adapted, tokens), adapted(tokens).logits.detach()
        assert relative_error(full, plain) > 1e-4, name
        assert relative_error(lean, full) < REORDERED, name


@pytest.mark.parametrize("variant", [("caduceus", "ph"), ("hyenadna", "training"), ("xlstm", "hybrid-causal")])
def test_lora_on_all_linear_layers_acts_the_same_on_every_path(variant, tmp_path):
    torch.manual_seed(0)
    folder = saved(*variant, tmp_path / "model")
    core = load(folder, device="cpu")
    tokens = random_tokens(core)
    adapted = get_peft_model(auto_class(core).from_pretrained(folder), LoraConfig(r=2, target_modules="all-linear"))
    with_noise(adapted.eval(), 0.05)
    lean, full = logits_of(adapted, tokens), adapted(tokens).logits.detach()
    assert relative_error(lean, full) < REORDERED
    # three sines of ten times a sum in a row (HyenaDNA's filter) make much of the sum's rounding
    assert relative_error(logits_of(adapted.merge_and_unload(), tokens), lean) < 20 * REORDERED


def test_a_classifier_is_trained_beside_its_adapters_and_comes_back(tmp_path):
    folder = saved("caduceus", "ph", tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    options = LoraConfig(r=2, target_modules=lora_targets()["caduceus"], modules_to_save=["head"], task_type="SEQ_CLS")
    adapted = get_peft_model(model, options)
    adapted.base_model.model.gradient_checkpointing_enable()
    tokens = random_tokens(load(folder, device="cpu"), batch=4)
    adapted.train()
    adapted(input_ids=tokens, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("lora_B" in name for name in trained)
    assert any("head" in name for name in trained)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3), tmp_path / "adapter"
    ).eval()
    assert torch.equal(logits_of(again, tokens), logits_of(adapted, tokens))


def test_an_adapter_folder_loads_through_the_auto_class(tmp_path):
    folder = saved("mamba", "tied", tmp_path / "model")
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=lora_targets()["mamba"])
    )
    with_noise(adapted)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    tokens = random_tokens(load(folder, device="cpu"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(logits_of(model, tokens), logits_of(adapted, tokens))


@pytest.mark.parametrize("variant", [("caduceus", "ps"), ("hyenadna", "training"), ("nucleotide_transformer", "v1")])
def test_the_feature_pipeline_gives_the_states(variant, tmp_path):
    folder = saved(*variant, tmp_path / "model")
    extract = pipeline("feature-extraction", model=str(folder), tokenizer=str(folder), device="cpu")
    text = "ACGTTGCAACGTACGT"
    states = torch.tensor(extract(text))
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"]])
    assert relative_error(states, logits_of(AutoModel.from_pretrained(folder), ids)) < REORDERED


def test_the_classification_pipeline_names_labels_and_honours_masks(tmp_path):
    folder = saved("caduceus", "ps", tmp_path / "model")
    names = {0: "no", 1: "yes"}
    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label=names, label2id={"no": 0, "yes": 1})
    model.save_pretrained(tmp_path / "classifier")
    tokenizer = AutoTokenizer.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])
    tokenizer.save_pretrained(tmp_path / "classifier")
    classify = pipeline("text-classification", model=str(tmp_path / "classifier"), device="cpu")
    texts = ["ACGTACGTTT", "ACG"]
    together = classify(texts, batch_size=2)
    for text, found in zip(texts, together, strict=True):
        alone = classify(text)[0]
        assert found["label"] == alone["label"]
        assert found["label"] in names.values()
        assert found["score"] == pytest.approx(alone["score"], rel=1e-4)
    assert load(tmp_path / "classifier", device="cpu").spec.labels == ("no", "yes")


@pytest.mark.parametrize("variant", [("caduceus", "ph"), ("nucleotide_transformer", "v2")])
def test_the_fill_mask_pipeline_ranks_tokens(variant, tmp_path):
    folder = saved(*variant, tmp_path / "model")
    fill = pipeline("fill-mask", model=str(folder), tokenizer=str(folder), device="cpu")
    mask = fill.tokenizer.mask_token
    found = fill(f"ACGTTG{mask}ACGTAC", top_k=3)
    assert len(found) == 3
    ids = torch.tensor([fill.tokenizer(f"ACGTTG{mask}ACGTAC")["input_ids"]])
    model = AutoModelForMaskedLM.from_pretrained(folder)
    column = ids[0].tolist().index(fill.tokenizer.mask_token_id)
    best = logits_of(model, ids)[0, column].softmax(-1).topk(3)
    assert [entry["token"] for entry in found] == best.indices.tolist()
    assert [entry["score"] for entry in found] == pytest.approx(best.values.tolist(), rel=1e-4)


@pytest.mark.parametrize("variant", CAUSAL)
def test_generate_continues_as_chargaff_does(variant, tmp_path):
    folder = saved(*variant, tmp_path / "model")
    core = load(folder, device="cpu")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("ACGTTGCA", add_special_tokens=False, return_tensors="pt")
    expected = core.generate("ACGTTGCA", length=12, temperature=0)[0]
    for options in ({}, {"use_cache": False}):
        found = model.generate(**prompt, max_new_tokens=12, do_sample=False, **options)
        assert tokenizer.decode(found[0, 8:]) == expected
    sampled = model.generate(**prompt, max_new_tokens=30, do_sample=True, num_return_sequences=3)
    assert set(tokenizer.batch_decode(sampled)[0]) <= set("ACGT")
    assert sampled.shape == (3, 38)


def test_generation_settings_are_saved(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(saved("mamba", "tied", tmp_path / "model"))
    model.generation_config.top_k = 3
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").generation_config
    assert (again.top_k, again.suppress_tokens) == (3, model.generation_config.suppress_tokens)


@pytest.mark.parametrize("variant", CAUSAL)
def test_generate_with_beams_and_with_padding_equals_single_prompts(variant, tmp_path):
    folder = saved(*variant, tmp_path / "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    options = {"max_new_tokens": 6, "do_sample": False}
    batch = tokenizer(
        ["ACGTTGCA", "GGC"], add_special_tokens=False, padding=True, return_tensors="pt", return_attention_mask=True
    )
    together = model.generate(**batch, **options)
    for row, text in enumerate(["ACGTTGCA", "GGC"]):
        alone = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        assert torch.equal(together[row, -6:], model.generate(**alone, **options)[0, -6:])
    beams = model.generate(**alone, num_beams=3, **options)
    assert torch.equal(beams, model.generate(**alone, num_beams=3, use_cache=False, **options))


STOCK = {
    "bert": BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16),
    "protein-esm": EsmConfig(vocab_size=33, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                             intermediate_size=16, pad_token_id=1, mask_token_id=32, token_dropout=True,
                             position_embedding_type="rotary", emb_layer_norm_before=False),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2),
}  # fmt: skip


@pytest.mark.parametrize("name", STOCK)
def test_stock_models_stay_stock(name, tmp_path):
    model = AutoModel.from_config(STOCK[name]).eval()
    assert type(model).__module__.startswith("transformers.")
    model.save_pretrained(tmp_path / name)
    again = AutoModel.from_pretrained(tmp_path / name)
    assert type(again) is type(model)
    assert type(AutoConfig.from_pretrained(tmp_path / name)) is type(STOCK[name])
    ids = torch.arange(4, 14).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)


def test_stock_classes_named_outright_are_not_replaced(tmp_path):
    BertModel(STOCK["bert"]).save_pretrained(tmp_path / "bert")
    assert type(BertModel.from_pretrained(tmp_path / "bert")).__module__.startswith("transformers.")
    folder = exported(tiny_model("dnabert2", "two-heads"), tmp_path / "ours")
    assert type(BertConfig.from_pretrained(folder)) is BertConfig
    assert type(AutoConfig.from_pretrained(folder)) is ChargaffConfig


def test_stock_tokenizers_stay_stock(tmp_path):
    BertModel(STOCK["bert"]).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n")
    (tmp_path / "bert" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    assert type(tokenizer).__module__.startswith("transformers.")
    assert tokenizer("hello world")["input_ids"] == [2, 5, 6, 3]


@pytest.mark.parametrize("content", ['{"model_type": "no-such-type"}', '{"a": 1}', "{no json", "[]"])
def test_what_nobody_recognises_fails_as_it_always_did(content, tmp_path):
    """Compared with a process that never saw chargaff."""
    (tmp_path / "config.json").write_text(content)
    code = f"""
from transformers import AutoConfig
try:
    AutoConfig.from_pretrained({str(tmp_path)!r})
except Exception as error:
    print(type(error).__name__, str(error)[:60])
"""
    runs = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
        for text in (code, f"import chargaff.integrations.transformers\n{code}")
    ]
    assert runs[0]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", [None, "", "a/b/c"])
def test_names_of_nothing_fail_as_in_transformers(name, tmp_path, monkeypatch):
    saved("caduceus", "ph", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")  # an empty name is not the working folder
    for auto in (AutoConfig, AutoTokenizer):
        with pytest.raises(OSError, match=r"Repo id|huggingface\.co"):
            auto.from_pretrained(name, local_files_only=True)


def test_registering_again_changes_nothing():
    before = AutoConfig.from_pretrained.__func__
    register()
    assert AutoConfig.from_pretrained.__func__ is before


def test_the_core_imports_no_transformers():
    code = "import sys, chargaff; chargaff.load; chargaff.embed; print('transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def hub_cache(folder: Path, cache: Path, repo: str) -> None:
    """The folder as the hub's cache keeps a repository."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)


OFFLINE = """
import chargaff.integrations.transformers, torch
from transformers import AutoConfig, AutoTokenizer, {auto}
name = {repo!r}
config = AutoConfig.from_pretrained(name, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
model = {auto}.from_pretrained(name, trust_remote_code=True)
print(type(config).__name__, type(tokenizer).__name__, type(model).__name__, config.family)
with torch.no_grad():
    print(model(torch.tensor([[3, 4, 5, 6, 7]])).logits.double().sum().item())
"""


@pytest.mark.parametrize("family", ["caduceus", "nucleotide_transformer", "dnabert2"])
def test_hub_ids_load_from_the_cache_without_a_network(family, tmp_path, monkeypatch):
    variant = {"caduceus": "ps", "nucleotide_transformer": "v2", "dnabert2": "two-heads"}[family]
    model = tiny_model(family, variant)
    hub_cache(exported(model, tmp_path / "folder"), tmp_path / "cache", "some-lab/some-model")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = OFFLINE.format(auto="AutoModelForMaskedLM", repo="some-lab/some-model")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    kinds, total = run.stdout.splitlines()
    assert kinds == f"ChargaffConfig ChargaffTokenizer ChargaffForMaskedLM {family}"
    expected = logits_of(load(tmp_path / "folder", device="cpu"), torch.tensor([[3, 4, 5, 6, 7]])).double().sum()
    assert float(total) == pytest.approx(expected.item(), rel=1e-6)


def test_a_hub_id_that_is_not_there_fails_as_in_transformers(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"huggingface\.co"):
        AutoConfig.from_pretrained("some-lab/nothing", local_files_only=True, cache_dir=tmp_path)


def test_arguments_that_cannot_be_honoured_are_refused(tmp_path):
    folder = saved("caduceus", "ph", tmp_path / "model")
    with pytest.raises(ConfigError, match="unknown arguments something_else"):
        AutoModel.from_pretrained(folder, something_else=1)
    with pytest.raises(ConfigError, match="one device"):
        AutoModel.from_pretrained(folder, device_map={"backbone": 0, "head": 1})
    with pytest.raises(ConfigError, match="every_n_layers"):
        AutoModel.from_pretrained(folder).activation_checkpointing_enable(every_n_layers=2)
    with pytest.raises(ConfigError, match="offload"):
        AutoModel.from_pretrained(folder).activation_checkpointing_enable(offload=True)
    with pytest.raises(ConfigError, match="push_to_hub"):
        AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "up", push_to_hub=True)
    with pytest.raises(ConfigError, match="vocabulary"):
        AutoModel.from_pretrained(folder).resize_token_embeddings(20)
    with pytest.raises(CheckpointError, match=r"match the model"):
        AutoModel.from_pretrained(folder, d_model=32)


def test_a_dtype_can_be_chosen_and_islands_stay_float32(tmp_path):
    folder = saved("caduceus", "ph", tmp_path / "model")
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.bfloat16)
    kinds = {name.rpartition(".")[2]: p.dtype for name, p in model.named_parameters()}
    assert model.dtype == torch.bfloat16
    assert kinds["A_log"] == torch.float32
    fresh = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    assert {name.rpartition(".")[2]: p.dtype for name, p in fresh.named_parameters()} == kinds


def test_loading_info_says_that_everything_was_loaded(tmp_path):
    _, info = AutoModel.from_pretrained(saved("mamba", "tied", tmp_path / "model"), output_loading_info=True)
    assert not any(info.values())


def test_a_sharded_save_is_read_by_both(tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(saved("caduceus", "ps", tmp_path / "model"))
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    tokens = torch.tensor([[7, 8, 9, 10, 11]])
    expected = logits_of(model, tokens)
    assert torch.equal(logits_of(load(tmp_path / "shards", device="cpu"), tokens), expected)
    assert torch.equal(logits_of(AutoModelForMaskedLM.from_pretrained(tmp_path / "shards"), tokens), expected)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    for size in ("1GB", "20KB"):  # over it, in another number of files each time
        model.save_pretrained(tmp_path / "shards", max_shard_size=size)
        assert torch.equal(logits_of(load(tmp_path / "shards", device="cpu"), tokens), logits_of(model, tokens))


def test_a_chosen_pooling_is_saved(tmp_path):
    folder = saved("caduceus", "ph", tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, pooling_strategy="max")
    model.save_pretrained(tmp_path / "again")
    tokens = torch.tensor([[7, 8, 9, 10, 11]])
    for again in (AutoModelForSequenceClassification.from_pretrained, lambda path: load(path, device="cpu")):
        assert torch.equal(logits_of(again(tmp_path / "again"), tokens), logits_of(model, tokens))


def test_a_config_of_no_family_says_where_configs_come_from():
    with pytest.raises(ConfigError, match=r"AutoConfig\.from_pretrained"):
        ChargaffConfig().parsed()
