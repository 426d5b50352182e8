"""TOML files and `key=value` words into frozen, typed tables; generic machinery, no schema of its own."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from chargaff.errors import ConfigError


class Table(BaseModel):
    """Base of every table: frozen, no unknown keys, the string under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


SomeTable = TypeVar("SomeTable", bound=Table)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        ConfigError: absent, a folder, or no valid TOML (with line and column).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        reason = "is a folder, not a run file" if isinstance(error, IsADirectoryError) else "no such file"
        raise ConfigError(f"{path}: {reason}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def parse_override(word: str) -> tuple[tuple[str, ...], Any]:
    """("train", "lr"), 0.001 from "train.lr=1e-3".

    The value is read as TOML; what is no TOML value is a string, so quotes are only needed around text that looks like
    something else.
    """
    key, equals, text = word.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"{word!r}: expected key=value, for example train.max_steps=100")
    try:
        return path, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return path, text


def apply_overrides(values: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """A copy of nested `values` with each "a.b.0.c=value" set; missing tables are created."""
    result: dict[str, Any] = _copy(values)
    for word in words:
        path, value = parse_override(word)
        node: Any = result
        for depth, key in enumerate(path[:-1]):
            node = _step_into(node, key, path[: depth + 1])
        if isinstance(node, list):
            node[_position(node, path[-1], path)] = value
        else:
            node[path[-1]] = value
    return result


def load_table(schema: type[SomeTable], path: Path, overrides: Sequence[str] = ()) -> SomeTable:
    """The file's content with the overrides on top, checked against `schema`.

    Raises:
        ConfigError: names the file and each dotted key that is wrong, with what is allowed or the nearest name.
    """
    return check_table(schema, apply_overrides(read_toml(path), overrides), where=f"{path}: ")


def check_table(schema: type[SomeTable], values: Mapping[str, Any], *, where: str = "") -> SomeTable:
    """The typed table, or a ConfigError that begins with `where`."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(schema, detail) for detail in error.errors(include_url=False)]
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise ConfigError(f"{where}{'; '.join(problems[:5])}{more}") from None


def to_toml(table: Table) -> str:
    """The whole table, defaults included, as TOML that `load_table` reads back to an equal table.

    Keys whose value is None are left out, as TOML has no null; paths are written absolute.
    """
    import tomli_w

    return tomli_w.dumps(_plain(table.model_dump()))


def json_schema(schema: type[Table]) -> dict[str, Any]:
    """JSON schema of a run file, for editors."""
    return schema.model_json_schema()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" if a known name is close, else a list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f", did you mean {close[0]!r}?"
    return f"; known are {', '.join(names)}" if names else ""


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _step_into(node: Any, key: str, path: tuple[str, ...]) -> Any:
    child = node[_position(node, key, path)] if isinstance(node, list) else node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise ConfigError(f"{'.'.join(path)}: is a value, not a table")
    return child


def _position(node: list[Any], key: str, path: tuple[str, ...]) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise ConfigError(f"{'.'.join(path)}: expected a number from 0 to {len(node) - 1}, got {key!r}")
    return int(key)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def _explain(schema: type[Table], detail: ErrorDetails) -> str:
    dotted, parent = _locate(schema, detail["loc"])
    place = ".".join(dotted)
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = () if parent is None else parent.model_fields
        return f"{place}: unknown key{did_you_mean(dotted[-1], known)}"
    if kind == "missing":
        return f"{place}: missing"
    if kind == "literal_error":
        return f"{place}: expected {context['expected']}, got {value!r}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context["discriminator"].strip("'")
        got = f", got {context['tag']!r}" if kind == "union_tag_invalid" else ", but it is missing"
        expected = context.get("expected_tags") or ", ".join(map(repr, _tags(_annotation(parent, dotted[-1]))))
        return f"{place}.{tag}: expected one of {expected}{got}"
    if kind == "value_error":
        return f"{place}: {context['error']}" if place else str(context["error"])
    message = detail["msg"].replace("Input should be", "expected")
    return f"{place}: {message[:1].lower()}{message[1:]}, got {value!r}"


def _locate(schema: type[Table], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """Dotted key of an error without the tags that pydantic adds, and the table that holds the last key."""
    dotted: list[str] = []
    annotation: Any = schema
    parent: type[BaseModel] | None = None
    for part in loc:
        options = _tables(annotation)
        if len(options) > 1 and (tagged := [table for table in options if part in _tags(table)]):
            annotation = tagged[0]
            continue
        parent = options[0] if len(options) == 1 else None
        dotted.append(str(part))
        annotation = _annotation(parent, str(part)) if parent else _element(annotation)
    return dotted, parent


def _annotation(table: type[BaseModel] | None, key: str) -> Any:
    field = table.model_fields.get(key) if table else None
    return field.annotation if field else None


def _tables(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [table for option in get_args(annotation) for table in _tables(option)]
    if hasattr(annotation, "__metadata__"):
        return _tables(get_args(annotation)[0])
    return []


def _element(annotation: Any) -> Any:
    arguments = [item for item in get_args(annotation) if item is not Ellipsis]
    return arguments[-1] if arguments else None


def _tags(annotation: Any) -> list[str]:
    """Values of the Literal fields that tell the tables of a union apart."""
    literals = (field.annotation for table in _tables(annotation) for field in table.model_fields.values())
    return [
        tag
        for literal in literals
        if get_origin(literal) is Literal and len(get_args(literal)) == 1
        for tag in get_args(literal)
    ]
