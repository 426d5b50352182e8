"""What a biologist looks at after `chargaff segment`: a page with a genome browser, and figures for print."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.data.annotation import transcripts_of
from chargaff.io.atomic import write_atomically
from chargaff.io.bigwig import bigwig_bytes
from chargaff.io.regions import Regions, read_regions
from chargaff.report.genome import Feature, FeatureTrack, GenomePage, Stretch, ValueTrack, igv_script, render_genome
from chargaff.report.tracks import Panel, draw_tracks
from chargaff.seq.alphabet import to_string, upper
from chargaff.seq.interval import Interval
from chargaff.workflows.segment import Probabilities, SegmentJob
from chargaff.workflows.segment_files import Call

PAGE, FIGURES = "index.html", "figures"
MOST_BP = 500_000
"""Of sequence and tracks in a page: about 3 bytes a base and element."""
FIGURE_BP = 50_000
MOST_FIGURES = 3
MOST_PLACES = 20


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What is shown beside the model's answers."""

    annotation: Path | None = None
    """GFF3, GTF or BED of what is known."""
    title: str = ""


def check_page(job: SegmentJob, options: PageOptions) -> None:
    """Raises what can be known to go wrong with the page before anything is computed.

    Raises:
        DependencyError: igv-notebook is not installed.
        InputError: the annotation is malformed, or on other contigs.
    """
    igv_script()
    if options.annotation is not None:
        known = read_regions(options.annotation)
        here = known.select([contig in job.genome for contig in known.contigs])
        (here if len(here) else known).contig_ids(job.genome)


def write_page(
    job: SegmentJob, found: Probabilities, calls: Sequence[Call], folder: Path, options: PageOptions
) -> list[Interval]:
    """Writes `index.html` and `figures/` for the first places that were read; returns what is shown."""
    shown = _shown(job)
    known = None if options.annotation is None else read_regions(options.annotation)
    features = [] if known is None else _features(known, job)
    values = {place: _values(job, found, place) for place in shown}
    title = options.title or f"{job.genome.path.name}: {len(job.elements)} elements"
    first = shown[0]
    tracks: list[ValueTrack | FeatureTrack] = []
    for number, element in enumerate(job.elements):
        tracks.append(ValueTrack(element, _bigwig(job, values, number)))
    called = [
        Feature(call.contig, call.start, call.end, call.element, call.strand, call.probability)
        for call in calls
        if any(_overlaps(place, call.contig, call.start, call.end) for place in shown)
    ]
    tracks.append(FeatureTrack("calls", called))
    if options.annotation is not None:
        inside = [item for item in features if any(_overlaps(p, item.contig, item.start, item.end) for p in shown)]
        tracks.append(FeatureTrack(options.annotation.name, inside))
    stretches = [
        Stretch(
            place.contig,
            place.start,
            to_string(upper(job.genome.fetch(place.contig, place.start, place.end))),
            int(job.genome.lengths[place.contig]),
        )
        for place in shown
    ]
    page = GenomePage(
        title,
        _facts(job, shown),
        stretches,
        tracks,
        _locus(Interval(first.contig, first.start, min(first.end, first.start + FIGURE_BP))),
        [(_locus(place), _locus(place)) for place in shown[:12]] if len(shown) > 1 else [],
    )
    write_atomically(folder / PAGE, render_genome(page))
    _write_figures(job, values, features, folder / FIGURES)
    return shown


def _shown(job: SegmentJob) -> list[Interval]:
    """The first places, up to the page's number and size."""
    found: list[Interval] = []
    room = MOST_BP
    for item in job.intervals[:MOST_PLACES]:
        if room <= 0:
            break
        found.append(Interval(item.contig, item.start, min(item.end, item.start + room)))
        room -= found[-1].end - found[-1].start
    return found


def _values(job: SegmentJob, found: Probabilities, place: Interval) -> NDArray[np.float32]:
    """[elements, L] of a place; NaN where there is no answer."""
    values = np.full((len(job.elements), place.end - place.start), np.nan, np.float32)
    for number in range(len(job.elements)):
        for contig, first, part in found.element(number):
            begin, end = max(first, place.start), min(first + len(part), place.end)
            if contig == place.contig and begin < end:
                values[number, begin - place.start : end - place.start] = part[begin - first : end - first]
    return values


def _bigwig(job: SegmentJob, values: dict[Interval, NDArray[np.float32]], number: int) -> bytes:
    pieces = [(place.contig, place.start, part[number]) for place, part in values.items()]
    return bigwig_bytes(dict(job.genome.lengths), pieces, decimals=2)


def _write_figures(
    job: SegmentJob, values: dict[Interval, NDArray[np.float32]], features: Sequence[Feature], folder: Path
) -> None:
    folder.mkdir(exist_ok=True)
    for place, part in list(values.items())[:MOST_FIGURES]:
        size = min(part.shape[1], FIGURE_BP)
        panels = [Panel(element, part[number, :size]) for number, element in enumerate(job.elements)]
        end = place.start + size
        inside = [item for item in features if _overlaps(Interval(place.contig, place.start, end), *_place(item))]
        title = f"{job.model.spec.name or job.model.spec.family}: {place.contig}:{place.start + 1:,}-{end:,}"
        for ending, content in draw_tracks(title, place.contig, place.start, panels, inside).items():
            write_atomically(folder / f"{_stem(place.contig)}_{place.start + 1}-{end}.{ending}", content)


def _features(known: Regions, job: SegmentJob) -> list[Feature]:
    """Transcripts with their exons (or coding parts), or the lines of a file without transcripts, by place."""
    known = known.select([contig in job.genome for contig in known.contigs])
    grouped = transcripts_of(known)
    if grouped:
        found = [Feature(c, parts[0][0], parts[-1][1], name, s, blocks=tuple(parts)) for name, c, s, parts in grouped]
    else:
        names = known.columns.get("name") or known.columns.get("type") or [""] * len(known)
        found = [
            Feature(item.contig, item.start, item.end, str(name), item.strand.value)
            for item, name in zip(known, names, strict=True)
        ]
    return sorted(found, key=lambda item: (item.contig, item.start, item.end))


def _facts(job: SegmentJob, shown: Sequence[Interval]) -> list[tuple[str, str]]:
    asked = sum(item.end - item.start for item in job.intervals)
    here, unknown = sum(item.end - item.start for item in shown), asked - job.answered_bp
    facts: list[tuple[str, Any]] = [
        ("genome", os.fspath(job.genome.path)),
        ("model", job.model.spec.name or job.model.spec.family),
        ("read", f"{job.answered_bp:,} bp" + (f"; {unknown:,} bp of unknown bases have no answer" if unknown else "")),
        ("windows", f"{job.frame.input_bp:,} bp, {job.overlap_bp:,} bp shared, strands: {job.options.strands}"),
    ]
    if here < asked:
        facts.append(("shown here", f"the first {here:,} bp; the files in bigwig/ hold all of it"))
    return facts


def _locus(place: Interval) -> str:
    return f"{place.contig}:{place.start + 1:,}-{place.end:,}"


def _overlaps(place: Interval, contig: str, start: int, end: int) -> bool:
    return place.contig == contig and start < place.end and end > place.start


def _place(feature: Feature) -> tuple[str, int, int]:
    return feature.contig, feature.start, feature.end


def _stem(contig: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in contig)
