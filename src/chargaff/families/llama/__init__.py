"""Transformer++: the attention baseline of DNA-xLSTM."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chargaff.families.llama.config import LlamaConfig
from chargaff.families.llama.model import LmHead, init_weights, make_backbone
from chargaff.families.protocol import Family, Layout, StateDict
from chargaff.families.renaming import rename
from chargaff.tokenizers.char import CharTokenizer

_READ = [
    (r"(?:model\.)?backbone\.output\.weight", r"head.weight"),
    (r"(?:model\.)?backbone\.(.*)", r"backbone.\1"),
    (r"decoder\.0\.output_transform\.(weight|bias)", r"head.linear.\1"),
    (r".*torchmetrics.*", None),  # metric counters of the training framework
]
_WRITE = [
    (r"backbone\.(.*)", r"backbone.\1"),
    (r"head\.weight", r"backbone.output.weight"),
    (r"head\.linear\.(weight|bias)", r"decoder.0.output_transform.\1"),
]


def _read(state: StateDict, config: LlamaConfig) -> StateDict:
    ours = rename(state, _READ)
    if "head.linear.weight" in ours:
        ours.pop("head.weight", None)
    return ours


def _write(state: StateDict, config: LlamaConfig) -> StateDict:
    if not any(name.startswith("head.") for name in state):  # the tied head is stored under both its names
        state = {**state, "head.weight": state["backbone.tok_embeddings.weight"]}
    return rename(state, _WRITE)


def _write_training(state: StateDict, config: LlamaConfig) -> StateDict:
    written = _write(state, config)
    return {name if name.startswith("decoder.") else f"model.{name}": tensor for name, tensor in written.items()}


def _published_files(
    config: LlamaConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """The model_config.json of a training run."""
    return {"model_config.json": json.dumps(config.to_json(), indent=2) + "\n"}


_TINY: Mapping[str, Any] = {"d_model": 16, "n_layer": 2, "n_heads": 4, "max_length": 128}

FAMILY = Family(
    config=LlamaConfig,
    backbone=make_backbone,
    tokenizer=lambda config: CharTokenizer.standard(),
    init=init_weights,
    lm_head=LmHead,
    objective="causal",
    layouts={"hub": Layout(_read, _write), "lightning": Layout(_read, _write_training)},
    published_files=_published_files,
    ignored_label=lambda config: 4,
    recognises=lambda published: "n_kv_heads" in published and "d_model" in published,
    tiny={"causal": _TINY, "grouped": {**_TINY, "n_kv_heads": 2}, "bidirectional": {**_TINY, "bidirectional": True}},
)
