"""Published facts about DNABERT-2 and DNABERT-S that no contract test and no golden covers."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chargaff.cli.main import main
from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.errors import CheckpointError, ConfigError
from chargaff.families import get_family, list_families
from chargaff.families.dnabert2.config import Dnabert2Config
from chargaff.families.dnabert2.model import masked_lm_loss
from chargaff.hub.catalog import get_checkpoint
from chargaff.hub.load import create, from_tensors, load
from chargaff.hub.save import export, save
from chargaff.nn.pooling import pool
from chargaff.tasks.masked_lm import MaskedLM, MaskingRule
from chargaff.workflows.doctor import check_strands
from chargaff.workflows.embed import EmbedOptions, embed
from tests.tokenizers.test_bpe import array, dna, trained

DATA = Path(__file__).parent.parent / "goldens" / "data" / "dnabert"
FAMILY = get_family("dnabert2")
TINY = FAMILY.tiny["three-heads"]


def golden(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """(config, parameters under their published names)."""
    with safe_open(DATA / f"{name}.safetensors", "pt") as handle:
        config = json.loads(handle.metadata()["config"])
        names = [key for key in handle.keys() if key.startswith("param.")]  # noqa: SIM118 (not a dict)
        return config, {key.removeprefix("param."): handle.get_tensor(key) for key in names}


def published_folder(folder: Path, name: str, *, vocab_size: int = 40, **changes) -> Path:
    """What the authors publish: a torch pickle, config.json and tokenizer.json."""
    config, tensors = golden(name)
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "tokenizer.json").write_text(trained(vocab_size).definition)
    return folder


def tiny(**values):
    return create("dnabert2", {**TINY, **values}, seed=3).eval()


def bases(count: int, *, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 9, (batch, count), generator=torch.Generator().manual_seed(seed))


# what a folder is taken for


@pytest.mark.parametrize(
    "published",
    [
        {"model_type": "bert", "alibi_starting_size": 512, "hidden_size": 768},
        {"model_type": "bert", "auto_map": {"AutoModel": "bert_layers.BertModel"}},
        {"model_type": "bert", "auto_map": {"AutoModel": "zhihan1996/DNABERT-2-117M--bert_layers.BertModel"}},
    ],
)
def test_published_configs_are_recognised_and_by_this_family_alone(published):
    assert [name for name in list_families() if get_family(name).recognises(published)] == ["dnabert2"]


@pytest.mark.parametrize("published", [{"model_type": "bert"}, {"model_type": "roberta", "alibi_starting_size": 1}, {}])
def test_stock_bert_is_another_model(published):
    assert not FAMILY.recognises(published)


@pytest.mark.parametrize(
    ("name", "head"), [("mlm_h2", "lm"), ("encoder_h4_padded", "pooler"), ("seqcls_3way", "sequence")]
)
def test_a_published_folder_is_loaded_and_written_back(tmp_path, name, head):
    folder = published_folder(tmp_path / "in", name, id2label={"0": "a", "1": "b", "2": "c"})
    model = load(folder, device="cpu")
    assert (model.spec.family, model.spec.head, model.spec.pooling) == ("dnabert2", head, "mean-all")
    assert model.spec.labels == (("a", "b", "c") if head == "sequence" else model.spec.labels)
    assert model.tokenizer.vocab == trained(40).vocab
    export(model, tmp_path / "out")
    stored, written = golden(name)[1], load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[key], stored[key]) for key in stored)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert FAMILY.recognises(config)
    assert config["architectures"][0].startswith("Bert")
    again = load(tmp_path / "out", device="cpu")
    assert (again.spec.head, again.tokenizer.definition) == (head, model.tokenizer.definition)


def test_saving_keeps_the_vocabulary_and_notices_a_changed_one(tmp_path):
    model = load(published_folder(tmp_path / "in", "mlm_h2"), device="cpu")
    save(model, tmp_path / "saved")
    assert "GATTACA" not in (tmp_path / "saved" / "model.json").read_text()
    again = load(tmp_path / "saved", device="cpu")
    assert again.tokenizer == model.tokenizer
    path = tmp_path / "saved" / "tokenizer.json"
    path.write_text(trained(45).definition)
    with pytest.raises(CheckpointError, match="not the file that was saved with the model"):
        load(tmp_path / "saved", device="cpu")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: the tokenizer's file cannot be read"):
        load(tmp_path / "saved", device="cpu")


def test_a_folder_without_its_vocabulary_or_with_another_is_refused(tmp_path):
    folder = published_folder(tmp_path / "in", "mlm_h2", vocab_size=60)
    with pytest.raises(CheckpointError, match="the tokenizer has 60 tokens, the model's embedding 50 rows"):
        load(folder, device="cpu")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="json is missing: the vocabulary"):
        load(folder, device="cpu")


# names of tensors


@pytest.mark.parametrize("prefix", ["", "bert.", "dnabert2.", "module.dnabert2."])
def test_every_prefix_of_the_encoder_is_read(prefix):
    config, tensors = golden("encoder_h12_nopad")
    state = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    if prefix.endswith("dnabert2."):
        width = config["hidden_size"]
        head = prefix.removesuffix("dnabert2.") if prefix == "module." else ""
        state |= {f"{head}contrast_head.{i}.weight": torch.ones(4, width) for i in (0, 2)}
    model = from_tensors("dnabert2", Dnabert2Config.from_json(config), state)
    assert model.spec.head == "pooler"
    assert torch.equal(
        model.state_dict()["backbone.encoder.layer.1.mlp.wo.bias"], tensors["encoder.layer.1.mlp.wo.bias"]
    )


def test_a_foreign_tensor_is_named():
    config, tensors = golden("encoder_h12_nopad")
    with pytest.raises(CheckpointError, match=r"encoder_decoder\.weight"):
        from_tensors("dnabert2", Dnabert2Config.from_json(config), {**tensors, "encoder_decoder.weight": torch.ones(1)})


def test_a_pooler_beside_a_language_model_head_has_no_use():
    config, tensors = golden("mlm_h2")
    width = config["hidden_size"]
    pooler = {"bert.pooler.dense.weight": torch.ones(width, width), "bert.pooler.dense.bias": torch.ones(width)}
    assert from_tensors("dnabert2", Dnabert2Config.from_json(config), {**tensors, **pooler}).spec.head == "lm"


def test_a_pooler_that_the_file_lacks_is_fresh_from_a_seed_and_said_so_once(tmp_path, caplog):
    folder = published_folder(tmp_path / "in", "mlm_h2")
    with caplog.at_level(logging.WARNING, logger="chargaff.hub.load"):
        one, two = (load(folder, head="pooler", device="cpu") for _ in range(2))
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder} (pytorch_model.bin): holds no 'pooler' head; its weights are fresh ones, from a fixed seed"
    ]
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one.head.dense.weight.std() > 0.01
    pooled = one(bases(9)).logits
    assert torch.equal(pooled, (one.encode(bases(9)).hidden[:, 0] @ one.head.dense.weight.T).tanh())
    with pytest.raises(CheckpointError, match="holds no 'sequence' head"):
        load(folder, head="sequence", device="cpu")


def test_the_language_model_of_an_encoder_file_is_not_invented():
    config, tensors = golden("encoder_h12_nopad")
    with pytest.raises(CheckpointError, match=r"missing \(head\.transform"):
        from_tensors("dnabert2", Dnabert2Config.from_json(config), tensors, head="lm")


# what is computed


@torch.no_grad()
def test_a_mask_with_holes_counts_distances_by_columns():
    model, tokens = tiny(), bases(12, batch=3)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 4:6] = False
    mask[2, 0] = mask[2, 7] = False
    encoded = model.encode(tokens, mask)
    assert not encoded.hidden[~mask].any()
    other = model.encode(torch.where(mask, tokens, 3), mask)
    assert torch.equal(encoded.hidden, other.hidden), "what stands at padding changes nothing"
    squeezed = model.encode(tokens[1:2][:, mask[1]])
    assert not torch.allclose(encoded.hidden[1, mask[1]], squeezed.hidden[0], atol=1e-4), "the hole is a distance"
    assert torch.allclose(encoded.hidden[0], model.encode(tokens[:1]).hidden[0], atol=1e-6)


@torch.no_grad()
def test_length_has_no_limit():
    model = tiny()
    assert model.backbone.rule.max_tokens is None
    assert model.spec.config.max_position_embeddings == model.spec.config.alibi_starting_size == 512
    assert model.encode(bases(1500, batch=1)).hidden.isfinite().all()


@torch.no_grad()
def test_segments_tell_the_sequences_of_a_pair_apart():
    model, tokens = tiny(), bases(10)
    segments = torch.zeros_like(tokens)
    plain = model.encode(tokens).hidden
    assert torch.equal(model.backbone(tokens, segments=segments).hidden, plain)
    segments[:, 6:] = 1
    assert not torch.allclose(model.backbone(tokens, segments=segments).hidden, plain, atol=1e-4)
    embedded = model.backbone.embed(tokens, segments=segments)
    assert torch.equal(embedded, model.backbone(tokens, segments=segments, taps=["layer.0"]).taps["layer.0"])


@torch.no_grad()
def test_attention_maps_are_given_by_layer_and_head():
    model, tokens = tiny(), bases(14)
    mask = torch.ones(2, 14, dtype=torch.bool)
    mask[1, 9:] = False
    taps = model.encode(tokens, mask, taps=["attn.1", "attn.2", "attn.2.0", "attn.2.2"]).taps
    assert taps["attn.1"].shape == (2, 3, 14, 14)
    assert torch.allclose(taps["attn.2"].sum(-1), mask[:, None].expand(2, 3, 14).float())
    for head in (0, 2):
        assert torch.equal(taps[f"attn.2.{head}"], taps["attn.2"][:, head])
    alone = model.encode(tokens[1:, :9], taps=["attn.2"]).taps["attn.2"]
    assert torch.allclose(taps["attn.2"][1, :, :9, :9], alone[0], atol=1e-6)


def test_the_unknown_letter_row_gets_no_gradient_from_the_input():
    model = tiny()
    tokens = bases(8)
    tokens[:, 2] = 0
    model.encode(tokens).hidden.square().sum().backward()
    gradient = model.backbone.embeddings.word_embeddings.weight.grad
    assert not gradient[0].any()
    assert gradient[5:9].any(1).all()
    assert not tiny().backbone.embeddings.word_embeddings.weight[0].any(), "and it starts at zero"


def test_loss_counts_labels_above_zero():
    logits = torch.randn(2, 5, 9)
    labels = torch.tensor([[-100, 0, 7, -100, 1], [0, 0, -100, 8, -100]])
    chosen = logits.log_softmax(-1)
    expected = -(chosen[0, 2, 7] + chosen[0, 4, 1] + chosen[1, 3, 8]) / 3
    assert torch.allclose(masked_lm_loss(logits, labels), expected)
    assert masked_lm_loss(logits, torch.zeros_like(labels)).isnan()


def test_attention_dropout_acts_while_training_only():
    model = tiny(attention_probs_dropout_prob=0.5)
    tokens = bases(20)
    first, second = model.encode(tokens).hidden, model.encode(tokens).hidden
    assert torch.equal(first, second)
    torch.manual_seed(0)
    model.train()
    assert not torch.allclose(model.encode(tokens).hidden, first, atol=1e-3)


def test_the_classifier_reads_the_first_column_through_its_own_dropout():
    model = create("dnabert2", {**TINY, "classifier_dropout": 0.5}, head="sequence", num_outputs=3, seed=1).train()
    tokens = bases(6)
    torch.manual_seed(0)
    one, two = model(tokens).logits, model(tokens).logits
    assert not torch.equal(one, two)
    model.eval()
    pooled = model.head.pooler(model.encode(tokens))
    assert torch.equal(model(tokens).logits, model.head.classifier(pooled))


def test_wrong_sizes_are_refused():
    with pytest.raises(ConfigError, match="num_attention_heads: expected a divisor of hidden_size 18, got 4"):
        Dnabert2Config.from_json({**TINY, "num_attention_heads": 4})
    with pytest.raises(ConfigError, match="pad_token_id: expected 0 to 15, got 16"):
        Dnabert2Config.from_json({**TINY, "pad_token_id": 16})
    with pytest.raises(ConfigError, match="did you mean 'num_hidden_layers'"):
        Dnabert2Config.from_json({"num_hiden_layers": 3}, strict=True)


# from a file to vectors


def test_embedding_a_file_averages_all_tokens_special_ones_too(tmp_path):
    folder = published_folder(tmp_path / "in", "encoder_h4_padded")
    records = {"a": dna(300, 1), "b": dna(40, 2) + "nnACGTRY", "c": dna(5, 3)}
    (tmp_path / "x.fa").write_text("".join(f">{name}\n{text}\n" for name, text in records.items()))
    output = tmp_path / "x.npy"
    assert main(["embed", str(folder), str(tmp_path / "x.fa"), "-o", str(output), "--max-unknown", "0.1"]) == 0
    model = load(folder, device="cpu")
    for row, text in zip(np.load(output), records.values(), strict=True):
        ids = torch.from_numpy(model.tokenizer.encode(array(text))).unsqueeze(0)
        with torch.no_grad():
            expected = pool(model.encode(ids).hidden, None, "mean-all")[0]
        assert np.abs(row - expected.numpy()).max() < 1e-5
    assert '"mean-all"' in next(tmp_path.glob("x*.json")).read_text()


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "first", "last"])
def test_a_vector_does_not_depend_on_its_batch_mates(pooling):
    model = tiny()
    records = [dna(length, length) for length in (7, 300, 20, 299, 64, 150)]
    options = EmbedOptions(pooling=pooling)
    together = embed(model, records, options).vectors
    alone = np.concatenate([embed(model, [record], options).vectors for record in records])
    assert np.abs(together - alone).max() < 1e-5


def test_both_strands_average_after_pooling_is_refused_at_token_level():
    with pytest.raises(ConfigError, match="average after pooling"):
        tiny().encode(bases(5), both_strands=True)


# the catalogue


@pytest.mark.parametrize(
    ("name", "params", "head"), [("DNABERT-2-117M", 117_074_176, "lm"), ("DNABERT-S", 117_068_544, "pooler")]
)
def test_the_rows_are_found_by_the_names_their_authors_use(name, params, head):
    row = get_checkpoint(name)
    assert row is get_checkpoint(name.lower())
    assert (row.params, row.head, row.pooling, row.hub_id) == (params, head, "mean-all", f"zhihan1996/{name}")
    assert "tokenizer.json" in row.files


def test_a_classifier_of_the_published_size_has_the_published_count():
    config = Dnabert2Config.from_json(get_checkpoint("dnabert-s").config)
    with torch.device("meta"):
        backbone = FAMILY.backbone(config)
        head = FAMILY.extra_heads["sequence"](config, backbone, 2)
    assert sum(p.numel() for module in (backbone, head) for p in module.parameters()) == 117_070_082
    assert len([*backbone.state_dict(), *head.state_dict()]) == 140


def test_weights_of_another_number_of_layers_are_refused(tmp_path):
    folder = published_folder(tmp_path / "in", "mlm_h2", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"missing \(backbone\.encoder\.layer\.2\."):
        load(folder, device="cpu")
    state = {f"x.{name}": tensor for name, tensor in golden("mlm_h2")[1].items()}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensor names are not of this layout"):
        load(folder, device="cpu")


def test_fine_tuning_and_prediction_read_special_tokens(tmp_path):
    """The classifier looks at [CLS]; sequences of any length lie between it and [SEP]."""
    folder = published_folder(tmp_path / "in", "encoder_h4_padded", hidden_dropout_prob=0.0)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("GC" if row % 2 else "AT"), int(rng.integers(20, 40)))) for row in range(40)]
    rows = [f"seq{row},{text},{'gc' if row % 2 else 'at'}" for row, text in enumerate(texts)]
    for name, part in (("train", rows[:28]), ("test", rows[28:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,sequence,label", *part]) + "\n")
    (tmp_path / "run.toml").write_text(
        f'[model]\nname = "{folder}"\n[task]\nkind = "sequence"\n[data]\nkind = "files"\n'
        f'train = "{tmp_path}/train.csv"\ntest = "{tmp_path}/test.csv"\n'
        '[train]\nepochs = 4\nbatch = 7\nmonitor = "accuracy"\noptim = { lr = 3e-3, betas = [0.9, 0.999] }\n'
        "schedule = { warmup = 0.01, min_lr_ratio = 0.1, after_warmup = false }\n"
        f'[out]\nfolder = "{tmp_path}/out"\n'
    )
    assert main(["finetune", str(tmp_path / "run.toml")]) == 0
    best = next((tmp_path / "out").rglob("model.json")).parent
    model = load(best, device="cpu")
    assert (model.spec.family, model.spec.head) == ("dnabert2", "sequence")
    answer = tmp_path / "answer.tsv"
    command = ["predict", str(best), str(tmp_path / "test.csv"), "--column", "sequence", "-o", str(answer)]
    assert main(command) == 0
    lines = [line for line in answer.read_text().splitlines() if not line.startswith("#")]
    table = list(csv.DictReader(lines, delimiter="\t"))
    for row, text in zip(table, texts[28:], strict=True):
        ids = torch.from_numpy(model.tokenizer.encode(array(text))).unsqueeze(0)
        with torch.no_grad():
            expected = model(ids).logits.softmax(-1)[0]
        assert [float(row[f"p_{label}"]) for label in model.spec.labels] == pytest.approx(expected.tolist(), abs=1e-5)


def test_pre_training_hides_tokens_of_bases_only(tmp_path):
    folder = published_folder(tmp_path / "in", "mlm_h2")
    tokenizer = load(folder, device="cpu").tokenizer
    task = MaskedLM(tokenizer, MaskingRule(probability=0.9))
    ids = torch.from_numpy(np.stack([tokenizer.encode(array("ACGTNN" * 40))] * 20))
    ids[:, -5:] = tokenizer.pad_id
    batch = task.prepare(Batch(ids, None, None, torch.arange(20)), SampleRng(1, 0), is_training=True)
    kept = ids < 5
    assert torch.equal(batch.tokens[kept], ids[kept])
    assert (batch.target[kept] == tokenizer.pad_id).all()
    asked = batch.target != tokenizer.pad_id
    assert torch.equal(batch.target[asked], ids[asked])
    assert (batch.target[asked] > 0).all(), "as the published loss"
    assert 0.85 < float(asked[~kept].float().mean()) < 0.95


def test_a_published_model_is_pre_trained_on(tmp_path):
    folder = published_folder(tmp_path / "in", "mlm_h2")
    (tmp_path / "x.fa").write_text(f">a\n{dna(3000, 1)}\n>b\n{dna(600, 2)}\n")
    (tmp_path / "run.toml").write_text(
        f'[model]\nname = "{folder}"\n[task]\nkind = "masked-lm"\n'
        f'[data]\nfasta = "{tmp_path}/x.fa"\nlength_bp = 120\nvalid_contigs = ["b"]\n'
        "[train]\nmax_steps = 3\nbatch = 4\nvalid_every = 3\nvalid_samples = 4\noptim = { lr = 1e-3 }\n"
        f'[out]\nfolder = "{tmp_path}/out"\n'
    )
    assert main(["pretrain", str(tmp_path / "run.toml")]) == 0
    model = load(tmp_path / "out" / "model", device="cpu")
    assert (model.spec.head, model.tokenizer) == ("lm", load(folder, device="cpu").tokenizer)


def test_tokens_and_maps_come_out_of_the_command(tmp_path, capsys):
    folder = published_folder(tmp_path / "in", "encoder_h4_padded")
    assert main(["tokenize", str(folder), "acGTNNGATTACA"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    assert (rows[0][2], rows[-1][2]) == ("[CLS]", "[SEP]")
    assert "".join(row[2] for row in rows[1:-1]) == "ACGT[UNK][UNK]GATTACA"
    assert rows[-1][5] == "13"
    (tmp_path / "x.fa").write_text(f">a\n{dna(60, 1)}\n")
    maps = tmp_path / "maps.npy"
    command = ["embed", str(folder), str(tmp_path / "x.fa"), "-o", str(tmp_path / "x.npy"), "--attention", "1:3,2:0"]
    assert main([*command, "--attention-output", str(maps)]) == 0
    model = load(folder, device="cpu")
    ids = torch.from_numpy(model.tokenizer.encode(array(dna(60, 1)))).unsqueeze(0)
    with torch.no_grad():
        expected = model.encode(ids, taps=["attn.2.0"]).taps["attn.2.0"][0]
    stored = np.load(maps)
    assert stored.shape == (2, ids.shape[1], ids.shape[1])
    assert np.abs(stored[1] - expected.numpy()).max() < 1e-6


@pytest.mark.parametrize("pooling", ["mean", "mean-all", "max", "cls", "first", "last", "centre"])
def test_both_strands_are_averaged_after_pooling(pooling):
    model = tiny()
    model.tokenizer = trained(16)
    records = [dna(length, length) for length in (51, 215, 133)]  # tiled by the windows below from either end
    other = [record[::-1].translate(str.maketrans("ACGT", "TGCA")) for record in records]

    def vectors(sequences, strands):
        return embed(model, sequences, EmbedOptions(pooling=pooling, strands=strands)).vectors

    expected = (vectors(records, "forward") + vectors(other, "forward")) / 2
    assert np.abs(vectors(records, "both") - expected).max() < 1e-5
    windows = EmbedOptions(pooling=pooling, strands="both", window_bp=51, overlap_bp=10)
    assert np.abs(embed(model, records, windows).vectors - embed(model, other, windows).vectors).max() < 1e-5


@pytest.mark.parametrize("head", ["lm", "pooler", "sequence", "token"])
def test_strands_are_compared_by_their_means(head):
    options = {} if head == "lm" else {"num_outputs": 2}
    model = create("dnabert2", TINY, head=head, seed=3, **options).eval()
    model.tokenizer = trained(16)
    alone, both, *outputs = check_strands(model)
    assert alone.error > 1e-3
    assert not alone.is_promised
    assert both.error < 1e-6
    assert both.is_promised
    assert len(outputs) == (head in ("pooler", "sequence"))


def test_both_strands_have_no_common_row_for_a_base():
    with pytest.raises(ConfigError, match="averaged after pooling"):
        embed(tiny(), [dna(30)], EmbedOptions(pooling="none", strands="both"))
