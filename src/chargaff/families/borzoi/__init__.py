"""Borzoi and Flashzoi, and SegmentBorzoi on their trunk."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chargaff.errors import ConfigError
from chargaff.families.borzoi.config import BorzoiConfig
from chargaff.families.borzoi.heads import TrackHead, init_weights, segmentation_head, track_sets
from chargaff.families.borzoi.layouts import read_jax, read_torch, write_torch
from chargaff.families.borzoi.model import Borzoi
from chargaff.families.protocol import Family, Layout
from chargaff.tokenizers.char import CharTokenizer


def _recognises(published: Mapping[str, Any]) -> bool:
    return published.get("model_type") in ("borzoi", "segment_borzoi")


def _published_files(
    config: BorzoiConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    kinds = {"tracks": "borzoi", "segmentation": "segment_borzoi"}
    if head not in kinds:
        raise ConfigError(f"layout 'hub': Borzoi is published with tracks or segmentation, not with a {head!r} head")
    values = {**config.to_json(), "features": list(labels) if head == "segmentation" else [], "model_type": kinds[head]}
    return {"config.json": json.dumps(values, indent=2, sort_keys=True) + "\n"}


_TINY: Mapping[str, Any] = {
    "dim": 24,
    "depth": 2,
    "heads": 2,
    "attn_dim_key": 7,
    "attn_dim_value": 12,
    "bins_to_return": -1,
    "enable_mouse_head": True,
    "conv_widths": [8, 12, 12],
    "final_width": 20,
    "num_human": 5,
    "num_mouse": 3,
    "num_rel_pos_features": 6,
}

FAMILY = Family(
    config=BorzoiConfig,
    backbone=Borzoi,
    tokenizer=lambda config: CharTokenizer.one_hot(),
    init=init_weights,
    layouts={"hub": Layout(read_torch, write_torch), "jax": Layout(read_jax)},
    published_files=_published_files,
    recognises=_recognises,
    recognises_names=lambda names: any("/~_unet_conv/u_net_conv_block_0/" in name for name in names),
    extra_heads={"segmentation": segmentation_head, "tracks": TrackHead},
    head_outputs={"tracks": lambda config: sum(track_sets(config).values())},
    tiny={
        "relative": _TINY,
        "flash": {**_TINY, "flashed": True, "rotary_emb_dim": 8},
        "no-separable-bias": {**_TINY, "separable_bias": False, "separable_width": 20},
    },
)
