"""The Nucleotide Transformer v1 and v2, AgroNT and the codon model: encoders of k-mers."""

from collections.abc import Mapping
from typing import Any

from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig
from chargaff.families.nucleotide_transformer.layouts import LAYOUTS, hub_files
from chargaff.families.nucleotide_transformer.model import (
    LmHead,
    NucleotideTransformer,
    SequenceClassifier,
    TokenClassifier,
    init_weights,
    segmentation_head,
)
from chargaff.families.protocol import Family
from chargaff.tokenizers.kmer import KmerTokenizer

_TINY: Mapping[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 130,
}
_V1: Mapping[str, Any] = {**_TINY, "vocab_size": 73, "position_embedding_type": "absolute", "token_dropout": True}
_V2: Mapping[str, Any] = {**_TINY, "vocab_size": 75, "position_embedding_type": "rotary"}
_JAX_KEYS = {"attention_heads", "embed_dim", "ffn_embed_dim", "num_layers"}


def _tokenizer(config: NucleotideTransformerConfig) -> KmerTokenizer:
    return KmerTokenizer.for_vocabulary(config.vocab_size, model_max_length=config.max_tokens)


def _recognises(published: Mapping[str, Any]) -> bool:
    """hyperparams.json, or a hub file; some v2 files name no model type."""
    if set(published) >= _JAX_KEYS:
        return True
    is_esm = published.get("model_type") == "esm" or "add_bias_fnn" in published
    is_of_dna = published.get("vocab_size") in KmerTokenizer.sizes()  # protein models share the type and all keys
    return is_esm and is_of_dna and {"token_dropout", "emb_layer_norm_before"} <= set(published)


FAMILY = Family(
    config=NucleotideTransformerConfig,
    backbone=NucleotideTransformer,
    tokenizer=_tokenizer,
    init=init_weights,
    lm_head=LmHead,
    objective="masked",
    layouts=LAYOUTS,
    recognises=_recognises,
    published_files=hub_files,
    extra_heads={"segmentation": segmentation_head, "sequence": SequenceClassifier, "token": TokenClassifier},
    tiny={
        "v1": _V1,
        "v2": _V2,
        "agro": {**_V1, "hidden_size": 30, "token_dropout": False, "layer_norm_eps": 1e-5},
        "rescaled": {**_V2, "rescaling_factor": 2.44140625, "key_size": 12, "emb_layer_norm_before": True},
        "post-norm": {**_V1, "pre_layer_norm": False, "embed_scale": 2.0, "ffn_activation": "gelu"},
        "bias-kv": {**_V1, "add_bias_kv": True},
    },
)
