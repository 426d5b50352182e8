"""Tensor names of published Mamba repositories and of training checkpoints (caduceus sheet 2.8)."""

import json
from collections.abc import Sequence

from chargaff.families.mamba.config import MambaConfig
from chargaff.families.protocol import Layout, StateDict
from chargaff.families.renaming import rename

_READ = [
    (r"(?:model\.)?backbone\.embeddings?\.weight", r"backbone.embedding.weight"),  # early files say `embeddings`
    (r"(?:model\.)?backbone\.(.*)", r"backbone.\1"),
    (r"(?:model\.)?lm_head\.weight", r"head.weight"),
    (r"decoder\.0\.output_transform\.(weight|bias)", r"head.linear.\1"),
    (r"(?:train|val|test)_torchmetrics\..*", None),  # metric counters of the training framework
]
_WRITE = [(r"backbone\.(.*)", r"backbone.\1"), (r"head\.weight", r"lm_head.weight")]


def read(state: StateDict, config: MambaConfig) -> StateDict:
    """Every published layout -> ours. A file with a classifier loses the language-model head it may still carry."""
    ours = rename(state, _READ)
    if "head.linear.weight" in ours:
        ours.pop("head.weight", None)
    return ours


def write(state: StateDict, config: MambaConfig) -> StateDict:
    """Ours -> hub files, which hold the head even where it is tied."""
    if config.tie_embeddings:
        state = {**state, "head.weight": state["backbone.embedding.weight"]}
    return rename(state, _WRITE)


LAYOUTS = {"hub": Layout(read, write), "lightning": Layout(read)}


def published_files(
    config: MambaConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """config.json as published Mamba repositories hold it."""
    return {"config.json": json.dumps(config.to_json(), indent=2) + "\n"}
