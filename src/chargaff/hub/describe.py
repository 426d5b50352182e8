"""The files of a checkpoint -> what they say about the model."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families import get_family, list_families
from chargaff.families.protocol import Family
from chargaff.hub.catalog import Checkpoint
from chargaff.hub.files import CONFIG_FILES, LocalFiles
from chargaff.hub.manifest import MANIFEST, parse_spec, parse_tokenizer, read_json
from chargaff.hub.readers import PARAMS, read_weights
from chargaff.model import ModelSpec
from chargaff.tokenizers.protocol import Tokenizer

_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_LONGEST_BP = 10**9
"""A larger `model_max_length` means that there is no limit."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Description:
    """What a checkpoint says about itself."""

    spec: ModelSpec
    """Its head is "" where only the tensors tell."""
    layout: str | None
    """Key of the family's layouts; None: our own names."""
    tokenizer: Tokenizer
    sums: Mapping[str, str] = field(default_factory=dict)
    """Weight files -> sha256, as far as recorded beside them."""


def describe(files: LocalFiles, overrides: Mapping[str, Any]) -> Description:
    """Family, config, layout and facts of a checkpoint.

    Args:
        overrides: config keys that replace the published ones.

    Raises:
        CheckpointError: no description, one of no known family, or one that contradicts itself.
        ConfigError: an unknown key in `overrides`.
    """
    if files.config is not None and files.config.name == MANIFEST:
        content = read_json(files.config)
        spec = parse_spec(files.config, content, files.name, overrides)
        tokenizer = get_family(spec.family).tokenizer(spec.config)
        tokenizer = parse_tokenizer(files.config, content.get("tokenizer"), tokenizer)
        return Description(spec, None, tokenizer, content.get("files") or {})
    if files.config is None and files.checkpoint is None and files.weights.name == PARAMS:
        return _describe_archive(files, overrides)
    if files.config is None and files.checkpoint is None:
        raise CheckpointError(
            f"{files.weights}: no {', '.join(CONFIG_FILES)} says what these weights are; put the published config.json "
            "beside them"
        )
    published = {} if files.config is None else published_values(read_json(files.config))
    if files.checkpoint is not None:
        return _describe_row(files, files.checkpoint, published, overrides)
    name, family = _recognise(published, files)
    config = _parse(family, published, overrides, str(files.config))
    tokenizer, context_bp = published_tokenizer(files.weights.parent, family.tokenizer(config), config)
    spec = ModelSpec(
        name,
        config,
        head="",
        name=files.name,
        head_options={key: family.published_head[key] for key in ("pooling",) if key in family.published_head},
        labels=_labels(published),
        context_bp=context_bp,
        pooling=family.pooling,
        strands=family.strands(config),
        notes={"commit": files.commit} if files.commit else {},
    )
    special = {".ckpt": "lightning", ".joblib": "jax"}.get(files.weights.suffix, "hub")
    return Description(spec, special if special in family.layouts else "hub", tokenizer)


def _describe_archive(files: LocalFiles, overrides: Mapping[str, Any]) -> Description:
    """Of a JAX model without a description: its modules tell the family, whose defaults are the published values."""
    names = [name for name in read_weights(files.weights) if not name.startswith("STATE/")]
    families = {name: get_family(name) for name in list_families()}
    found = [name for name, family in families.items() if family.recognises_names(names)]
    if len(found) != 1:
        raise CheckpointError(
            f"{files.weights}: of no family known here, by the names of its tensors ({', '.join(sorted(names)[:3])})"
        )
    family = families[found[0]]
    config = _parse(family, {}, overrides, str(files.weights))
    labels = _labels({"features": getattr(config, "features", None)})
    spec = ModelSpec(found[0], config, head="", name=files.name, labels=labels, strands=family.strands(config))
    return Description(spec, "jax", family.tokenizer(config))


def _describe_row(
    files: LocalFiles, row: Checkpoint, published: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Description:
    family = get_family(row.family)
    values = {**published, **row.corrections} if published else row.config
    config = _parse(family, values, overrides, str(files.config or row.name))
    stated = family.config.from_json(row.config)  # type: ignore[attr-defined]
    differing = [key for key in row.config if key not in overrides and getattr(config, key) != getattr(stated, key)]
    if differing:
        _LOG.warning("%s: its config.json differs from the catalogue in %s and is followed", row.name, differing)
    tokenizer, _ = published_tokenizer(files.weights.parent, family.tokenizer(config), config)
    spec = ModelSpec(
        row.family,
        config,
        head=row.head,
        name=row.name,
        labels=row.labels,
        context_bp=row.context_bp,
        pooling=row.pooling,
        strands=family.strands(config) if overrides else row.strands,
        licence=row.licence,
        paper=row.paper,
        notes={"commit": files.commit} if files.commit else {},
    )
    return Description(spec, row.layout, tokenizer)


def published_values(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's keys: the whole file, or below "config" or "model.config" in files of the training framework."""
    model = content.get("model")
    for inner in (content.get("config"), model.get("config") if isinstance(model, Mapping) else None):
        if isinstance(inner, Mapping):
            return inner
    return content


def _recognise(published: Mapping[str, Any], files: LocalFiles) -> tuple[str, Family]:
    found = [name for name in list_families() if get_family(name).recognises(published)]
    if len(found) != 1:
        what = f"fits several families ({', '.join(found)})" if found else "is of no family known here"
        hint = f"model_type {published.get('model_type')!r}, keys {', '.join(list(published)[:8])}"
        raise CheckpointError(f"{files.config}: {what}: {hint}; families: {', '.join(list_families())}")
    return found[0], get_family(found[0])


def _parse(family: Family, published: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> Any:
    known = [entry.name for entry in fields(family.config)]
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"config.{key}: unknown key, {hint}")
    try:
        return family.config.from_json({**published, **overrides})  # type: ignore[attr-defined]
    except ConfigError as error:
        if overrides:
            raise
        raise CheckpointError(f"{where}: {error}") from error


def published_tokenizer(folder: Path, tokenizer: Tokenizer, config: Any) -> tuple[Tokenizer, int | None]:
    """The tokenizer as the files beside the weights set it up, and the length they give, in bases.

    Raises:
        CheckpointError: they describe another vocabulary than the family's, or lack one that is only to be had there.
    """
    names = getattr(type(tokenizer), "PUBLISHED", _TOKENIZER_FILES)
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names if (folder / name).is_file()}
    read = getattr(type(tokenizer), "from_published", None)
    if read is not None and hasattr(type(tokenizer), "FILES"):
        return _tokenizer_of_files(folder, read, texts, config.vocab_size), None
    if _TOKENIZER_FILES[0] not in texts or read is None:
        return tokenizer, None
    published: Tokenizer = read(texts)
    if published.vocab != tokenizer.vocab:
        theirs, ours = (f"{len(v)} tokens, {' '.join(v[:12])} ..." for v in (published.vocab, tokenizer.vocab))
        raise CheckpointError(
            f"{folder / _TOKENIZER_FILES[0]}: the vocabulary is {theirs}; that of the model is {ours}"
        )
    length = read_json(folder / _TOKENIZER_FILES[0]).get("model_max_length")
    is_limit = isinstance(length, int) and length < _LONGEST_BP and tokenizer.complement is not None
    return published, length if is_limit else None


def _tokenizer_of_files(folder: Path, read: Any, texts: Mapping[str, str], num_rows: int) -> Tokenizer:
    """A tokenizer whose vocabulary is a file; `num_rows` is what the embedding has."""
    try:
        found: Tokenizer = read(texts)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if len(found.vocab) > num_rows:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(found.vocab):,} tokens, the model's embedding {num_rows:,} rows: "
            "the vocabulary is another model's"
        )
    return found


def _labels(published: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a published head's outputs, in their order: classes, or the elements of a segmentation."""
    elements = published.get("features")
    if isinstance(elements, Sequence) and not isinstance(elements, str):
        return tuple(str(element) for element in elements)
    table = published.get("id2label")
    if not isinstance(table, Mapping):
        return ()
    return tuple(str(table[key]) for key in sorted(table, key=int))
