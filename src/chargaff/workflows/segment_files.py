"""Probabilities of elements as files: bigWig, calls in BED and GFF3, and a summary."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from chargaff.data.annotation import Element
from chargaff.errors import ConfigError
from chargaff.io.atomic import write_atomically
from chargaff.io.bigwig import write_bigwig
from chargaff.io.writers import Column, open_writer
from chargaff.seq.segments import Segments, drop_short, merge_near, segments_of
from chargaff.workflows import genome_job
from chargaff.workflows.genome_job import Answers, answers_to_folder
from chargaff.workflows.segment import SegmentJob, run_segmenting

MANIFEST = "segment.json"
BED, GFF, SUMMARY, TRACKS = "calls.bed", "calls.gff3", "summary.parquet", "bigwig"


@dataclass(frozen=True, slots=True)
class CallOptions:
    """When a stretch of bases is called an element."""

    threshold: float = 0.5
    """Least probability of a base."""
    thresholds: Mapping[str, float] | None = None
    """Element -> its own threshold."""
    min_length_bp: int = 1
    """Shorter calls are dropped, after merging."""
    merge_gap_bp: int = 0
    """Calls with at most this many bases between them become one."""
    decimals: int = 2
    """Of the probabilities in bigWig files."""

    def __post_init__(self) -> None:
        for name, value in {"threshold": self.threshold, **(self.thresholds or {})}.items():
            if not 0 < value <= 1:
                raise ConfigError(f"threshold of {name}: expected more than 0 and at most 1, got {value}")
        if self.min_length_bp < 1 or self.merge_gap_bp < 0:
            raise ConfigError("min-length-bp: expected at least 1; merge-gap-bp: at least 0")

    def of(self, element: str) -> float:
        return (self.thresholds or {}).get(element, self.threshold)


@dataclass(frozen=True, slots=True)
class Call:
    """A stretch called an element."""

    contig: str
    start: int
    end: int
    element: str
    strand: str
    probability: float
    """Mean over its bases."""


def check_folder(job: SegmentJob, folder: Path, options: CallOptions, *, overwrite: bool) -> None:
    """Raises what can be known to go wrong before anything is computed."""
    unknown = sorted(set(options.thresholds or {}) - set(job.elements))
    if unknown:
        raise ConfigError(f"threshold of {unknown[0]}: the model knows {', '.join(job.elements)}")
    genome_job.check_folder(folder, MANIFEST, "segment", overwrite=overwrite)


def segment_to_folder(
    job: SegmentJob,
    folder: str | Path,
    options: CallOptions | None = None,
    *,
    finish: Callable[[Answers, list[Call]], None] = lambda found, calls: None,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda bases: None,
) -> dict[str, Any]:
    """Annotates the genome and writes `bigwig/<element>.bw`, `calls.bed`, `calls.gff3` and `summary.parquet`.

    Called again after an interruption it goes on. `segment.json`, written last, says what was done.

    Args:
        finish: called with probabilities and calls while the former are still there, to write more into the folder.

    Returns:
        The content of `segment.json`.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    folder, options = Path(folder), options or CallOptions()
    check_folder(job, folder, options, overwrite=overwrite)

    def write(found: Answers) -> dict[str, Any]:
        (folder / TRACKS).mkdir(exist_ok=True)
        calls: list[Call] = []
        rows: list[dict[str, Any]] = []
        for number, element in enumerate(job.elements):
            lengths = dict(job.genome.lengths)
            path = folder / TRACKS / f"{file_name(element)}.bw"
            write_bigwig(path, lengths, found.output(number), decimals=options.decimals, overwrite=True)
            ours = list(call_element(job, found, number, options))
            calls += ours
            rows += _summary(job, found, number, ours, options)
        _write_calls(job, folder, calls)
        _write_summary(job, folder / SUMMARY, rows)
        finish(found, calls)
        return _record(job, options, calls)

    return answers_to_folder(folder, MANIFEST, lambda: run_segmenting(job, folder, on_progress=on_progress), write)


def file_name(element: str) -> str:
    """An element as part of a file name."""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "_", element.rstrip("+-")).strip("_")
    return words + {"+": "_forward", "-": "_reverse"}.get(element[-1], "")


def call_element(job: SegmentJob, found: Answers, number: int, options: CallOptions) -> Iterator[Call]:
    """The calls of one element in the order of the genome; they may cross pieces, not stretches without answer."""
    element = job.elements[number]
    strand, threshold = Element.parse(element).strand.value, options.of(element)
    runs: list[tuple[Segments, Any]] = []
    contig, last = "", -1

    def finished() -> Iterator[Call]:
        if runs:
            segments = Segments(*map(np.concatenate, zip(*(part for part, _ in runs), strict=True)))
            for call in _called(segments, np.concatenate([total for _, total in runs]), options):
                yield Call(contig, call[0], call[1], element, strand, call[2])

    for name, first, values in found.output(number):
        if name != contig or first != last:
            yield from finished()
            runs, contig = [], name
        exact = np.asarray(values, np.float32)
        inside = segments_of(exact >= threshold)
        if len(inside.start):
            sums = np.append(0.0, np.cumsum(exact, dtype=np.float64))
            runs.append((Segments(inside.start + first, inside.end + first), sums[inside.end] - sums[inside.start]))
        last = first + len(values)
    yield from finished()


def _called(segments: Segments, total: Any, options: CallOptions) -> list[tuple[int, int, float]]:
    """(start, end, mean probability of the bases above the threshold); merged, touching ones always, and dropped."""
    bases = np.concatenate([[0], np.cumsum(segments.end - segments.start)])
    sums = np.concatenate([[0.0], np.cumsum(total)])
    kept = drop_short(merge_near(segments, options.merge_gap_bp), options.min_length_bp)
    first = np.searchsorted(segments.start, kept.start)
    last = np.searchsorted(segments.end, kept.end, side="right")
    mean = (sums[last] - sums[first]) / (bases[last] - bases[first])
    return list(zip(kept.start.tolist(), kept.end.tolist(), mean.tolist(), strict=True))


def _write_calls(job: SegmentJob, folder: Path, calls: list[Call]) -> None:
    """BED (0-based) and GFF3 (from 1), ordered by place."""
    rank = {name: number for number, name in enumerate(job.genome.contigs)}
    calls.sort(key=lambda call: (rank[call.contig], call.start, call.end, call.element))
    bed = [
        f"{call.contig}\t{call.start}\t{call.end}\t{call.element}\t{round(1000 * call.probability)}\t{call.strand}\n"
        for call in calls
    ]
    write_atomically(folder / BED, "".join(bed))
    lines = ["##gff-version 3\n", f"# model: {job.model.spec.name}\n"]
    lines += [f"##sequence-region {name} 1 {size}\n" for name, size in job.genome.lengths.items() if size]
    for number, call in enumerate(calls, 1):
        kind = Element.parse(call.element).type
        attributes = f"ID=call{number};Name={quote(call.element, safe='+-_. []')}"
        columns = (call.contig, "chargaff", kind, call.start + 1, call.end, f"{call.probability:.4f}", call.strand, ".")
        lines.append("\t".join(map(str, columns)) + f"\t{attributes}\n")
    write_atomically(folder / GFF, "".join(lines))


def _summary(
    job: SegmentJob, found: Answers, number: int, calls: list[Call], options: CallOptions
) -> list[dict[str, Any]]:
    """A row a contig: bases with an answer, above the threshold, called, number of calls, mean probability."""
    element = job.elements[number]
    rows: dict[str, dict[str, Any]] = {}
    for contig, _, values in found.output(number):
        row = rows.setdefault(
            contig,
            {
                "contig": contig,
                "element": element,
                "answered_bp": 0,
                "above_bp": 0,
                "called_bp": 0,
                "calls": 0,
                "sum": 0.0,
            },
        )
        row["answered_bp"] += len(values)
        row["above_bp"] += int((np.asarray(values, np.float32) >= options.of(element)).sum())
        row["sum"] += float(np.asarray(values, np.float64).sum())
    for call in calls:
        rows[call.contig]["calls"] += 1
        rows[call.contig]["called_bp"] += call.end - call.start
    return list(rows.values())


def _write_summary(job: SegmentJob, path: Path, rows: list[dict[str, Any]]) -> None:
    schema = [Column("contig", "text"), Column("element", "text")]
    schema += [Column(name, "int64") for name in ("answered_bp", "above_bp", "called_bp", "calls")]
    schema.append(Column("mean_probability", "float64"))
    columns = {column.name: [row.get(column.name) for row in rows] for column in schema[:-1]}
    columns["mean_probability"] = [row["sum"] / row["answered_bp"] for row in rows]
    with open_writer(path, schema, metadata=job.provenance(), num_rows=len(rows), overwrite=True) as writer:
        writer.write(range(len(rows)), columns)


def _record(job: SegmentJob, options: CallOptions, calls: list[Call]) -> dict[str, Any]:
    return {
        **job.provenance(),
        "elements": list(job.elements),
        "calling": asdict(options) | {"thresholds": dict(options.thresholds or {})},
        "asked_bp": job.asked_bp,
        "answered_bp": job.answered_bp,
        "unknown": {name: [list(place) for place in places] for name, places in job.unknown.items()},
        "calls": {element: sum(call.element == element for call in calls) for element in job.elements},
    }
