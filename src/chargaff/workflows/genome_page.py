"""What a biologist looks at after a genome was read: a page with a genome browser, and figures for print."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chargaff.data.annotation import transcripts_of
from chargaff.io.atomic import write_atomically
from chargaff.io.bigwig import bigwig_bytes
from chargaff.io.regions import Regions, read_regions
from chargaff.report.genome import Feature, FeatureTrack, GenomePage, Stretch, ValueTrack, igv_script, render_genome
from chargaff.report.tracks import Panel, draw_tracks
from chargaff.seq.alphabet import to_string, upper
from chargaff.seq.interval import Interval
from chargaff.workflows.genome_job import Answers, Floats, GenomeJob

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


@dataclass(frozen=True, slots=True)
class PageContent:
    """What is shown of a run."""

    title: str
    outputs: Mapping[int, str]
    """Number of an output -> name of its track."""
    facts: Sequence[tuple[str, str]]
    features: Sequence[FeatureTrack] = ()
    """Below the values."""
    highest: float | None = 1.0
    """Of the values; None: what each track holds."""
    decimals: int = 2
    """That values are rounded to."""
    figure_bp: int = FIGURE_BP
    """Most bases of a figure."""


def check_page(job: GenomeJob, options: PageOptions) -> None:
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


def write_genome_page(job: GenomeJob, found: Answers, content: PageContent, folder: Path, options: PageOptions) -> None:
    """Writes `index.html` and `figures/` for `shown_places`."""
    shown = shown_places(job)
    known = None if options.annotation is None else _features(read_regions(options.annotation), job)
    values = {place: found.bases(place, list(content.outputs)) for place in shown}
    highest = [content.highest or _highest(values, row) for row in range(len(content.outputs))]
    tracks: list[ValueTrack | FeatureTrack] = [
        ValueTrack(name, _bigwig(job, values, row, content.decimals), highest[row])
        for row, name in enumerate(content.outputs.values())
    ]
    tracks += [FeatureTrack(track.name, _inside(track.features, shown)) for track in content.features]
    if options.annotation is not None:
        tracks.append(FeatureTrack(options.annotation.name, _inside(known or [], shown)))
    first = shown[0]
    facts = [("genome", os.fspath(job.genome.path)), ("model", job.model.spec.name or job.model.spec.family)]
    page = GenomePage(
        options.title or content.title,
        [*facts, *content.facts, *_left_out(job, shown)],
        [_stretch(job, place) for place in shown],
        tracks,
        locus(Interval(first.contig, first.start, min(first.end, first.start + content.figure_bp))),
        [(locus(place), locus(place)) for place in shown[:12]] if len(shown) > 1 else [],
    )
    write_atomically(folder / PAGE, render_genome(page))
    (folder / FIGURES).mkdir(exist_ok=True)
    for place in shown[:MOST_FIGURES]:
        cut = Interval(place.contig, place.start, min(place.end, place.start + content.figure_bp))
        panels = [
            Panel(name, values[place][row, : cut.end - cut.start], highest[row])
            for row, name in enumerate(content.outputs.values())
        ]
        title = f"{job.model.spec.name or job.model.spec.family}: {locus(cut)}"
        for ending, picture in draw_tracks(title, cut.contig, cut.start, panels, _inside(known or [], [cut])).items():
            name = f"{_stem(cut.contig)}_{cut.start + 1}-{cut.end}.{ending}"
            write_atomically(folder / FIGURES / name, picture)


def shown_places(job: GenomeJob) -> list[Interval]:
    """The first places, up to the page's number and size."""
    found: list[Interval] = []
    room = MOST_BP
    for item in job.intervals[:MOST_PLACES]:
        if room <= 0:
            break
        found.append(Interval(item.contig, item.start, min(item.end, item.start + room)))
        room -= found[-1].end - found[-1].start
    return found


def locus(place: Interval) -> str:
    """As a genome browser writes it, from 1."""
    return f"{place.contig}:{place.start + 1:,}-{place.end:,}"


def _highest(values: Mapping[Interval, Floats], row: int) -> float:
    """Of a track, over all that is shown; 1 where that is nothing."""
    tops = [float(np.nanmax(part[row])) for part in values.values() if not np.isnan(part[row]).all()]
    return max(tops, default=0.0) or 1.0


def _bigwig(job: GenomeJob, values: Mapping[Interval, Floats], row: int, decimals: int) -> bytes:
    pieces = [(place.contig, place.start, part[row]) for place, part in values.items()]
    return bigwig_bytes(dict(job.genome.lengths), pieces, decimals=decimals)


def _stretch(job: GenomeJob, place: Interval) -> Stretch:
    bases = to_string(upper(job.genome.fetch(place.contig, place.start, place.end)))
    return Stretch(place.contig, place.start, bases, int(job.genome.lengths[place.contig]))


def _features(known: Regions, job: GenomeJob) -> list[Feature]:
    """Transcripts with their exons (or coding parts), or the lines of a file without transcripts, by place."""
    known = known.select([contig in job.genome for contig in known.contigs])
    grouped = transcripts_of(known)
    if grouped:
        found = [
            Feature(item.contig, item.parts[0][0], item.parts[-1][1], item.name, item.strand.value, blocks=item.parts)
            for item in grouped
        ]
    else:
        names = known.columns.get("name") or known.columns.get("type") or [""] * len(known)
        found = [
            Feature(item.contig, item.start, item.end, str(name), item.strand.value)
            for item, name in zip(known, names, strict=True)
        ]
    return sorted(found, key=lambda item: (item.contig, item.start, item.end))


def _inside(features: Sequence[Feature], places: Sequence[Interval]) -> list[Feature]:
    """Those that share a base with one of the places."""
    return [
        item
        for item in features
        if any(item.contig == place.contig and item.start < place.end and item.end > place.start for place in places)
    ]


def _left_out(job: GenomeJob, shown: Sequence[Interval]) -> list[tuple[str, str]]:
    here = sum(item.end - item.start for item in shown)
    if here == job.asked_bp:
        return []
    return [("shown here", f"the first {here:,} bp; the files in bigwig/ hold all of it")]


def _stem(contig: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in contig)
