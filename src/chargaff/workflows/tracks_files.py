"""Predicted tracks as files: a bigWig for each, and a summary of the regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chargaff.data.tiling import Piece
from chargaff.io.bigwig import write_bigwig
from chargaff.io.writers import Column, open_writer
from chargaff.seq.interval import Interval
from chargaff.workflows import genome_job
from chargaff.workflows.genome_job import Answers, answers_to_folder
from chargaff.workflows.tracks import TrackJob, run_tracks
from chargaff.workflows.tracks_targets import Target

MANIFEST = "tracks.json"
SUMMARY, BIGWIG = "summary.parquet", "bigwig"
EXACT_DECIMALS = 12
"""Of values in bigWig files: below the precision of their 4 bytes."""


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raises what can be known to go wrong with the output before anything is computed."""
    genome_job.check_folder(folder, MANIFEST, "tracks", overwrite=overwrite)


def tracks_to_folder(
    job: TrackJob,
    folder: str | Path,
    *,
    finish: Callable[[Answers], None] = lambda found: None,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda bases: None,
) -> dict[str, Any]:
    """Predicts and writes `bigwig/<set>_<number>[_<identifier>].bw` and `summary.parquet`.

    Called again after an interruption it goes on. `tracks.json`, written last, says what was done.

    Args:
        finish: called with the values while they are still there, to write more into the folder.

    Returns:
        The content of `tracks.json`.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    check_folder(folder, overwrite=overwrite)

    def write(found: Answers) -> dict[str, Any]:
        (folder / BIGWIG).mkdir(exist_ok=True)
        for number, target in enumerate(job.targets):
            path, values = folder / BIGWIG / file_name(job, target), _bases(job, found, number)
            write_bigwig(path, dict(job.genome.lengths), values, decimals=EXACT_DECIMALS, overwrite=True)
        _write_summary(job, found, folder / SUMMARY)
        finish(found)
        return _record(job)

    return answers_to_folder(folder, MANIFEST, lambda: run_tracks(job, folder, on_progress=on_progress), write)


def file_name(job: TrackJob, target: Target) -> str:
    """Of a track, such as human_0041_ENCFF833POA.bw."""
    head: Any = job.model.head
    place = head.slices[job.head]
    width = len(str(place.stop - place.start - 1))
    identifier = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in target.identifier)
    return f"{job.head}_{target.number:0{width}d}{'_' * bool(identifier)}{identifier}.bw"


def _bases(job: TrackJob, found: Answers, number: int) -> Iterator[tuple[str, int, NDArray[Any]]]:
    """(contig, first base, a value for each base) of a track; the last bin of a contig ends with it."""
    for contig, start, values in found.output(number):
        rows = np.repeat(values, job.frame.step_bp)
        yield contig, start, rows[: int(job.genome.lengths[contig]) - start]


def _write_summary(job: TrackJob, found: Answers, path: Path) -> None:
    """A row for each region and track: over the bins that share a base with the region."""
    shape = len(job.regions), len(job.targets)
    bins, sums, highest = np.zeros(shape[0], np.int64), np.zeros(shape), np.full(shape, -np.inf)
    rows: dict[str, list[int]] = {}
    for row, (_, place) in enumerate(job.regions):
        rows.setdefault(place.contig, []).append(row)
    for part in range(len(job.parts)):
        for piece, values in found.part(part):
            for row in rows[piece.place.contig]:
                inside = np.asarray(values[:, _bins(job, job.regions[row][1], piece)], np.float64)
                if inside.size:
                    bins[row] += inside.shape[1]
                    sums[row] += inside.sum(1)
                    highest[row] = np.maximum(highest[row], inside.max(1))
    schema = [Column("contig", "text"), Column("start", "int64"), Column("end", "int64"), Column("region", "text")]
    schema += [Column("target", "int64"), Column("identifier", "text"), Column("description", "text")]
    schema += [Column("bins", "int64"), *(Column(name, "float64") for name in ("mean", "max", "sum"))]
    schema.append(Column("units", "text"))
    total = shape[0] * shape[1]
    with open_writer(path, schema, metadata=job.provenance(), num_rows=total, overwrite=True) as writer:
        for number, (name, place) in enumerate(job.regions):
            count = int(bins[number])
            columns = {
                "contig": [place.contig] * shape[1],
                "start": [place.start] * shape[1],
                "end": [place.end] * shape[1],
                "region": [name] * shape[1],
                "target": [target.number for target in job.targets],
                "identifier": [target.identifier for target in job.targets],
                "description": [target.description for target in job.targets],
                "bins": [count] * shape[1],
                "mean": sums[number] / count if count else np.full(shape[1], np.nan),
                "max": highest[number] if count else np.full(shape[1], np.nan),
                "sum": sums[number] if count else np.full(shape[1], np.nan),
                "units": [job.units] * shape[1],
            }
            writer.write(np.arange(number * shape[1], (number + 1) * shape[1]), columns)


def _bins(job: TrackJob, place: Interval, piece: Piece) -> slice:
    """Those of a piece that share a base with a place of its contig; may be none."""
    first, end = max(place.start, piece.start), min(place.end, piece.end)
    if first >= end:
        return slice(0)
    return slice((first - piece.start) // job.frame.step_bp, job.frame.steps(end - piece.start))


def _record(job: TrackJob) -> dict[str, Any]:
    return {
        **job.provenance(),
        "units": job.units,
        "bin_bp": job.frame.step_bp,
        "targets": [{"file": file_name(job, target), **asdict(target)} for target in job.targets],
        "asked_bp": job.asked_bp,
        "answered_bp": job.answered_bp,
        "unknown": {name: [list(place) for place in places] for name, places in job.unknown.items()},
    }
