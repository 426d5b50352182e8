"""The snippets of the JAX package's README, with our import."""

from pathlib import Path

import numpy as np
import pytest
import torch

import chargaff
from chargaff.errors import ConfigError, InputError
from chargaff.integrations.nucleotide_transformer import get_pretrained_model

GOLDENS = Path(__file__).parents[1] / "goldens/data/nt"
SEQUENCES = ["ATTCCGATTCCGATTCCG", "ATTTCTCTCTCTCTCTGAGATCGATCGATCGAT"]


def test_the_readmes_first_snippet():
    parameters, forward_fn, tokenizer, config = get_pretrained_model(
        model_name=GOLDENS / "jax_ckpt_v2_tiny",
        mixed_precision=False,
        embeddings_layers_to_save=(1, 2),
        attention_maps_to_save=((1, 0), (2, 1)),
        max_positions=32,
        device="cpu",
    )
    tokens_ids = [b[1] for b in tokenizer.batch_tokenize(SEQUENCES)]
    tokens_str = [b[0] for b in tokenizer.batch_tokenize(SEQUENCES)]
    tokens = np.asarray(tokens_ids, dtype=np.int32)
    assert tokens.shape == (2, 32)
    assert tokens_str[0][:7] == ["<cls>", "ATT", "CCG", "ATT", "CCG", "ATT", "CCG"]
    outs = forward_fn.apply(parameters, None, tokens)
    assert outs["logits"].shape == (2, 32, 75)
    assert outs["embeddings_1"].shape == outs["embeddings_2"].shape == (2, 32, config.hidden_size)
    assert outs["attention_map_layer_1_number_0"].shape == (2, 32, 32)
    assert set(outs) == {
        "logits",
        "embeddings_1",
        "embeddings_2",
        "attention_map_layer_1_number_0",
        "attention_map_layer_2_number_1",
    }
    # mean embeddings without <cls> and pads, as the README takes them
    embeddings = outs["embeddings_2"][:, 1:]
    mask = torch.as_tensor(tokens[:, 1:] != tokenizer.pad_token_id).unsqueeze(2)
    mean = (embeddings * mask).sum(1) / mask.sum(1)
    ours = chargaff.embed(chargaff.load(GOLDENS / "jax_ckpt_v2_tiny", device="cpu"), SEQUENCES)
    np.testing.assert_allclose(mean.numpy(), ours.vectors, rtol=1e-4, atol=1e-6)


def test_the_last_layer_comes_after_the_heads_first_norm():
    model, forward, tokenizer, _ = get_pretrained_model(
        GOLDENS / "hub_v2_tiny", embeddings_layers_to_save=[1, 2], device="cpu"
    )
    ids = torch.tensor([row[1] for row in tokenizer.batch_tokenize(SEQUENCES[:1])])
    encoded = model.encode(ids, taps=["layer.1", "layer.2"])
    outs = forward(ids)
    torch.testing.assert_close(outs["embeddings_1"], encoded.taps["layer.1"])
    torch.testing.assert_close(outs["embeddings_2"], encoded.hidden)
    assert not torch.allclose(outs["embeddings_2"], encoded.taps["layer.2"])


@pytest.mark.parametrize(("number", "head"), [(0, 1), (1, 1), (2, 1)])
def test_the_originals_numbering_is_shifted_by_one_and_clamped(number, head):
    folder, name = GOLDENS / "hub_v2_tiny", f"attention_map_layer_1_number_{number}"
    options = {"attention_maps_to_save": [(1, number)], "device": "cpu"}
    model, forward, tokenizer, _ = get_pretrained_model(folder, attention_numbering="jax", **options)
    ids = [row[1] for row in tokenizer.batch_tokenize(SEQUENCES[:1])]
    expected = model.encode(torch.tensor(ids), taps=[f"attn.1.{head}"]).taps[f"attn.1.{head}"]
    assert torch.equal(forward(ids)[name], expected)


def test_heads_are_numbered_from_zero_otherwise():
    folder = GOLDENS / "hub_v2_tiny"
    model, forward, tokenizer, _ = get_pretrained_model(folder, attention_maps_to_save=[(2, 0)], device="cpu")
    ids = [row[1] for row in tokenizer.batch_tokenize(SEQUENCES[:1])]
    expected = model.encode(torch.tensor(ids), taps=["attn.2.0"]).taps["attn.2.0"]
    assert torch.equal(forward(ids)["attention_map_layer_2_number_0"], expected)
    with pytest.raises(ConfigError, match="numbers 0 to 1"):
        get_pretrained_model(folder, attention_maps_to_save=[(2, 2)], device="cpu")
    with pytest.raises(ConfigError, match="expected 1 to 2, got 3"):
        get_pretrained_model(folder, embeddings_layers_to_save=[3], device="cpu")


def test_a_length_beyond_the_model_is_cut_to_what_it_takes():
    _, forward, tokenizer, config = get_pretrained_model(GOLDENS / "hub_v1_tiny", max_positions=1024, device="cpu")
    assert config.max_tokens == 24
    rows = tokenizer.batch_tokenize(SEQUENCES)
    assert {len(row[1]) for row in rows} == {24}
    outs = forward([row[1] for row in rows])
    assert not outs["logits"][0, 7:].any()
    with pytest.raises(InputError, match=r"80 bp has 29 tokens; 24 tokens hold at most 69 bp"):
        tokenizer.batch_tokenize(["ACGTA" * 16])
    with pytest.raises(InputError, match="not in the vocabulary"):
        tokenizer.batch_tokenize(["acgt"])
    assert tokenizer.tokenize("ACGT") == (["<cls>", "ACG", "T"], [3, 15, 69])


def test_mixed_precision_stays_near_float32():
    results = []
    for mixed in (False, True):
        _, forward, tokenizer, _ = get_pretrained_model(
            GOLDENS / "hub_v2_tiny", mixed_precision=mixed, embeddings_layers_to_save=[2], device="cpu"
        )
        results.append(forward([row[1] for row in tokenizer.batch_tokenize(SEQUENCES)])["embeddings_2"])
    plain, lean = results
    assert lean.dtype == torch.float32
    assert 0 < (lean - plain).norm() / plain.norm() < 0.03


def test_facts_of_the_tokenizer():
    _, _, tokenizer, _ = get_pretrained_model(GOLDENS / "hub_v1_tiny", device="cpu")
    assert tokenizer.vocabulary[-2:] == ["<eos>", "<bos>"]
    assert tokenizer.vocabulary_size == 75
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.class_token_id) == (1, 2, 3)
    assert tokenizer.id_to_token(tokenizer.token_to_id("GGG")) == "GGG"
