"""The page and the figures of `chargaff tracks`."""

from __future__ import annotations

from pathlib import Path

from chargaff.workflows.genome_job import Answers
from chargaff.workflows.genome_page import PageContent, PageOptions, check_page, write_genome_page
from chargaff.workflows.tracks import TrackJob
from chargaff.workflows.tracks_files import EXACT_DECIMALS

__all__ = ["PageOptions", "check_page", "write_page"]

MOST_TRACKS = 20
FIGURE_BP = 200_000


def write_page(job: TrackJob, found: Answers, folder: Path, options: PageOptions) -> None:
    """Writes `index.html` and `figures/` for the first tracks of the first places."""
    shown = job.targets[:MOST_TRACKS]
    frame, count = job.frame, f"{len(job.targets):,} of {job.head}"
    facts = [
        ("tracks", count if len(shown) == len(job.targets) else f"{count}, here the first {len(shown)}"),
        ("values", f"{job.units}; {job.answered_bp:,} bp have one"),
        ("windows", f"{frame.input_bp:,} bp, the middle {frame.answered_bp:,} bp used, strands: {job.options.strands}"),
    ]
    content = PageContent(
        f"{job.genome.path.name}: {len(job.targets):,} tracks",
        {row: f"{item.number} {item.description or item.identifier}".strip() for row, item in enumerate(shown)},
        facts,
        highest=None,
        decimals=EXACT_DECIMALS,
        figure_bp=FIGURE_BP,
    )
    write_genome_page(job, found, content, folder, options)
