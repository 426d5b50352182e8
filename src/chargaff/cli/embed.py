"""`chargaff embed`: vectors of sequences."""

import logging
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from chargaff.cli.main import ExitCode, model_and_input, progress
from chargaff.errors import ConfigError

_LOG = logging.getLogger(__name__)

Pool = Literal["mean", "mean-all", "max", "first", "last", "centre", "cls", "none"]


def run(
    model: str,
    input: str | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    genome: Path | None = None,
    column: str | None = None,
    pool: Pool | None = None,
    layer: int | Literal["last"] = "last",
    strands: Literal["forward", "both"] | None = None,
    window_bp: int | None = None,
    overlap_bp: int = 0,
    special_tokens: bool | None = None,
    attention: str | None = None,
    attention_output: Path | None = None,
    n_as_pad: Annotated[bool, Parameter(negative="")] = False,
    max_unknown: float = 0.05,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    workers: int = 1,
    resume: bool = True,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> ExitCode:
    """Turn sequences into vectors: one a record, or one a base.

    INPUT is FASTA or FASTQ (plain, gzip or bgzip; - is standard input), a
    table with --column, or intervals (BED, GFF, table) with --genome. Letters
    are read in upper case, N has a token of its own, IUPAC codes and all other
    letters become the unknown token; a record with too many of these is
    rejected and listed in OUTPUT.rejected.tsv (exit code 3).

    A run that was stopped continues when the same command is given again.

    Args:
        model: checkpoint name (see `chargaff models`), hub id, folder or weight file; may be left out, then it is the
            small Caduceus that comes with the package.
        input: what to embed.
        output: .parquet, .npy, .zarr or .tsv; .zarr alone can hold one vector a base.
        genome: FASTA file that the intervals of INPUT refer to.
        column: of a table: where the sequences are; names come from a column "id" or "name".
        pool: how the states of a record become one vector; "none" keeps one a base. [default: the checkpoint's]
        layer: "last" for the final states, or k for the residual stream after block k (0: the embedding).
        strands: "both" averages the two strands. [default: both, unless the checkpoint reads one strand only]
        window_bp: longer records are read in windows of this length. [default: the checkpoint's context]
        overlap_bp: bases that neighbouring windows share; each base is taken from the window it lies deeper in.
        special_tokens: add the tokenizer's special tokens. [default: where model or pooling need them]
        attention: also write the attention maps of these layers (from 1) and heads (from 0): layer:head,...
        attention_output: where to; .zarr, .npz or (one window) .npy. [default: OUTPUT without ending + .attention.zarr]
        n_as_pad: show N as the pad token, as the pre-training of Caduceus did.
        max_unknown: reject records with a larger share of letters other than A, C, G, T, N.
        dtype: of matrix products; results are float32.
        device: auto, cpu, cuda or cuda:N.
        batch_tokens: most tokens read at once. [default: 8192 on a CPU, 131072 on a GPU]
        workers: threads that read and tokenise ahead; changes no number.
        resume: continue a stopped run of the same command; --no-resume begins anew.
        overwrite: replace OUTPUT.
        dry_run: print what would be done, and the time and memory it would take.
    """
    from chargaff.workflows.attention import check_maps, maps_to_file, parse_pairs
    from chargaff.workflows.cost import format_bytes
    from chargaff.workflows.embed import EmbedOptions, check_output, embed_to_file, plan_embedding

    pairs = () if attention is None else parse_pairs(attention)
    if attention_output is not None and not pairs:
        raise ConfigError("attention-output: has no use without --attention")
    options = EmbedOptions(
        pooling=pool,
        layer=None if layer == "last" else layer,
        strands=strands,
        window_bp=window_bp,
        overlap_bp=overlap_bp,
        special_tokens=special_tokens,
        n_as_pad=n_as_pad,
        dtype=dtype,
        batch_tokens=batch_tokens,
        max_unknown=max_unknown,
    )
    model_name, source = model_and_input(model, input)
    job = plan_embedding(model_name, source, options, genome=genome, column=column, device=device)
    check_output(job, output, overwrite=overwrite)
    if dry_run:
        rows, width = job.store_shape
        print(f"{job.describe()}\n{job.cost()}\ndisk about {format_bytes(8 * rows * width)}, half of it while it runs")
        return ExitCode.DONE
    if pairs:
        maps_path = attention_output or output.with_suffix(".attention.zarr")
        check_maps(job, pairs, maps_path)
    job.log_plan()
    with progress("embedding", total=int(job.plan.num_tokens.sum())) as advance:
        listing = embed_to_file(
            job, output, num_workers=workers, resume=resume, overwrite=overwrite, on_progress=advance
        )
    _LOG.info("wrote %s: vectors of %d numbers", output, job.width)
    if pairs:
        with progress("attention", total=int(job.plan.num_tokens.sum())) as advance:
            maps_to_file(job, pairs, maps_path, overwrite=overwrite, on_progress=advance)
        _LOG.info("wrote %s: %d attention maps a window", maps_path, len(pairs))
    if listing is None:
        return ExitCode.DONE
    _LOG.warning("%s records were rejected, see %s", f"{len(job.inspection.rejected):,}", listing)
    return ExitCode.PARTIAL
