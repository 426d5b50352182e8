"""`model.json`: everything about a saved model that is not a tensor."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chargaff import __version__
from chargaff.errors import CheckpointError, ConfigError
from chargaff.families import get_family
from chargaff.model import Model, ModelSpec
from chargaff.tokenizers.protocol import Tokenizer

MANIFEST = "model.json"
_FORMAT = 1
_PLAIN = ("head_options", "context_bp", "pooling", "strands", "licence", "paper", "notes")
"""Fields of ModelSpec that are written as they are."""


def describe_model(model: Model, sums: Mapping[str, str]) -> dict[str, Any]:
    """The content of `model.json`.

    Args:
        sums: weight files -> sha256.
    """
    spec = model.spec
    return {
        "format": _FORMAT,
        "chargaff": __version__,
        "family": spec.family,
        "config": spec.config.to_json(),
        "head": spec.head,
        "labels": list(spec.labels),
        "thresholds": dict(spec.thresholds),
        "name": spec.name,
        "parent": spec.parent,
        **{key: _plain(getattr(spec, key)) for key in _PLAIN},
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "tokenizer": describe_tokenizer(model.tokenizer),
        "files": dict(sums),
    }


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def parse_spec(path: Path, content: Mapping[str, Any], name: str, overrides: Mapping[str, Any]) -> ModelSpec:
    """The description in a `model.json`.

    Args:
        name: what to call the model now; the name it was saved under becomes its parent unless it has one.
        overrides: config keys that replace the saved ones.
    """
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: format {content.get('format')!r}, expected {_FORMAT}; was it written by a newer version?"
        )
    try:
        family = str(content["family"])
        config = get_family(family).config.from_json({**content["config"], **overrides}, strict=True)  # type: ignore[attr-defined]
        return ModelSpec(
            family=family,
            config=config,
            head=content["head"],
            name=name,
            labels=tuple(content["labels"]),
            parent=content["parent"] or content["name"],
            thresholds=_numbers(content.get("thresholds", {})),
            **{key: content[key] for key in _PLAIN},
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: incomplete or altered ({error!r}); save the model again") from error


def parse_tokenizer(path: Path, facts: Any, tokenizer: Tokenizer) -> Tokenizer:
    """The family's tokenizer with the options that were saved.

    Raises:
        CheckpointError: the saved facts are of another tokenizer.
    """
    if not isinstance(facts, Mapping) or facts.get("class") != type(tokenizer).__name__:
        raise CheckpointError(f"{path}: the tokenizer is not the family's {type(tokenizer).__name__}: {facts!r:.200}")
    options = {
        key: tuple(value) if isinstance(value, list) else value for key, value in facts.items() if key != "class"
    }
    for key in getattr(type(tokenizer), "FILES", {}):
        options[key] = _stored_text(path.parent, options.get(key))
    try:
        return dataclasses.replace(tokenizer, **options) if options else tokenizer  # type: ignore[type-var]
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: tokenizer: {error}") from error


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    """File name -> content of what a tokenizer keeps in files of its own (`FILES` of its class)."""
    return {name: getattr(tokenizer, field) for field, name in getattr(type(tokenizer), "FILES", {}).items()}


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Class and options, which `parse_tokenizer` takes back."""
    options: dict[str, Any] = {}
    if dataclasses.is_dataclass(tokenizer) and not isinstance(tokenizer, type):
        options = dataclasses.asdict(tokenizer)
    for field, name in getattr(type(tokenizer), "FILES", {}).items():
        options[field] = {"file": name, "sha256": _sha256(options[field])}
    return {"class": type(tokenizer).__name__, **options}


def _stored_text(folder: Path, entry: Any) -> str:
    """The content of a file that `describe_tokenizer` named.

    Raises:
        CheckpointError: it is not there, or not as it was written.
    """
    name = Path(str(entry.get("file") if isinstance(entry, Mapping) else entry)).name
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name}: the tokenizer's file cannot be read ({error})") from error
    if _sha256(text) != entry["sha256"]:
        raise CheckpointError(f"{folder / name}: not the file that was saved with the model; save the model again")
    return text


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not all(isinstance(number, int | float) for number in value.values()):
        raise TypeError(f"expected names with numbers, found {value!r:.200}")
    return dict(value)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
