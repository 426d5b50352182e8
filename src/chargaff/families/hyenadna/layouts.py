"""Tensor names of the three published forms (hyenadna sheet 2.8)."""

from chargaff.families.hyenadna.config import HyenaConfig
from chargaff.families.hyenadna.model import Modulation, PositionFeatures
from chargaff.families.protocol import Layout, StateDict
from chargaff.families.renaming import rename

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
    for index in range(config.n_layer) if layer is not None else ():
        assert layer is not None
        if index in config.attn_layer_idx:
            continue
        prefix = f"backbone.layers.{index}.mixer.filter_fn."
        if f"{prefix}bias" not in ours:
            continue
        features = PositionFeatures(layer)
        features.reset_parameters()
        decay = Modulation(config.d_model * (layer.order - 1), is_trained=False)
        decay.reset_parameters()
        rebuilt = {"pos_emb.z": features.z, "pos_emb.t": features.t, "modulation.deltas": decay.deltas}
        for name, tensor in rebuilt.items():
            ours.setdefault(prefix + name, tensor.detach())
    return ours


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
