"""`chargaff predict`: answers of a fine-tuned model."""

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
    long_records: Literal["cut", "windows"] = "cut",
    strands: Literal["forward", "both"] | None = None,
    max_unknown: float = 0.05,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    batch_tokens: int = 65_536,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> ExitCode:
    """Class probabilities or values of sequences, from a fine-tuned model.

    INPUT is FASTA or FASTQ (plain, gzip or bgzip; - is standard input), a
    table with --column, or intervals (BED, GFF, table) with --genome.
    Sequences are cut and padded as in the model's fine-tuning. A record with
    too many letters other than A, C, G, T, N is rejected and listed in
    OUTPUT.rejected.tsv (exit code 3).

    Args:
        model: folder of a fine-tuned model (`model` in the folder of a run); may be left out, as in other verbs, but
            the model that comes with the package has not been fine-tuned.
        input: what to predict for.
        output: .parquet or .tsv; a row per record.
        genome: FASTA file that the intervals of INPUT refer to.
        column: of a table: where the sequences are; names come from a column "id" or "name".
        long_records: records longer than the model's input are cut, or read in windows whose answers are averaged.
        strands: "both" averages the answers for the two strands. [default: as the model was fine-tuned]
        max_unknown: reject records with a larger share of letters other than A, C, G, T, N.
        dtype: of matrix products; results are float32.
        device: auto, cpu, cuda or cuda:N.
        batch_tokens: most tokens read at once.
        overwrite: replace OUTPUT.
        dry_run: print what would be done, and the time and memory it would take.
    """
    from chargaff.workflows.predict import PredictOptions, check_output, plan_prediction, predict_to_file

    check_output(output, overwrite=overwrite)
    options = PredictOptions(long_records, strands, dtype, batch_tokens, max_unknown)
    model_name, source = model_and_input(model, input)
    job = plan_prediction(model_name, source, options, genome=genome, column=column, device=device)
    if dry_run:
        print(job.describe(), job.cost(), sep="\n")
        return ExitCode.DONE
    _LOG.info("%s", job.describe())
    with progress("predicting", total=int(job.num_tokens.sum())) as advance:
        listing = predict_to_file(job, output, overwrite=overwrite, on_progress=advance)
    _LOG.info("wrote %s", output)
    if listing is None:
        return ExitCode.DONE
    _LOG.warning("%d records were rejected, see %s", len(job.inspection.rejected), listing)
    return ExitCode.PARTIAL
