"""Enformer, and SegmentEnformer on its trunk."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.enformer.config import EnformerConfig
from chargaff.families.enformer.heads import TrackHead, init_weights, segmentation_head
from chargaff.families.enformer.layouts import read_jax, read_torch, write_torch
from chargaff.families.enformer.model import Enformer
from chargaff.families.protocol import Family, Layout
from chargaff.tokenizers.char import CharTokenizer


def _recognises(published: Mapping[str, Any]) -> bool:
    return published.get("model_type") in ("enformer", "segment_enformer")


def _published_files(
    config: EnformerConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    if head not in ("tracks", "segmentation"):
        raise ConfigError(f"layout 'hub': Enformer is published with tracks or segmentation, not with a {head!r} head")
    values = config.to_json()
    for key in ("features", "num_layers_head", "unet_levels"):
        values.pop(key)
    if head == "segmentation":
        keys = {"embed_dim": config.dim, "dim_divisible_by": config.dim_divisible_by, "features": list(labels)}
        values = {**values, **keys, "model_type": "segment_enformer"}
        values.pop("dim")
    else:
        values["model_type"] = "enformer"
    return {"config.json": json.dumps(values, indent=2, sort_keys=True) + "\n"}


_TINY: Mapping[str, Any] = {
    "dim": 24,
    "depth": 2,
    "heads": 2,
    "attn_dim_key": 7,
    "output_heads": {"human": 5, "mouse": 3},
    "target_length": -1,
    "num_downsamples": 3,
    "dim_divisible_by": 8,
}

FAMILY = Family(
    config=EnformerConfig,
    backbone=Enformer,
    tokenizer=lambda config: CharTokenizer.one_hot(),
    init=init_weights,
    layouts={"hub": Layout(read_torch, write_torch), "jax": Layout(read_jax)},
    published_files=_published_files,
    recognises=_recognises,
    recognises_names=lambda names: any("/~_stem/residual_conv_block/" in name for name in names),
    extra_heads={"segmentation": segmentation_head, "tracks": TrackHead},
    head_outputs={"tracks": lambda config: sum(config.output_heads.values())},
    tiny={"all-bins": _TINY, "by-feature": {**_TINY, "use_tf_gamma": True}},
)
