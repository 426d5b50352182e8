"""Scores into files: a row a base or a bigWig, and a table of records beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import ConfigError, InputError
from chargaff.io.bigwig import write_bigwig
from chargaff.io.writers import Column, open_writer
from chargaff.seq.alphabet import upper
from chargaff.seq.interval import Strand
from chargaff.workflows.score import ScoreJob, Scores, score
from chargaff.workflows.sequences import OnGenome, list_rejected

BIGWIG_ENDINGS = (".bw", ".bigwig")
ROWS_AT_ONCE = 65_536


def check_output(job: ScoreJob, output: Path, *, overwrite: bool) -> None:
    """Raises what can be known to go wrong with the output before anything is computed."""
    if not output.name.lower().endswith((".parquet", ".tsv", ".tsv.gz", *BIGWIG_ENDINGS)):
        raise ConfigError(f"output {output}: expected .parquet, .tsv, .tsv.gz or .bw")
    for path in (output, _summary_path(output)):
        if os.path.lexists(path) and not overwrite:
            raise InputError(f"{path}: exists already; choose another path or allow overwriting (--overwrite)")
    if output.suffix.lower() in BIGWIG_ENDINGS and not isinstance(job.sequences, OnGenome):
        names = [job.sequences.ids[row] for row in job.rows]
        if len(set(names)) != len(names):
            raise InputError("bigWig output: the records are its contigs and need different names")


def score_to_file(
    job: ScoreJob,
    output: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> Path | None:
    """Writes a row a base (id, position from 0, base, log_likelihood), or a bigWig, and `<output>.records.tsv`.

    With both strands read, the columns forward and reverse hold the two values whose mean is the log_likelihood. A
    bigWig of intervals has the genome's contigs, any other one the records.

    Returns:
        The list of rejected records; None if there are none.
    """
    check_output(job, output, overwrite=overwrite)
    found = score(job, on_progress=on_progress)
    if output.suffix.lower() in BIGWIG_ENDINGS:
        contigs = _contigs(job, found)
        rank = {name: number for number, name in enumerate(contigs)}
        pieces = sorted(_pieces(job, found), key=lambda piece: (rank[piece[0]], piece[1]))
        write_bigwig(output, contigs, pieces, overwrite=overwrite)
    else:
        _write_bases(job, found, output, overwrite)
    _write_summary(found, _summary_path(output))
    return list_rejected(found.rejected, output)


def _summary_path(output: Path) -> Path:
    return Path(f"{output}.records.tsv")


def _contigs(job: ScoreJob, found: Scores) -> dict[str, int]:
    if isinstance(job.sequences, OnGenome):
        return dict(job.sequences.genome.lengths)
    return dict(zip(found.ids, found.length_bp.tolist(), strict=True))


def _pieces(job: ScoreJob, found: Scores) -> Iterator[tuple[str, int, NDArray[np.float32]]]:
    for number, row in enumerate(job.rows.tolist()):
        values = found.record(number)
        if isinstance(job.sequences, OnGenome):
            interval = job.sequences.intervals[row]
            forward = values[::-1] if interval.strand is Strand.REVERSE else values
            yield interval.contig, interval.start, forward
        else:
            yield found.ids[number], 0, values


def _write_bases(job: ScoreJob, found: Scores, output: Path, overwrite: bool) -> None:
    names = ["log_likelihood", *(("forward", "reverse") if len(found.by_strand) == 2 else ())]
    values = [found.log_likelihood, *(found.by_strand if len(found.by_strand) == 2 else ())]
    schema = [Column("id", "text"), Column("position", "int64"), Column("base", "text")]
    schema += [Column(name, "float32") for name in names]
    total = int(found.offset_bp[-1])
    with open_writer(output, schema, metadata=found.provenance, num_rows=total, overwrite=overwrite) as writer:
        for number, row in enumerate(job.rows.tolist()):
            length, offset = int(found.length_bp[number]), int(found.offset_bp[number])
            for start in range(0, length, ROWS_AT_ONCE):
                stop = min(start + ROWS_AT_ONCE, length)
                letters = upper(job.sequences.fetch(row, start, stop)).tobytes().decode("latin-1")
                columns: dict[str, Any] = {"id": [found.ids[number]] * (stop - start), "base": list(letters)}
                columns["position"] = np.arange(start, stop)
                columns |= {
                    name: part[offset + start : offset + stop] for name, part in zip(names, values, strict=True)
                }
                writer.write(np.arange(offset + start, offset + stop), columns)


def _write_summary(found: Scores, path: Path) -> None:
    summary = found.summary()
    schema = [Column("id", "text"), Column("length_bp", "int64"), Column("scored_bp", "int64")]
    schema += [Column("log_likelihood", "float64"), Column("perplexity", "float64")]
    with open_writer(path, schema, metadata=found.provenance, num_rows=len(found.ids), overwrite=True) as writer:
        writer.write(np.arange(len(found.ids)), {"id": found.ids, "length_bp": found.length_bp, **summary})
