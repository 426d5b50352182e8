"""Transformer++: the attention baseline of DNA-xLSTM."""

from collections.abc import Mapping
from typing import Any

from chargaff.families.llama.config import LlamaConfig
from chargaff.families.llama.model import Llama, LmHead, init_weights
from chargaff.families.protocol import Family, Layout, StateDict
from chargaff.families.renaming import rename
from chargaff.tokenizers.char import CharTokenizer

_READ = [
    (r"(?:model\.)?backbone\.output\.weight", r"head.weight"),
    (r"(?:model\.)?backbone\.(.*)", r"backbone.\1"),
    (r"decoder\.0\.output_transform\.(weight|bias)", r"head.linear.\1"),
    (r".*torchmetrics.*", None),  # metric counters of the training framework
]
_WRITE = [(r"backbone\.(.*)", r"model.backbone.\1"), (r"head\.weight", r"model.backbone.output.weight")]


def _read(state: StateDict, config: LlamaConfig) -> StateDict:
    ours = rename(state, _READ)
    if "head.linear.weight" in ours:
        ours.pop("head.weight", None)
    return ours


def _write(state: StateDict, config: LlamaConfig) -> StateDict:
    return rename({**state, "head.weight": state["backbone.tok_embeddings.weight"]}, _WRITE)


_TINY: Mapping[str, Any] = {"d_model": 16, "n_layer": 2, "n_heads": 4, "max_length": 128}

FAMILY = Family(
    config=LlamaConfig,
    backbone=Llama,
    tokenizer=lambda config: CharTokenizer.standard(),
    init=init_weights,
    lm_head=LmHead,
    objective="causal",
    layouts={"hub": Layout(_read), "lightning": Layout(_read, _write)},
    recognises=lambda published: "n_kv_heads" in published and "d_model" in published,
    tiny={"causal": _TINY, "grouped": {**_TINY, "n_kv_heads": 2}, "bidirectional": {**_TINY, "bidirectional": True}},
)
