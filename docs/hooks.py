"""Fills the parts of the pages that the code knows best: `<!-- commands -->` becomes the help of every command."""

import io
from collections.abc import Iterator
from typing import Any

from cyclopts import App
from rich.console import Console

from chargaff.cli.main import build_app

WIDTH = 100


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", "\n".join(describe_commands()))
    return markdown


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
