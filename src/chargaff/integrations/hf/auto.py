"""The entry points: transformers' Auto classes look for models of ours first."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.utils import cached_file

from chargaff.families import get_family
from chargaff.hub.describe import published_tokenizer
from chargaff.hub.manifest import MANIFEST, parse_tokenizer, read_json
from chargaff.integrations.hf.base import with_overrides
from chargaff.integrations.hf.config import ChargaffConfig
from chargaff.integrations.hf.find import HUB_OPTIONS, Found, find
from chargaff.integrations.hf.models import (
    ChargaffForCausalLM,
    ChargaffForMaskedLM,
    ChargaffForSequenceClassification,
    ChargaffForTokenClassification,
    ChargaffModel,
)
from chargaff.integrations.hf.tokenizer import ChargaffTokenizer
from chargaff.tokenizers.protocol import Tokenizer

CLASSES: Mapping[Any, Any] = {
    AutoModel: ChargaffModel,
    AutoModelForMaskedLM: ChargaffForMaskedLM,
    AutoModelForCausalLM: ChargaffForCausalLM,
    AutoModelForSequenceClassification: ChargaffForSequenceClassification,
    AutoModelForTokenClassification: ChargaffForTokenClassification,
}
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "vocab.txt")
_FOR_TRANSFORMERS = (
    "padding_side",
    "truncation_side",
    "model_max_length",
    "model_input_names",
    "clean_up_tokenization_spaces",
)
"""Keys of tokenizer_config.json that concern the calls, not the vocabulary."""
_INTERNAL = ("_commit_hash", "_from_auto", "_from_pipeline", "code_revision", "name_or_path", "trust_remote_code")
"""Keywords that transformers hands from class to class."""
_LARGEST_LIMIT = 10**20


def register() -> None:
    """Makes the Auto classes give ours for models of ours; everything else reaches transformers unchanged.

    transformers chooses a class by `model_type`, which published DNA models lack or share with stock models (`esm`,
    `bert`), so its registry alone cannot tell them apart: AutoConfig and AutoTokenizer are asked through a look at the
    files. Calling it again does nothing.
    """
    if getattr(AutoConfig.from_pretrained, "is_chargaff", False):
        return
    AutoConfig.register(ChargaffConfig.model_type, ChargaffConfig)
    AutoTokenizer.register(ChargaffConfig, tokenizer_class=ChargaffTokenizer)
    for auto, ours in CLASSES.items():
        auto.register(ChargaffConfig, ours)
    AutoConfig.from_pretrained = classmethod(_first(_config, AutoConfig.from_pretrained.__func__))
    AutoTokenizer.from_pretrained = classmethod(_first(_tokenizer, AutoTokenizer.from_pretrained.__func__))


def _first(ours: Callable[[Found, Any, dict[str, Any]], Any], stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        name = pretrained_model_name_or_path
        is_name = isinstance(name, str | os.PathLike) and str(name) != ""
        found = find(name, kwargs) if is_name and not args and not kwargs.get("gguf_file") else None
        if found is None:
            return stock(cls, name, *args, **kwargs)
        return ours(found, name, kwargs)

    from_pretrained.is_chargaff = True  # type: ignore[attr-defined]
    return from_pretrained


def _config(found: Found, name: Any, kwargs: dict[str, Any]) -> Any:
    wants_rest = kwargs.pop("return_unused_kwargs", False)
    given = {key: value for key, value in kwargs.items() if key not in (*_INTERNAL, *HUB_OPTIONS)}
    config, rest = with_overrides(found.config(), name, given)
    return (config, rest) if wants_rest else config


def _tokenizer(found: Found, name: Any, kwargs: dict[str, Any]) -> ChargaffTokenizer:
    """As the files describe it; keywords such as `padding_side` win."""
    folder = _tokenizer_folder(found, name, kwargs)
    config = found.config()
    path = None if folder is None else folder / "tokenizer_config.json"
    facts = read_json(path) if path is not None and path.is_file() else {}
    core = _core(found, config, folder, facts)
    given = {key: facts[key] for key in _FOR_TRANSFORMERS if key in facts}
    for key in ("padding_side", "model_max_length"):
        if getattr(core, key, None) is not None:
            given.setdefault(key, getattr(core, key))
    given.setdefault("model_max_length", found.published.get("max_seq_len"))
    if given["model_max_length"] is None or given["model_max_length"] > _LARGEST_LIMIT:
        del given["model_max_length"]
    internal = (*HUB_OPTIONS, *_INTERNAL, "config", "tokenizer_type", "use_fast")
    given |= {key: value for key, value in kwargs.items() if key not in internal}
    given.setdefault("model_input_names", _returned(core, config))
    return ChargaffTokenizer(found.family, config.family_config, core=core, name_or_path=str(name), **given)


def _returned(core: Tokenizer, config: ChargaffConfig) -> list[str]:
    """What a call returns: a mask only for models that take one, as published."""
    stated = getattr(type(core), "RETURNS", None)
    if stated is not None:
        return list(stated)
    with torch.device("meta"):
        backbone: Any = get_family(config.family).backbone(config.parsed())
    return ["input_ids", "attention_mask"] if backbone.rule.padding == "masked" else ["input_ids"]


def _core(found: Found, config: ChargaffConfig, folder: Path | None, facts: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer itself."""
    core = get_family(found.family).tokenizer(config.parsed())
    if found.manifest and found.folder is not None:
        return parse_tokenizer(found.folder / MANIFEST, found.manifest.get("tokenizer"), core)
    if folder is None:
        return core
    if facts.get("dna_options"):
        return parse_tokenizer(folder / "tokenizer_config.json", facts["dna_options"], core)
    return published_tokenizer(folder, core, config.parsed())[0]


def _tokenizer_folder(found: Found, name: Any, kwargs: Mapping[str, Any]) -> Path | None:
    """Where the tokenizer's files lie, once they are downloaded; None if there are none."""
    if Path(name).exists():
        return found.folder
    given = {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
    paths = [
        cached_file(
            str(name),
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
            **given,
        )
        for file in _TOKENIZER_FILES
    ]
    return next((Path(path).parent for path in paths if path is not None), None)
