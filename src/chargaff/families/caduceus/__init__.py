"""Caduceus: bidirectional, optionally reverse-complement equivariant Mamba."""

from collections.abc import Mapping
from typing import Any

from chargaff.families.caduceus.config import CaduceusConfig
from chargaff.families.caduceus.layouts import LAYOUTS, published_files
from chargaff.families.caduceus.model import Caduceus, init_weights, make_lm_head
from chargaff.families.caduceus.states import hidden_states
from chargaff.families.protocol import Family
from chargaff.tokenizers.char import CharTokenizer

_TINY: Mapping[str, Any] = {"d_model": 16, "n_layer": 3, "vocab_size": 12, "residual_in_fp32": False}


def _recognises(published: Mapping[str, Any]) -> bool:
    """Hub files name the model type; the training framework's do not, but these two keys occur nowhere else."""
    return published.get("model_type") == "caduceus" or {"rcps", "bidirectional_strategy"} <= set(published)


FAMILY = Family(
    config=CaduceusConfig,
    backbone=Caduceus,
    tokenizer=lambda config: CharTokenizer.standard(),
    init=init_weights,
    lm_head=make_lm_head,
    objective="masked",
    strands=lambda config: "equivariant" if config.rcps else "forward-only",
    layouts=LAYOUTS,
    recognises=_recognises,
    published_files=published_files,
    published_head={"pooling": "mean", "bias": False},
    ignored_label=lambda config: 4 if config.pad_token_id is None else config.pad_token_id,
    published_output=hidden_states,
    tiny={
        "ph": {**_TINY, "rcps": False},
        "ps": {**_TINY, "rcps": True},
        "ps-even": {**_TINY, "rcps": True, "n_layer": 2},
        "ps-unfused": {**_TINY, "rcps": True, "fused_add_norm": False, "rms_norm": False},
        "ph-untied": {**_TINY, "bidirectional_weight_tie": False, "bidirectional_strategy": "ew_multiply"},
        "one-direction": {**_TINY, "bidirectional": False, "ssm_cfg": {"bias": True, "conv_bias": False}},
    },
)
