"""`chargaff segment`: which elements each base of a genome belongs to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from chargaff.cli.main import progress
from chargaff.errors import ConfigError

if TYPE_CHECKING:
    from chargaff.workflows.genome_job import Answers
    from chargaff.workflows.segment_files import Calls

_LOG = logging.getLogger(__name__)


def run(
    model: str,
    genome: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    regions: Path | None = None,
    strands: Literal["forward", "both"] = "forward",
    window_bp: int | None = None,
    overlap_bp: int | None = None,
    min_unknown_bp: int = 100,
    threshold: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    min_length_bp: int = 1,
    merge_gap_bp: int = 0,
    annotation: Path | None = None,
    page: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Annotate a genome base by base, from FASTA to bigWig, BED and GFF3.

    OUTPUT becomes a folder: bigwig/ holds the probability of each element at
    every base, calls.bed and calls.gff3 the stretches above the threshold,
    summary.parquet counts by contig, index.html is a page with a genome
    browser (no network needed) and figures/ the same for print. A place of
    any length is read: windows overlap and their answers are blended.
    Stretches of unknown bases get no answer and are listed in segment.json.

    A run that was stopped goes on when the same command is given again.

    Args:
        model: a model that labels bases: checkpoint name, hub id, folder or weight file.
        genome: FASTA file, plain or bgzip.
        output: folder.
        regions: BED, GFF or table of the places to read. [default: all contigs]
        strands: both: also read the other strand and average.
        window_bp: bases read at once. [default: the checkpoint's context]
        overlap_bp: bases that neighbouring windows share. [default: a quarter of a window's answers]
        min_unknown_bp: stretches without A, C, G, T of at least this length get no answer.
        threshold: least probability of a called base: a number, and ELEMENT=NUMBER ... for single elements; left out,
            the thresholds that came with the model, or 0.5.
        min_length_bp: drop shorter calls.
        merge_gap_bp: join calls with at most this many bases between them.
        annotation: GFF3, GTF or BED of what is known, to be shown beside the answers.
        page: write index.html and figures/.
        dtype: of matrix products.
        device: auto, cpu, cuda or cuda:N.
        batch_tokens: most tokens read at once. [default: 8192 on a CPU, 131072 on a GPU]
        overwrite: replace a finished run.
        dry_run: print what would be done, and the time and memory it would take.
    """
    from chargaff.workflows.segment import SegmentOptions, plan_segmenting
    from chargaff.workflows.segment_files import CallOptions, check_folder, segment_to_folder

    options = SegmentOptions(
        strands=strands,
        window_bp=window_bp,
        overlap_bp=overlap_bp,
        min_unknown_bp=min_unknown_bp,
        dtype=dtype,
        batch_tokens=batch_tokens,
    )
    common, own = _thresholds(threshold)
    calling = CallOptions(common, own, min_length_bp, merge_gap_bp)
    job = plan_segmenting(model, genome, options, regions=regions, device=device)
    check_folder(job, output, calling, overwrite=overwrite)
    _LOG.info("%s", job.describe())
    if dry_run:
        print(job.cost())
        return
    from chargaff.workflows.segment_page import PageOptions, check_page, write_page

    shown = PageOptions(annotation)
    if page:
        check_page(job, shown)

    def finish(found: Answers, calls: Calls) -> None:
        if page:
            write_page(job, found, calls, output, shown)

    with progress("segmenting", total=job.answered_bp) as advance:
        record = segment_to_folder(job, output, calling, finish=finish, overwrite=overwrite, on_progress=advance)
    for element, count in record["calls"].items():
        print(f"{element}\t{count:,} calls")
    _LOG.info("wrote %s", output)


def _thresholds(words: tuple[str, ...]) -> tuple[float | None, dict[str, float]]:
    """(for all elements or None, for single ones)"""
    common: float | None = None
    own: dict[str, float] = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"--threshold {word}: expected a number or ELEMENT=NUMBER") from None
        if equals:
            own[name] = number
        else:
            common = number
    return common, own
