"""Mamba: the causal baseline."""

from collections.abc import Mapping
from typing import Any

from chargaff.families.mamba.config import MambaConfig
from chargaff.families.mamba.layouts import LAYOUTS, published_files
from chargaff.families.mamba.model import LmHead, Mamba, init_weights
from chargaff.families.protocol import Family
from chargaff.tokenizers.char import CharTokenizer

_TINY: Mapping[str, Any] = {"d_model": 16, "n_layer": 2, "vocab_size": 12, "residual_in_fp32": False}


def _recognises(published: Mapping[str, Any]) -> bool:
    """Published files name no model type; these two keys together occur nowhere else."""
    return "model_type" not in published and {"ssm_cfg", "n_layer"} <= set(published) and "rcps" not in published


FAMILY = Family(
    config=MambaConfig,
    backbone=Mamba,
    tokenizer=lambda config: CharTokenizer.standard(),
    init=init_weights,
    lm_head=LmHead,
    objective="causal",
    layouts=LAYOUTS,
    recognises=_recognises,
    published_files=published_files,
    ignored_label=lambda config: 4,
    tiny={"tied": _TINY, "untied-layernorm": {**_TINY, "tie_embeddings": False, "rms_norm": False}},
)
