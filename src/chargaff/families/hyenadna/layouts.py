"""Tensor names of the three published forms (hyenadna sheet 2.8)."""

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families.hyenadna.config import HyenaConfig, HyenaLayerConfig
from chargaff.families.hyenadna.filter import Modulation, PositionFeatures
from chargaff.families.protocol import Layout, StateDict
from chargaff.families.renaming import rename
from chargaff.tokenizers.char import CharTokenizer

# model. is the training framework's prefix, hyena. the hub's; runs with activation checkpointing say mixer.layer. and
# mlp.layer., each or both
_LAYER = r"(?:model\.|hyena\.)?backbone\.layers\.(\d+)\.(mixer|mlp)\.(?:layer\.)?(.*)"
_READ = [
    (_LAYER, r"backbone.layers.\1.\2.\3"),
    (r"(?:model\.|hyena\.)?backbone\.(.*)", r"backbone.\1"),
    (r"(?:model\.)?lm_head\.weight", r"head.weight"),
    (r"score\.weight", r"head.linear.weight"),
    (r"(?:decoder\.0|head)\.output_transform\.(weight|bias)", r"head.linear.\1"),
    (r".*torchmetrics.*", None),  # metric counters of the training framework
]


def read(state: StateDict, config: HyenaConfig) -> StateDict:
    """Every published form -> ours. Features and decay rates that a file lacks are rebuilt from their formulas."""
    ours = rename(state, _READ)
    if "head.linear.weight" in ours:
        ours.pop("head.weight", None)
    layer = config.layer
    if layer is None:
        return ours
    for index in range(config.n_layer):
        prefix = f"backbone.layers.{index}.mixer.filter_fn."
        if index not in config.attn_layer_idx and f"{prefix}bias" in ours:
            for name, tensor in _constants(layer, config.d_model).items():
                stored = ours.setdefault(prefix + name, tensor)
                _require_positions(stored, tensor, name)
    return ours


def _constants(layer: HyenaLayerConfig, width: int) -> StateDict:
    """What follows from the config alone."""
    features, decay = PositionFeatures(layer), Modulation(width * (layer.order - 1), is_trained=False)
    features.reset_parameters()
    decay.reset_parameters()
    return {"pos_emb.z": features.z.detach(), "pos_emb.t": features.t, "modulation.deltas": decay.deltas}


def _require_positions(stored: Tensor, expected: Tensor, name: str) -> None:
    if name.startswith("pos_emb") and stored.dim() == 3 and stored.shape[1] != expected.shape[1]:
        raise CheckpointError(
            f"{name} has {stored.shape[1]} positions, but layer.l_max is {expected.shape[1]}: the filter is a function "
            "of position / l_max, so another l_max is another model; keep the file's"
        )


_TO_HUB = [
    (r"backbone\.(.*)", r"hyena.backbone.\1"),
    (r"head\.weight", "lm_head.weight"),
    (r"head\.linear\.weight", "score.weight"),
]
_TO_TRAINING = [(r"backbone\.(.*)", r"model.backbone.\1"), (r"head\.weight", "model.lm_head.weight")]


def write_hub(state: StateDict, config: HyenaConfig) -> StateDict:
    """Ours -> `-hf` files; the head is always written, shared frequencies once."""
    state = dict(state)
    if "head.weight" not in state and "head.linear.weight" not in state:
        state["head.weight"] = state["backbone.embeddings.word_embeddings.weight"].clone()
    return rename(state, _TO_HUB)


def write_training(state: StateDict, config: HyenaConfig) -> StateDict:
    """Ours -> the names of the training code."""
    return rename(state, _TO_TRAINING)


LAYOUTS = {"hub": Layout(read, write_hub), "lightning": Layout(read, write_training)}

_ARCHITECTURES = {
    "lm": "HyenaDNAForCausalLM",
    "sequence": "HyenaDNAForSequenceClassification",
    "none": "HyenaDNAModel",
}
_AUTO_MAP = {
    "AutoConfig": "configuration_hyena.HyenaConfig",
    "AutoModel": "modeling_hyena.HyenaDNAModel",
    "AutoModelForCausalLM": "modeling_hyena.HyenaDNAForCausalLM",
    "AutoModelForSequenceClassification": "modeling_hyena.HyenaDNAForSequenceClassification",
}
PAD_ID = 4


def published_files(
    config: HyenaConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """config.json and the tokenizer files as the `-hf` repositories hold them (sheet 1.2)."""
    if head not in _ARCHITECTURES:
        raise ConfigError(f"head: the published layout has {', '.join(_ARCHITECTURES)}, got {head!r}")
    layer = config.layer
    _require_hub_model(config)
    assert layer is not None
    values: dict[str, Any] = {
        "activation_freq": layer.w,
        "architectures": [_ARCHITECTURES[head]],
        "auto_map": _AUTO_MAP,
        "d_inner": config.inner_width,
        "d_model": config.d_model,
        "emb_dim": layer.emb_dim,
        "embed_dropout": config.embed_dropout,
        "filter_order": layer.filter_order,
        "hyena_dropout": 0.0,
        "hyena_filter_dropout": 0.0,
        "hyena_order": layer.order,
        "initializer_range": config.initializer_range,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "max_seq_len": layer.l_max,
        "model_type": "hyenadna",
        "n_layer": config.n_layer,
        "num_inner_mlps": layer.num_inner_mlps,
        "pad_token_id": PAD_ID if config.pad_token_id is None else config.pad_token_id,
        "pad_vocab_size_multiple": config.pad_vocab_size_multiple,
        "short_filter_order": layer.short_filter_order,
        "tie_word_embeddings": False,
        "train_freq": True,
        "use_bias": True,
        "vocab_size": config.vocab_size,
    }
    if head == "sequence":
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    tokenizer = CharTokenizer.hyenadna()
    return {
        "config.json": json.dumps(values, indent=2, sort_keys=True) + "\n",
        **tokenizer.published_files(model_max_length=layer.l_max),
    }


def _require_hub_model(config: HyenaConfig) -> None:
    """The hub code knows one kind of model; a file it would read as another one is not written."""
    layer = config.layer
    fixed = {
        "layer.order": (None if layer is None else layer.order, 2),
        "layer.short_filter_order": (None if layer is None else layer.short_filter_order, 3),
        "layer.modulate": (layer is not None and layer.modulate, True),
        "layer.normalized": (layer is not None and layer.normalized, False),
        "layer.bias": (layer is not None and layer.bias, True),
        "layer.linear_mixer": (layer is not None and layer.linear_mixer, False),
        "layer.bidirectional": (layer is not None and layer.bidirectional, False),
        "layer.activation": (None if layer is None else layer.activation, "id"),
        "modulation_shift": (config.shift, 0.05),
        "attn_layer_idx": (config.attn_layer_idx, ()),
        "max_position_embeddings": (config.max_position_embeddings, 0),
    }
    for name, (found, needed) in fixed.items():
        if found != needed:
            raise ConfigError(f"layout 'hub': its code has {name} = {needed!r} built in, this model has {found!r}")
