"""`chargaff score`: how likely a language model finds each base."""

import logging
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from chargaff.cli.main import ExitCode, model_and_input, progress

_LOG = logging.getLogger(__name__)


def run(
    model: str,
    input: str | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    genome: Path | None = None,
    column: str | None = None,
    strands: Literal["forward", "both"] = "forward",
    among: Literal["vocabulary", "bases"] = "vocabulary",
    mask_every: int = 10,
    window_bp: int | None = None,
    overlap_bp: int | None = None,
    n_as_pad: Annotated[bool, Parameter(negative="")] = False,
    max_unknown: float = 0.05,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    set_config: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> ExitCode:
    """Log-likelihood of every base and perplexity of every record, in nats.

    INPUT is FASTA or FASTQ (plain, gzip or bgzip; - is standard input), a
    table with --column, or intervals (BED, GFF, table) with --genome.

    A causal model scores each base from those before it (the first base of a
    record has no score); other models give the pseudo-likelihood: every
    --mask-every'th base is hidden at once and predicted from the rest, in
    that many passes. Letters other than A, C, G, T have no score.

    OUTPUT holds a row a base, or is a bigWig; OUTPUT.records.tsv holds the
    sum and the perplexity of each record.

    Args:
        model: checkpoint name (see `chargaff models`), hub id, folder or weight file; may be left out, then it is the
            small Caduceus that comes with the package.
        input: what to score.
        output: .parquet, .tsv, .tsv.gz or .bw (bigWig; values rounded to 3 decimals).
        genome: FASTA file that the intervals of INPUT refer to.
        column: of a table: where the sequences are; names come from a column "id" or "name".
        strands: "both" also reads the other strand and averages the two log-likelihoods of each base.
        among: tokens that share the probability: the whole vocabulary, as in training, or the four bases.
        mask_every: for models that look both ways: hide one base in so many at a time.
        window_bp: longer records are read in windows of this length. [default: the checkpoint's context]
        overlap_bp: bases that neighbouring windows share. [default: a quarter of the window]
        n_as_pad: show N as the pad token, as the pre-training of Caduceus and HyenaDNA did.
        max_unknown: reject records with a larger share of letters other than A, C, G, T, N.
        dtype: of matrix products.
        device: auto, cpu, cuda or cuda:N.
        batch_tokens: most tokens read at once. [default: 8192 on a CPU, 131072 on a GPU]
        set_config: key=value that replaces a key of the checkpoint's config, e.g. modulation_shift=0; repeatable.
        overwrite: replace OUTPUT.
        dry_run: print what would be done, and the time and memory it would take.
    """
    from chargaff.config import apply_overrides
    from chargaff.workflows.score import ScoreOptions, plan_scoring
    from chargaff.workflows.score_files import check_output, score_to_file

    options = ScoreOptions(
        strands=strands,
        among=among,
        mask_every=mask_every,
        window_bp=window_bp,
        overlap_bp=overlap_bp,
        n_as_pad=n_as_pad,
        dtype=dtype,
        batch_tokens=batch_tokens,
        max_unknown=max_unknown,
    )
    settings = apply_overrides({}, set_config or [])
    model_name, source = model_and_input(model, input)
    job = plan_scoring(model_name, source, options, genome=genome, column=column, device=device, config=settings)
    check_output(job, output, overwrite=overwrite)
    if dry_run:
        print(job.describe(), job.cost(), sep="\n")
        return ExitCode.DONE
    job.log_plan()
    with progress("scoring", total=job.num_tokens) as advance:
        listing = score_to_file(job, output, overwrite=overwrite, on_progress=advance)
    _LOG.info("wrote %s and %s.records.tsv", output, output)
    if listing is None:
        return ExitCode.DONE
    _LOG.warning("%s records were rejected, see %s", f"{len(job.inspection.rejected):,}", listing)
    return ExitCode.PARTIAL
