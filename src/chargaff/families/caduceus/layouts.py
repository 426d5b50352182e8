"""Tensor names of the published files and of training checkpoints (caduceus sheet 2.8)."""

import json
from collections.abc import Sequence
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.caduceus.config import CaduceusConfig
from chargaff.families.protocol import Layout, StateDict
from chargaff.families.renaming import rename
from chargaff.tokenizers.char import CharTokenizer

# Hub files say caduceus.backbone.*, a bare backbone backbone.*; the training framework puts model. in front.
_READ = [
    (r"(?:model\.)?(?:caduceus\.)?backbone\.(.*)", r"backbone.\1"),
    (r"(?:model\.)?lm_head\.(.*)", r"head.\1"),
    (r"(?:model\.)?score\.weight", r"head.linear.weight"),
    (r"decoder\.0\.output_transform\.(weight|bias)", r"head.linear.\1"),
    (r"(?:train|val|test)_torchmetrics\..*", None),  # metric counters of the training framework
]
_WRITE = [
    (r"backbone\.(.*)", r"caduceus.backbone.\1"),
    (r"head\.linear\.weight", r"score.weight"),
    (r"head\.(?!linear\.)(.*)", r"lm_head.\1"),  # the published classifier has no bias
]


def read(state: StateDict, config: CaduceusConfig) -> StateDict:
    """Every published layout -> ours. A file with a classifier loses the language-model head it may still carry."""
    ours = rename(state, _READ)
    if "head.linear.weight" in ours:
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("head.") or ".linear." in name}
    return ours


def write(state: StateDict, config: CaduceusConfig) -> StateDict:
    """Ours -> hub files."""
    return rename(state, _WRITE)


LAYOUTS = {"hub": Layout(read, write), "lightning": Layout(read)}

_ARCHITECTURES = {
    "lm": "CaduceusForMaskedLM",
    "sequence": "CaduceusForSequenceClassification",
    "none": "Caduceus",
}
_AUTO_MAP = {
    "AutoConfig": "configuration_caduceus.CaduceusConfig",
    "AutoModel": "modeling_caduceus.Caduceus",
    "AutoModelForMaskedLM": "modeling_caduceus.CaduceusForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_caduceus.CaduceusForSequenceClassification",
}


def published_files(
    config: CaduceusConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """config.json and the tokenizer files as the published repositories hold them (sheet 1.1)."""
    if head not in _ARCHITECTURES:
        raise ConfigError(f"head: the published layout has {', '.join(_ARCHITECTURES)}, got {head!r}")
    values: dict[str, Any] = {
        **config.to_json(),
        "architectures": [_ARCHITECTURES[head]],
        "auto_map": _AUTO_MAP,
        "model_type": "caduceus",
        "torch_dtype": "float32",
        "transformers_version": "4.38.1",
    }
    if head == "sequence":
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    values["complement_map"] = {str(source): target for source, target in enumerate(config.complement)}
    tokenizer = CharTokenizer.standard()
    return {
        "config.json": _dump(values, numeric="complement_map"),
        **tokenizer.published_files(model_max_length=context_bp),
    }


def _dump(values: dict[str, Any], *, numeric: str) -> str:
    """JSON with sorted keys, except that the table `numeric` keeps its numeric order."""
    ordered = {key: values[key] for key in sorted(values)}
    ordered = {
        key: {inner: value[inner] for inner in sorted(value)} if isinstance(value, dict) and key != numeric else value
        for key, value in ordered.items()
    }
    return json.dumps(ordered, indent=2) + "\n"
