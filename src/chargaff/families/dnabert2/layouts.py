"""Tensor names of the published files, of fine-tuned ones, and of the DNABERT-S training module (sheet 2.1)."""

import json
from collections.abc import Sequence
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.dnabert2.config import Dnabert2Config
from chargaff.families.protocol import Layout, StateDict
from chargaff.families.renaming import rename

# bert. in front: masked-LM and classifier files; dnabert2. in front: the training module of DNABERT-S.
_PREFIX = r"(?:module\.)?(?:bert\.|dnabert2\.)?"
_READ = [
    (_PREFIX + r"(embeddings|encoder)\.(?!position_ids|token_type_ids)(.*)", r"backbone.\1.\2"),
    (_PREFIX + r"embeddings\.(?:position_ids|token_type_ids)", None),  # constants that some versions store
    (_PREFIX + r"pooler\.dense\.(weight|bias)", r"head.pooler.dense.\1"),
    (r"cls\.predictions\.(.*)", r"head.\1"),
    (r"classifier\.(weight|bias)", r"head.classifier.\1"),
    (r"(?:module\.)?contrast_head\.(?:0|2)\.weight", None),  # serves the contrastive loss alone
]
_WRITE_ENCODER = [
    (r"backbone\.(.*)", r"\1"),
    (r"head\.dense\.(weight|bias)", r"pooler.dense.\1"),
]
_WRITE_LM = [
    (r"backbone\.(.*)", r"bert.\1"),
    (r"head\.(transform\..*|decoder\..*)", r"cls.predictions.\1"),
]
_WRITE_CLASSIFIER = [
    (r"backbone\.(.*)", r"bert.\1"),
    (r"head\.pooler\.(.*)", r"bert.pooler.\1"),
    (r"head\.classifier\.(.*)", r"classifier.\1"),
]

_POOLER = "head.pooler.dense."


def read(state: StateDict, config: Dnabert2Config) -> StateDict:
    """Every published form -> ours. The pooler belongs to a classifier, else is a head of its own.

    In a file with a language-model head it has no use and is dropped.
    """
    ours = rename(state, _READ)
    if "head.classifier.weight" in ours:
        return {name: tensor for name, tensor in ours.items() if not _is_lm(name)}
    has_lm = any(_is_lm(name) for name in ours)
    pooler = {name.removeprefix(_POOLER): tensor for name, tensor in ours.items() if name.startswith(_POOLER)}
    ours = {name: tensor for name, tensor in ours.items() if not name.startswith(_POOLER)}
    return ours if has_lm else ours | {f"head.dense.{name}": tensor for name, tensor in pooler.items()}


def _is_lm(name: str) -> bool:
    return name.startswith(("head.transform.", "head.decoder."))


def write(state: StateDict, config: Dnabert2Config) -> StateDict:
    """Ours -> hub files: with `bert.` where there is a head for a task, without it for the encoder."""
    if "head.classifier.weight" in state:
        return rename(state, _WRITE_CLASSIFIER)
    if "head.transform.dense.weight" in state:  # the tied matrix is stored under both its names
        tied = state["backbone.embeddings.word_embeddings.weight"].clone()
        return rename({**state, "head.decoder.weight": tied}, _WRITE_LM)
    return rename(state, _WRITE_ENCODER)


LAYOUTS = {"hub": Layout(read, write)}

_ARCHITECTURES = {
    "lm": "BertForMaskedLM",
    "sequence": "BertForSequenceClassification",
    "pooler": "BertModel",
    "none": "BertModel",
}
_AUTO_MAP = {
    "AutoConfig": "configuration_bert.BertConfig",
    "AutoModel": "bert_layers.BertModel",
    "AutoModelForMaskedLM": "bert_layers.BertForMaskedLM",
    "AutoModelForSequenceClassification": "bert_layers.BertForSequenceClassification",
}


def published_files(
    config: Dnabert2Config, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """config.json as the published repositories hold it (sheet 1.2)."""
    if head not in _ARCHITECTURES:
        raise ConfigError(f"head: the published layout has {', '.join(_ARCHITECTURES)}, got {head!r}")
    values: dict[str, Any] = {
        **config.to_json(),
        "architectures": [_ARCHITECTURES[head]],
        "auto_map": _AUTO_MAP,
        "gradient_checkpointing": False,
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.28.0",
        "use_cache": True,
    }
    if head == "sequence":
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    return {"config.json": json.dumps(values, indent=2, sort_keys=True) + "\n"}
