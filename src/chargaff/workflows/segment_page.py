"""The page and the figures of `chargaff segment`: probabilities, calls, and what is known."""

from __future__ import annotations

from pathlib import Path

from chargaff.report.genome import Feature, FeatureTrack
from chargaff.workflows.genome_job import Answers
from chargaff.workflows.genome_page import PageContent, PageOptions, check_page, write_genome_page
from chargaff.workflows.segment import SegmentJob
from chargaff.workflows.segment_files import Calls

__all__ = ["PageOptions", "check_page", "write_page"]


def write_page(job: SegmentJob, found: Answers, calls: Calls, folder: Path, options: PageOptions) -> None:
    """Writes `index.html` and `figures/` for the first places that were read."""
    unknown = job.asked_bp - job.answered_bp
    features = [
        Feature(call.contig, call.start, call.end, call.element, call.strand, call.probability) for call in calls
    ]
    content = PageContent(
        f"{job.genome.path.name}: {len(job.elements)} elements",
        dict(enumerate(job.elements)),
        [
            ("read", f"{job.answered_bp:,} bp" + (f"; {unknown:,} bp of unknown bases have no answer" * bool(unknown))),
            ("windows", f"{job.frame.input_bp:,} bp, {job.overlap_bp:,} bp shared, strands: {job.options.strands}"),
        ],
        [FeatureTrack("calls", features)],
    )
    write_genome_page(job, found, content, folder, options)
