"""The entry points: transformers' Auto classes look for models of ours first."""

import functools
import json
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
from chargaff.hub.manifest import parse_tokenizer
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
_FOR_TRANSFORMERS = ("padding_side", "truncation_side", "model_max_length", "clean_up_tokenization_spaces")
"""Keys of tokenizer_config.json that concern the calls, not the vocabulary."""
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
        found = None if args or kwargs.get("gguf_file") else find(name, kwargs)
        if found is None:
            return stock(cls, name, *args, **kwargs)
        return ours(found, name, kwargs)

    from_pretrained.is_chargaff = True  # type: ignore[attr-defined]
    return from_pretrained


def _config(found: Found, name: Any, kwargs: dict[str, Any]) -> Any:
    wants_rest = kwargs.pop("return_unused_kwargs", False)
    internal = ("_from_auto", "_from_pipeline", "code_revision", "name_or_path", "trust_remote_code", *HUB_OPTIONS)
    given = {key: value for key, value in kwargs.items() if key not in internal}
    config, rest = with_overrides(found.config(), name, given)
    return (config, rest) if wants_rest else config


def _tokenizer(found: Found, name: Any, kwargs: dict[str, Any]) -> ChargaffTokenizer:
    """As the files describe it; keywords such as `padding_side` win."""
    files = _read_tokenizer_files(found, name, kwargs)
    config = found.config()
    facts = json.loads(files.get("tokenizer_config.json", "{}"))
    core = _core(found, config, files, facts)
    family = get_family(found.family)
    given = {key: facts[key] for key in _FOR_TRANSFORMERS if key in facts}
    for key in ("padding_side", "model_max_length"):
        if getattr(core, key, None) is not None:
            given.setdefault(key, getattr(core, key))
    given.setdefault("model_max_length", found.published.get("max_seq_len"))
    if given["model_max_length"] is None or given["model_max_length"] > _LARGEST_LIMIT:
        del given["model_max_length"]
    with torch.device("meta"):
        backbone: Any = family.backbone(config.parsed())
    names = ["input_ids", "attention_mask"] if backbone.rule.padding == "masked" else ["input_ids"]
    stock = ("cache_dir", "config", "tokenizer_type", "use_fast", "trust_remote_code", "_from_auto", "_from_pipeline")
    given |= {key: value for key, value in kwargs.items() if key not in (*stock, *HUB_OPTIONS, "code_revision")}
    given.setdefault("model_input_names", names)
    return ChargaffTokenizer(found.family, config.family_config, core=core, name_or_path=str(name), **given)


def _core(found: Found, config: ChargaffConfig, files: Mapping[str, str], facts: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer itself."""
    core = get_family(found.family).tokenizer(config.parsed())
    if found.manifest:
        return parse_tokenizer("model.json", found.manifest.get("tokenizer"), core)
    if facts.get("dna_options"):
        return parse_tokenizer("tokenizer_config.json", facts["dna_options"], core)
    read = getattr(type(core), "from_published", None)
    if read is None or "tokenizer_config.json" not in files:
        return core
    published: Tokenizer = read(files)
    return published


def _read_tokenizer_files(found: Found, name: Any, kwargs: Mapping[str, Any]) -> dict[str, str]:
    """File name -> content, as far as they are there."""
    if Path(name).exists():
        assert found.folder is not None
        paths = {file: found.folder / file for file in _TOKENIZER_FILES}
    else:
        given = {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
        paths = {}
        for file in _TOKENIZER_FILES:
            path = cached_file(
                str(name),
                file,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
                **given,
            )
            if path is not None:
                paths[file] = Path(path)
    return {file: path.read_text(encoding="utf-8") for file, path in paths.items() if path.is_file()}
