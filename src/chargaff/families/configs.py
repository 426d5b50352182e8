"""Published config.json values -> frozen dataclasses and back."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from chargaff.errors import ConfigError

ConfigT = TypeVar("ConfigT")

_BOOKKEEPING = ("_", "transformers_version", "torch_dtype", "dtype", "architectures", "auto_map", "model_type")
"""Keys (or, for "_", a prefix) that every published file may carry without meaning for the architecture."""


def parse_config(
    cls: type[ConfigT], values: Mapping[str, Any], *, where: str = "config", strict: bool = False
) -> ConfigT:
    """An instance of the dataclass `cls` from published values.

    Args:
        values: as read from JSON or TOML; nested tables become nested dataclasses.
        strict: every unknown key is an error. Otherwise only one that looks like a misspelt field is, since published
            files carry keys of the library that wrote them.

    Raises:
        ConfigError: unknown key, missing key or wrong type, with its dotted path.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key in fields:
            given[key] = _convert(hints[key], value, where=f"{where}.{key}")
            continue
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.6 if strict else 0.8)
        is_foreign = key.startswith("_") or key in _BOOKKEEPING
        if not is_foreign and (strict or near):
            hint = f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ConfigError(f"{where}.{key}: unknown key{hint}")
    missing = [
        name
        for name, field in fields.items()
        if name not in given and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    return cls(**given)


def _convert(kind: Any, value: Any, *, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if value is None and len(options) < len(typing.get_args(kind)):
            return None
        for option in options[:-1]:
            try:
                return _convert(option, value, where=where)
            except ConfigError:
                continue
        return _convert(options[-1], value, where=where)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{where}: expected one of {typing.get_args(kind)}, got {value!r}")
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return parse_config(kind, value, where=where)  # type: ignore[arg-type]
    if kind is bool and isinstance(value, str) and value.rstrip(",").lower() in ("true", "false"):
        return value.rstrip(",").lower() == "true"  # a published training config holds the string "true,"
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        key_kind, value_kind = typing.get_args(kind)
        return {_key(key_kind, key, where): _convert(value_kind, item, where=where) for key, item in value.items()}
    expected = origin or kind
    if expected is Any or (isinstance(value, expected) and (expected is bool or not isinstance(value, bool))):
        return value
    raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r}")


def _key(kind: Any, key: Any, where: str) -> Any:
    try:
        return kind(key)
    except ValueError as error:
        raise ConfigError(f"{where}: key {key!r} is not {kind.__name__}") from error


def config_to_json(config: Any) -> dict[str, Any]:
    """Published keys and values; nested dataclasses become tables, integer keys strings in numeric order."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(key): plain(value[key]) for key in sorted(value)}
        return value

    result: dict[str, Any] = plain(config)
    return result
