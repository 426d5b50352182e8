"""A self-contained HTML page with a genome browser (igv.js): sequence, tracks and annotation of some places."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chargaff.errors import DependencyError
from chargaff.io.streams import open_input
from chargaff.report.pictures import SERIES


@dataclass(frozen=True, slots=True)
class Stretch:
    """Sequence that the page holds."""

    contig: str
    start: int
    """0-based."""
    bases: str
    contig_bp: int


@dataclass(frozen=True, slots=True)
class Feature:
    """A stretch of an annotation track, perhaps of several blocks."""

    contig: str
    start: int
    end: int
    name: str
    strand: str = "."
    score: float | None = None
    """0 to 1; drawn as the strength of the colour."""
    blocks: tuple[tuple[int, int], ...] = ()
    """(start, end) of exons or coding parts; () for one stretch."""


@dataclass(frozen=True, slots=True)
class ValueTrack:
    """Values along the genome."""

    name: str
    bigwig: bytes
    highest: float = 1.0


@dataclass(frozen=True, slots=True)
class FeatureTrack:
    """Stretches."""

    name: str
    features: Sequence[Feature]


@dataclass(frozen=True, slots=True)
class GenomePage:
    """All that is shown."""

    title: str
    facts: Sequence[tuple[str, str]]
    stretches: Sequence[Stretch]
    tracks: Sequence[ValueTrack | FeatureTrack]
    locus: str
    """What is shown first, from 1: "chr1:1,001-2,000"."""
    places: Sequence[tuple[str, str]] = ()
    """(words, locus) to jump to."""


def render_genome(page: GenomePage) -> str:
    """The HTML; it needs no network.

    Raises:
        DependencyError: igv-notebook, which brings igv.js, is not installed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("chargaff.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    # "<" could end the script element early
    config = Markup(json.dumps(_config(page)).replace("<", "\\u003c"))
    script = Markup(igv_script().replace("</script", "<\\/script"))
    return environment.get_template("genome.html").render(page=page, config=config, script=script) + "\n"


def igv_script() -> str:
    """The program text of igv.js, from the installed package igv-notebook.

    Raises:
        DependencyError: not installed, or of a form we do not know.
    """
    package = importlib.util.find_spec("igv_notebook")  # found, not imported: it would bring all of IPython
    if package is None or package.origin is None:
        raise DependencyError(
            "a page with a genome browser needs the package 'igv-notebook': pip install 'chargaff[browser]'"
        )
    path = Path(package.origin).parent / "js" / "igv.min.js"
    if not path.is_file():
        raise DependencyError(f"a page with a genome browser needs igv.js, which is not at {path}: update igv-notebook")
    with open_input(path) as file:
        return file.read().decode("utf-8")


def _config(page: GenomePage) -> dict[str, Any]:
    """What igv.createBrowser takes."""
    fasta = "".join(
        f">{item.contig}:{item.start + 1}-{item.start + len(item.bases)} @len={item.contig_bp}\n{item.bases}\n"
        for item in page.stretches
    )
    values = [track for track in page.tracks if isinstance(track, ValueTrack)]
    return {
        "reference": {"id": "sequence", "name": page.title, "fastaURL": _data(fasta.encode()), "indexed": False},
        "locus": page.locus,
        "loadDefaultGenomes": False,
        "queryParametersSupported": False,
        "showSampleNames": False,
        "tracks": [_track(track, values.index(track) if track in values else None) for track in page.tracks],
    }


def _track(track: ValueTrack | FeatureTrack, number: int | None) -> dict[str, Any]:
    if isinstance(track, ValueTrack):
        return {
            "type": "wig",
            "format": "bigwig",
            "name": track.name,
            "url": _data(track.bigwig),
            "min": 0,
            "max": track.highest,
            "height": 46,
            "color": SERIES[(number or 0) % len(SERIES)],
        }
    return {
        "type": "annotation",
        "name": track.name,
        "displayMode": "EXPANDED",
        "height": 70,
        "color": SERIES[0],
        "searchable": True,
        "features": [_feature(feature) for feature in track.features],
    }


def _feature(feature: Feature) -> dict[str, Any]:
    found: dict[str, Any] = {
        "chr": feature.contig,
        "start": feature.start,
        "end": feature.end,
        "name": feature.name,
        "strand": feature.strand,
    }
    if feature.score is not None:
        found |= {"score": round(1000 * feature.score), "probability": round(feature.score, 3)}
    if feature.blocks:
        found["exons"] = [{"start": start, "end": end} for start, end in feature.blocks]
    return found


def _data(content: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode("ascii")
