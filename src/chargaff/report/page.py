"""A page as values, and the one HTML file made of them: nothing in it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chargaff.report.pictures import Picture


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a table's column."""

    title: str
    is_number: bool = False
    """Set flush right in figures of equal width."""
    note: str = ""
    """Explanation, shown on hover."""


Cell = str | tuple[str, str]
"""Text, or text and a remark below it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first cell names its row."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    strong_rows: frozenset[int] = frozenset()
    """Numbers of the rows to stand out."""
    kind: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures side by side, as many as the screen is wide."""

    pictures: Sequence[Picture]
    note: str = ""
    kind: Literal["gallery"] = "gallery"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    text: str
    is_warning: bool = False
    kind: Literal["note"] = "note"


@dataclass(frozen=True, slots=True)
class Folded:
    """Text as it is in a file, shown on demand."""

    title: str
    text: str
    kind: Literal["folded"] = "folded"


Block = Table | Gallery | Facts | Note | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A headed part of the page."""

    name: str
    """Anchor; unique."""
    title: str
    blocks: Sequence[Block]
    intro: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that matters."""

    title: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """All of a report."""

    title: str
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    footer: str

    def pictures(self) -> list[Picture]:
        """In the order of the page."""
        galleries = (block for part in self.sections for block in part.blocks if isinstance(block, Gallery))
        return [picture for gallery in galleries for picture in gallery.pictures]


def render(page: Page, figure_folder: str) -> str:
    """The HTML.

    Args:
        figure_folder: where the pictures' files lie, relative to the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    names = [picture.name for picture in page.pictures()]
    assert len(set(names)) == len(names), f"pictures of the same name: {sorted(names)}"
    loader = PackageLoader("chargaff.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["inline"] = lambda picture: Markup(picture.inline)  # our own drawing, its texts escaped
    text = environment.get_template("page.html").render(page=page, folder=figure_folder)
    return text if text.endswith("\n") else text + "\n"
