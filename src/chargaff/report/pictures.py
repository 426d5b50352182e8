"""One small figure at a time, as PNG, as SVG, and as SVG that takes its colours from the page it stands in.

A picture is about as wide as a phone, so that its text stays readable there; a page puts several side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#1b2027", "#5a6470", "#d8dde3", "#fefefe"
SERIES = ("#0069a8", "#c4500a", "#00805c", "#a34a86", "#8f6500", "#3d8fc9", "#6a5acd", "#59656f")
"""After Okabe and Ito, darkened to a contrast of at least 3 on white; told apart with any colour vision."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (1, 1.4)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "p")

VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}
"""Colour of the files -> CSS variable of the page."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11.5,
    "legend.frameon": False,
    "legend.handlelength": 1.9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "savefig.dpi": 160,
    "svg.hashsalt": "chargaff",  # equal input gives an equal file
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and set in the page's font
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "figure.facecolor": SURFACE,
    "axes.facecolor": SURFACE,
    "savefig.facecolor": SURFACE,
}

_WITHOUT_FACTS = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure."""

    name: str
    """Stem of its files."""
    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    svg: bytes
    """A file of its own."""
    png: bytes
    inline: str
    """SVG element for a page that defines the colours as CSS variables."""
    width: float
    """Natural width in CSS pixels."""


def colour(number: int) -> str:
    """Of a series; repeats after the last."""
    return SERIES[number % len(SERIES)]


def dash(number: int) -> Any:
    return DASHES[number % len(DASHES)]


def marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def paint(
    name: str, draw: Callable[[Figure], None], *, alt: str, caption: str = "", size: tuple[float, float] = (380, 320)
) -> Picture:
    """The figure that `draw` fills.

    Args:
        size: width and height in CSS pixels; the font is 12 of them high.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        svg, png = BytesIO(), BytesIO()
        figure.savefig(svg, format="svg", metadata=_WITHOUT_FACTS)
        figure.set_layout_engine("none")  # all is in its place now
        figure.savefig(png, format="png", metadata={"Software": None})
    text = svg.getvalue().decode()
    return Picture(name, alt, caption, svg.getvalue(), png.getvalue(), _for_page(text, name, alt), size[0])


def file_stem(*words: str) -> str:
    """Words as a file name that every system takes: lower case, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") or "figure"


def _for_page(svg: str, name: str, alt: str) -> str:
    """The `<svg>` element with the page's colours and font, and with ids that no other picture has."""
    body = svg[svg.index("<svg") :]
    head, _, inner = body.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    inner = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", inner, flags=re.S)
    inner = re.sub(r'\bid="', f'id="{name}.', inner)
    inner = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}.", inner).replace("xlink:href", "href")
    inner = re.sub(r"font-family: [^;\"]*;? ?", "", inner)
    inner = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", inner)
    inner = re.sub(r"#[0-9a-f]{6}\b", lambda match: _variable(match[0]), inner)
    inner = re.sub(r"\n\s*", "\n", inner)
    return f'<svg {box[0]} role="img" aria-label="{escape(alt)}">{inner}'.strip()


def _variable(code: str) -> str:
    return f"var(--{VARIABLES[code]})" if code in VARIABLES else code
