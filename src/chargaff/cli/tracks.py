"""`chargaff tracks`: what a model such as Enformer or Borzoi predicts along a genome."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from chargaff.cli.main import progress

if TYPE_CHECKING:
    from chargaff.workflows.genome_job import Answers

_LOG = logging.getLogger(__name__)


def run(
    model: str,
    genome: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    regions: Path | None = None,
    head: str | None = None,
    targets: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    targets_file: Path | None = None,
    units: Literal["model", "coverage"] = "model",
    strands: Literal["forward", "both"] = "forward",
    window_bp: int | None = None,
    min_unknown_bp: int = 100,
    annotation: Path | None = None,
    page: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Predict tracks along a genome, from FASTA to bigWig.

    OUTPUT becomes a folder: bigwig/ holds a file for each track,
    summary.parquet mean, maximum and sum for each region and track,
    index.html is a page with a genome browser (no network needed) and
    figures/ the same for print. A region of any length is read: windows lie
    side by side around it, and each bin has its value from the middle of one
    of them. A region costs at least one window, however short it is.

    A run that was stopped goes on when the same command is given again.

    Args:
        model: a model that predicts tracks: checkpoint name, hub id, folder or weight file.
        genome: FASTA file, plain or bgzip.
        output: folder.
        regions: BED, GFF or table of the places to read. [default: all contigs]
        head: set of tracks, human or mouse. [default: the model's first]
        targets: tracks: numbers, ranges as 10-19, identifiers or words of descriptions (both of --targets-file), or
            all. [default: the rows of --targets-file; without it all tracks, up to 100]
        targets_file: the published table of targets, or some of its rows.
        units: coverage: undo the scaling of the training data, by the table's columns scale, clip_soft, sum_stat.
        strands: both: also read the other strand and average; tracks of one strand take their partner's values, by
            the table's column strand_pair.
        window_bp: bases read at once. [default: the checkpoint's context]
        min_unknown_bp: stretches without A, C, G, T of at least this length count as unknown; windows whose bins
            hold nothing else are left out.
        annotation: GFF3, GTF or BED of what is known, to be shown beside the tracks.
        page: write index.html and figures/.
        dtype: of matrix products.
        device: auto, cpu, cuda or cuda:N.
        batch_tokens: most bases read at once; a longer window is read alone. [default: 8192 on a CPU, 131072 on a GPU]
        overwrite: replace a finished run.
        dry_run: print what would be done, and the time and memory it would take.
    """
    from chargaff.workflows.tracks import TrackOptions, plan_tracks
    from chargaff.workflows.tracks_files import check_folder, tracks_to_folder

    options = TrackOptions(
        strands=strands,
        window_bp=window_bp,
        min_unknown_bp=min_unknown_bp,
        dtype=dtype,
        batch_tokens=batch_tokens,
        head=head,
        targets=targets,
        units=units,
    )
    check_folder(output, overwrite=overwrite)
    job = plan_tracks(model, genome, options, regions=regions, targets_file=targets_file, device=device)
    _LOG.info("%s", job.describe())
    if dry_run:
        print(job.cost())
        return
    from chargaff.workflows.tracks_page import PageOptions, check_page, write_page

    shown = PageOptions(annotation)
    if page:
        check_page(job, shown)

    def finish(found: Answers) -> None:
        if page:
            write_page(job, found, output, shown)

    with progress("predicting", total=job.answered_bp) as advance:
        record = tracks_to_folder(job, output, finish=finish, overwrite=overwrite, on_progress=advance)
    for target in record["targets"][:20]:
        print(f"{target['file']}\t{target['description']}")
    if len(record["targets"]) > 20:
        print(f"... {len(record['targets']) - 20:,} more")
    _LOG.info("wrote %s", output)
