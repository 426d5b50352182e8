"""Published checkpoints as data: the rows of every `families/*/checkpoints.toml`. Imports no torch."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from chargaff.errors import ConfigError
from chargaff.families import list_families

DEFAULT_MODEL = "chargaff-caduceus-ps-mini"
"""The checkpoint that comes with the package; verbs use it where no model is named."""

HEADS = ("lm", "sequence", "token", "segmentation", "tracks", "pooler", "none")
POOLINGS = ("mean", "mean-all", "max", "first", "last", "centre", "cls", "none")
STRANDS = ("equivariant", "conjoined", "averaged", "forward-only")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything about a set of weights that is not a tensor."""

    name: str
    family: str
    """Folder below `families`."""
    source: str
    """"hub:<owner>/<repository>", "package:<folder below chargaff/bundled>", or "none:<why there are no weights>"."""
    layout: str
    """Key of the family's layouts."""
    head: str
    config: Mapping[str, Any]
    """Published config.json keys that decide the architecture."""
    context_bp: int
    """Length in bases of the training windows."""
    params: int
    """Exact count; tied tensors count once."""
    paper: str
    licence: str = ""
    """Of the weights."""
    corrections: Mapping[str, Any] = field(default_factory=dict)
    """Config keys that the published file lacks or has wrong."""
    revision: str = ""
    """Commit of the hub repository; "" takes the newest."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Every file that is needed -> its sha256, "" where none was recorded; empty: the usual names, as far as the
    repository has them."""
    labels: tuple[str, ...] = ()
    """Names of the head's outputs."""
    aliases: tuple[str, ...] = ()
    """Other names of it, such as those of the authors' code."""
    pooling: str = "mean"
    """How the authors pool token states."""
    strands: str = "forward-only"
    """What the model does about the two strands (DESIGN 0.11)."""

    @property
    def hub_id(self) -> str | None:
        """ "owner/repository"; None where no weights are published."""
        kind, _, value = self.source.partition(":")
        return value if kind == "hub" else None

    @property
    def package_folder(self) -> Path | None:
        """Where weights that came with this package lie; None for others."""
        kind, _, value = self.source.partition(":")
        return Path(str(files("chargaff.bundled").joinpath(value))) if kind == "package" else None


@cache
def list_checkpoints() -> tuple[Checkpoint, ...]:
    """All rows: families in alphabetical order, each in the order of its file.

    Raises:
        ConfigError: a row is malformed, or two rows have one name.
    """
    folder = files("chargaff.families")
    rows: list[Checkpoint] = []
    for family in list_families():
        rows += parse_rows(family, folder.joinpath(family, "checkpoints.toml").read_text(encoding="utf-8"))
    owners: dict[str, str] = {}
    for row in rows:
        for name in (row.name, *row.aliases):
            if name in owners:
                raise ConfigError(f"checkpoint {name!r} is defined by both {owners[name]} and {row.family}")
            owners[name] = row.family
    return tuple(rows)


def find_checkpoint(name: str) -> Checkpoint | None:
    """The row of that name or alias, in upper or lower case; None if there is none."""
    return _rows_by_name().get(name.lower())


def get_checkpoint(name: str) -> Checkpoint:
    """As `find_checkpoint`.

    Raises:
        ConfigError: there is none; the message suggests the nearest names.
    """
    row = find_checkpoint(name)
    if row is None:
        rows = _rows_by_name()
        near = difflib.get_close_matches(name.lower(), rows, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(rows)}"
        raise ConfigError(f"model: no checkpoint is called {name!r}; {hint}")
    return row


@cache
def _rows_by_name() -> Mapping[str, Checkpoint]:
    return {name.lower(): row for row in list_checkpoints() for name in (row.name, *row.aliases)}


def parse_rows(family: str, text: str) -> tuple[Checkpoint, ...]:
    """The rows of one table.

    Args:
        family: name of the family's folder.
        text: TOML, one table a checkpoint.

    Raises:
        ConfigError: bad TOML, an unknown or missing key, a value of the wrong type or outside its choices.
    """
    place = f"families/{family}/checkpoints.toml"
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{place}: {error}") from None
    return tuple(_parse_row(family, name, values, f"{place}: {name}") for name, values in tables.items())


def _parse_row(family: str, name: str, values: Any, place: str) -> Checkpoint:
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: expected a table, got {values!r}")
    hints = get_type_hints(Checkpoint)
    known = {entry.name: entry for entry in fields(Checkpoint) if entry.name not in ("name", "family")}
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{place}.{key}: unknown key, {hint}")
        given[key] = _typed(hints[key], value, f"{place}.{key}")
    missing = [
        key
        for key, entry in known.items()
        if key not in given and entry.default is MISSING and entry.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{place}: missing {', '.join(missing)}")
    row = Checkpoint(name=name, family=family, **given)
    _check(row, place)
    return row


def _typed(kind: Any, value: Any, place: str) -> Any:
    container = get_origin(kind)
    expected = {Mapping: dict, tuple: list, None: kind}[container]
    if not isinstance(value, expected) or isinstance(value, bool):
        raise ConfigError(f"{place}: expected {expected.__name__}, got {value!r}")
    if container is tuple:
        return tuple(_typed(get_args(kind)[0], entry, place) for entry in value)
    if container is Mapping and get_args(kind)[1] is str:
        return {key: _typed(str, entry, f"{place}.{key}") for key, entry in value.items()}
    return value


def _check(row: Checkpoint, place: str) -> None:
    for key, choices in (("head", HEADS), ("pooling", POOLINGS), ("strands", STRANDS)):
        if getattr(row, key) not in choices:
            raise ConfigError(f"{place}.{key}: expected one of {', '.join(choices)}, got {getattr(row, key)!r}")
    for key in ("context_bp", "params"):
        if getattr(row, key) < 1:
            raise ConfigError(f"{place}.{key}: expected a positive integer, got {getattr(row, key)}")
    kind, _, value = row.source.partition(":")
    if kind not in ("hub", "package", "none") or not value or (kind == "hub" and not _HUB_ID.fullmatch(value)):
        expected = "'hub:<owner>/<repository>', 'package:<folder>' or 'none:<reason>'"
        raise ConfigError(f"{place}.source: expected {expected}, got {row.source!r}")
    if kind != "none" and not row.licence:
        raise ConfigError(f"{place}: published weights need 'licence'")
    if row.revision and not _COMMIT.fullmatch(row.revision):
        raise ConfigError(f"{place}.revision: expected 40 hexadecimal digits or '', got {row.revision!r}")
    for file, sha256 in row.files.items():
        if file.startswith(("/", ".")) or ".." in file.split("/"):
            raise ConfigError(f"{place}.files: {file!r} leaves the repository's folder")
        if sha256 and not _SHA256.fullmatch(sha256):
            raise ConfigError(f"{place}.files.{file}: expected 64 hexadecimal digits or '', got {sha256!r}")
