"""Folders as their authors publish models, and calls on them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

import chargaff.integrations.transformers  # noqa: F401 - what is tested
from chargaff.families import get_family
from chargaff.hub.save import export, save
from chargaff.model import Model
from tests.conftest import shared_data
from tests.contract.tiny import tiny_model

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "data"


def stored(relative: str) -> Path:
    """A file or folder of references: the repository's copy, else the shared data's."""
    return GOLDENS / relative if (GOLDENS / relative).exists() else shared_data(f"goldens/{relative}")


def saved(family: str, variant: str, folder: Path, **options: Any) -> Path:
    """A tiny model in chargaff's own layout."""
    save(tiny_model(family, variant, **options), folder)
    return folder


def exported(model: Model, folder: Path) -> Path:
    """A model as its authors publish theirs."""
    model.spec = replace(model.spec, context_bp=1024)  # published tokenizer files state a length
    export(model, folder, "hub")
    return folder


def auto_class(model: Model) -> Any:
    """The Auto class that fits a model's head."""
    if model.head is None:
        return AutoModel
    if model.spec.head == "sequence":
        return AutoModelForSequenceClassification
    is_causal = model.backbone.rule.padding == "causal" and get_family(model.spec.family).objective == "causal"
    return AutoModelForCausalLM if is_causal else AutoModelForMaskedLM


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a stored reference."""
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping


def published(name: str, folder: Path, **config: Any) -> dict[str, Tensor]:
    """The model of a stored reference as a published folder; gives the reference's tensors."""
    tensors, meta = golden(name)
    folder.mkdir()
    values = {key: value for key, value in json.loads(meta["config"]).items() if not key.startswith("_")}
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    weights = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    save_file({key: value.clone() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return tensors


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """Within `tolerance` of the largest expected value."""
    bound = tolerance * expected.abs().max().clamp_min(1e-6)
    return got.shape == expected.shape and bool((got - expected).abs().max() <= bound)


@torch.no_grad()
def logits_of(model: Any, tokens: Tensor, **options: Any) -> Tensor:
    """Of either kind of model; states where there is no head."""
    found = model(tokens, **options)
    if getattr(found, "logits", None) is not None:
        return found.logits
    return found.last_hidden_state if hasattr(found, "last_hidden_state") else found.encoded.hidden
