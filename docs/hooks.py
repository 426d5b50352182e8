"""Fills the parts of the pages that the code knows best.

Each marker `<!-- name -->` is replaced by what the function of that name in `makers` yields.
"""

import ast
import inspect
import io
import itertools
import re
import runpy
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from cyclopts import App
from pydantic import BaseModel
from rich.console import Console

import chargaff
from chargaff.cli.main import build_app
from chargaff.config import Table
from chargaff.train.runs import FinetuneRun, PretrainRun, SegmentationRun, list_recipes

WIDTH = 100
ROOT = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    for name, make in makers().items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(make()))
    return markdown


def makers() -> dict[str, Callable[[], Iterator[str]]]:
    """What stands for each marker."""
    return {
        "commands": describe_commands,
        "names": describe_names,
        "run-files": describe_run_files,
        "recipes": describe_recipes,
        "layers": describe_layers,
        "results": describe_results,
    }


def describe_layers() -> Iterator[str]:
    """The table that tests/test_layers.py enforces."""
    table = runpy.run_path(str(ROOT / "tests" / "test_layers.py"))["MAY_IMPORT"]
    yield "| package | may import |\n|---|---|"
    for package, allowed in table.items():
        yield f"| `{package}` | {', '.join(f'`{name}`' for name in sorted(allowed)) or 'none'} |"


def describe_results() -> Iterator[str]:
    """The reports, headings one level down."""
    newest = {path.stem[len("2026-01-01-") :]: path for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))}
    for machine, path in sorted(newest.items()):
        text = re.sub(r"^# .*\n", "", path.read_text())
        yield f"## {machine}, {path.stem[:10]}\n\n" + re.sub(r"^## ", "### ", text, flags=re.M)


def describe_run_files() -> Iterator[str]:
    """A section for each table, nested ones under their dotted name."""
    seen: dict[type[BaseModel], str] = {}
    for schema in (PretrainRun, FinetuneRun, SegmentationRun):
        for name, field in schema.model_fields.items():
            for table in tables_in(field.annotation):
                yield from describe_table(table, name, seen)


def describe_recipes() -> Iterator[str]:
    """A table for each folder of recipes: the name, and the first line of the file's comment."""
    folders = itertools.groupby(list_recipes().items(), key=lambda item: item[1].parent.name)
    for folder, recipes in folders:
        yield f"## {folder}\n\n| recipe | what |\n|---|---|"
        for name, path in recipes:
            first = path.read_text().partition("\n")[0].removeprefix("#").strip().rstrip(":")
            yield f"| `{name}` | {first} |"
        yield ""


def describe_table(table: type[BaseModel], name: str, seen: dict[type[BaseModel], str]) -> Iterator[str]:
    if table in seen:
        return
    seen[table] = name
    kind = table.model_fields.get("kind")
    tag = f', kind = "{get_args(kind.annotation)[0]}"' if kind and len(get_args(kind.annotation)) == 1 else ""
    base = next((other for other in seen if other in table.__bases__), None)
    more = f"\n\nThe keys of [{seen[base]}] above, and:" if base else ""
    members = "\n".join(line for cls in reversed(table.__mro__) if is_new(cls, base) for line in fields_of(cls))
    members = re.sub(r"Annotated\[(\w+), Field\((.*?)\)\]", r"\1 (\2)", members)
    yield f"## [{name}]{tag}\n\n```text\n{inspect.getdoc(table)}{more}\n\n{members}\n```\n"
    for inner, field in table.model_fields.items():
        for nested in tables_in(field.annotation):
            yield from describe_table(nested, f"{name}.{inner}", seen)


def is_new(cls: type, base: type | None) -> bool:
    """Whether the class brings keys that the base has not shown yet."""
    return issubclass(cls, Table) and cls is not Table and not (base and issubclass(base, cls))


def fields_of(cls: type) -> Iterator[str]:
    node = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(node, ast.ClassDef)
    yield from describe_members(node)


def tables_in(annotation: Any) -> list[type[BaseModel]]:
    """The table classes that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in tables_in(part)]


def describe_names() -> Iterator[str]:
    """A section for each name that `import chargaff` offers."""
    for name in sorted(chargaff.__all__, key=str.lower):
        value = getattr(chargaff, name)
        node = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
        head = signature(node) if isinstance(node, ast.FunctionDef) else f"class {name}"
        fields = list(describe_members(node)) if isinstance(node, ast.ClassDef) else []
        parts = [head, inspect.getdoc(value) or "", "\n".join(fields)]
        yield f"## {name}\n\n```text\n" + "\n\n".join(part for part in parts if part) + "\n```\n"


def describe_members(node: ast.ClassDef) -> Iterator[str]:
    """Fields with their line of explanation, public methods with the first line of theirs."""
    for child, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(child, ast.AnnAssign):
            default = "" if child.value is None else f" = {ast.unparse(child.value)}"
            yield f"{ast.unparse(child.target)}: {ast.unparse(child.annotation)}{default}"
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                yield textwrap.indent(inspect.cleandoc(str(following.value.value)), "    ")
        elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield signature(child)
            yield "    " + (ast.get_docstring(child) or "").partition("\n")[0]


def signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def describe_commands() -> Iterator[str]:
    """A section for each command, in the order of the help page."""
    app = build_app()
    for words in leaves(app):
        yield f"## chargaff {' '.join(words)}\n\n```text\n{help_text(app, words)}\n```\n"


def leaves(app: App, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    names = sorted(name for name in app if not name.startswith("-"))
    if not names and before:
        yield before
    for name in names:
        yield from leaves(app[name], (*before, name))


def help_text(app: App, words: tuple[str, ...]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    app.help_print(list(words), console=console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip().splitlines())
