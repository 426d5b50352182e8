"""Segmentation on the Nucleotide Transformer: rotation for long inputs, and what rows may look like."""

from pathlib import Path

import pytest
import torch

import chargaff
from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig
from chargaff.hub.catalog import get_checkpoint
from chargaff.hub.load import create

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "data" / "segment"
TINY = {
    "vocab_size": 75,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "position_embedding_type": "rotary",
}
PUBLISHED = NucleotideTransformerConfig.from_json(get_checkpoint("segment-nt").config)


def factor(config: NucleotideTransformerConfig, tokens: int) -> float:
    width = config.head_width
    return (config.rotary_base_for(tokens) / 10_000) ** ((width - 2) / width)


@pytest.mark.parametrize("tokens", [9, 2048, 5001])
def test_up_to_30_kb_the_factor_is_that_of_training(tokens):
    assert factor(PUBLISHED, tokens) == pytest.approx(5000 / 2048)


@pytest.mark.parametrize(("tokens", "expected"), [(5002, 5002 / 2048), (8333, 4.0688)])
def test_beyond_it_grows_with_the_tokens(tokens, expected):
    assert factor(PUBLISHED, tokens) == pytest.approx(expected, rel=1e-4)


def test_it_can_be_overridden():
    values = {**PUBLISHED.to_json(), "rescaling_factor": 3.0, "rescale_beyond_tokens": None}
    config = NucleotideTransformerConfig.from_json(values)
    assert factor(config, 9) == factor(config, 8333) == pytest.approx(3.0)


def test_published_files_need_not_name_the_limit():
    config = NucleotideTransformerConfig.from_json({**TINY, "rescaling_factor": 2.44, "features": ["a", "b"]})
    assert config.rescale_beyond_tokens == 5001
    assert config.features == ("a", "b")
    assert NucleotideTransformerConfig.from_json(TINY).rescale_beyond_tokens is None


def test_long_inputs_are_turned_by_the_other_base():
    values = {**TINY, "rescaling_factor": 2.0, "rescale_beyond_tokens": 20}
    model = create("nucleotide_transformer", values, head="none", seed=1).eval()
    fixed = {**values, "rescale_beyond_tokens": None}
    by_hand = create("nucleotide_transformer", {**fixed, "rescaling_factor": 24 / 2048}, head="none", seed=1).eval()
    as_trained = create("nucleotide_transformer", fixed, head="none", seed=1).eval()
    tokens = torch.randint(11, 75, (1, 24))
    assert torch.equal(model.encode(tokens).hidden, by_hand.encode(tokens).hidden)
    assert torch.equal(model.encode(tokens[:, :20]).hidden, as_trained.encode(tokens[:, :20]).hidden)


def test_rows_may_neither_be_padded_nor_hold_n():
    rule = create("nucleotide_transformer", {**TINY, "rescaling_factor": 2.0, "features": ["a"]}).backbone.rule
    assert rule.padding == "never"
    assert rule.n_bases == "forbidden"
    assert rule.max_tokens is None


@pytest.mark.parametrize("folder", ["hub_segment_nt_tiny", "jax_ckpt_segment_nt_tiny"])
def test_a_published_folder_names_its_elements_and_keeps_its_language_model(folder):
    model = chargaff.load(GOLDENS / folder, device="cpu")
    assert model.spec.head == "segmentation"
    assert model.spec.labels == ("a", "b", "c")
    assert model.spec.head_options["num_outputs"] == 3
    assert model.spec.config.rescale_beyond_tokens == 5001
    tokens = torch.randint(11, 75, (1, 9))
    assert model(tokens).logits.shape == (1, 48, 3, 2)
    if folder.startswith("jax"):
        assert chargaff.load(GOLDENS / folder, head="lm", device="cpu")(tokens).logits.shape == (1, 9, 75)
