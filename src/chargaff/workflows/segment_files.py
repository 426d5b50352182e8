"""Probabilities of elements as files: bigWig, calls in BED and GFF3, and a summary."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from chargaff.data.annotation import Element
from chargaff.errors import ConfigError
from chargaff.io.atomic import publish_lines
from chargaff.io.bigwig import write_bigwig
from chargaff.io.writers import Column, open_writer
from chargaff.model import ModelSpec
from chargaff.seq.segments import Ints, segments_of
from chargaff.workflows import genome_job
from chargaff.workflows.genome_job import Answers, answers_to_folder
from chargaff.workflows.segment import SegmentJob, run_segmenting

MANIFEST = "segment.json"
BED, GFF, SUMMARY, TRACKS = "calls.bed", "calls.gff3", "summary.parquet", "bigwig"
WRITTEN_AT_ONCE = 1 << 16
"""Calls that are Python objects at the same time."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """When a stretch of bases is called an element."""

    threshold: float | None = None
    """Least probability of a base; None takes the model's for the element, or one half where it has none."""
    thresholds: Mapping[str, float] | None = None
    """Element -> its own threshold."""
    min_length_bp: int = 1
    """Shorter calls are dropped, after merging."""
    merge_gap_bp: int = 0
    """Calls with at most this many bases between them become one."""
    decimals: int = 2
    """Of the probabilities in bigWig files."""

    def __post_init__(self) -> None:
        own = {f"threshold of {name}": value for name, value in (self.thresholds or {}).items()}
        for what, value in {"threshold": self.threshold, **own}.items():
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{what}: expected more than 0 and at most 1, got {value}")
        if self.min_length_bp < 1 or self.merge_gap_bp < 0:
            raise ConfigError("min-length-bp: expected at least 1; merge-gap-bp: at least 0")

    def of(self, element: str, spec: ModelSpec) -> float:
        """Least probability of a base of this element."""
        asked = (self.thresholds or {}).get(element, self.threshold)
        return spec.thresholds.get(element, 0.5) if asked is None else asked


class Call(NamedTuple):
    """A stretch called an element."""

    contig: str
    start: int
    end: int
    element: str
    strand: str
    probability: float
    """Mean over its bases above the threshold."""


class Runs(NamedTuple):
    """Stretches of one contig in ascending order."""

    start: Ints
    """[n]"""
    end: Ints
    """[n]"""
    bases: Ints
    """[n] above the threshold."""
    total: NDArray[np.float64]
    """[n] sum of their probabilities."""

    def rows(self, chosen: slice | NDArray[np.bool_]) -> Runs:
        return Runs(self.start[chosen], self.end[chosen], self.bases[chosen], self.total[chosen])

    @classmethod
    def joined(cls, parts: Sequence[Runs]) -> Runs:
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def merged(self, max_gap_bp: int) -> Runs:
        """Neighbours with at most that many bases between them made one, touching ones always."""
        first = np.flatnonzero(np.append(True, self.start[1:] - self.end[:-1] > max_gap_bp))
        last = np.append(first[1:], len(self.start)) - 1
        return Runs(
            self.start[first], self.end[last], np.add.reduceat(self.bases, first), np.add.reduceat(self.total, first)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """Many calls as columns of n numbers; iterating gives them one by one."""

    job: SegmentJob
    contig: Ints
    """Numbers among the genome's contigs."""
    start: Ints
    end: Ints
    element: Ints
    """Numbers among the job's elements."""
    probability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[Call]:
        contigs, elements = self.job.genome.contigs, self.job.elements
        strands = [Element.parse(element).strand.value for element in elements]
        for first in range(0, len(self), WRITTEN_AT_ONCE):
            rows = slice(first, first + WRITTEN_AT_ONCE)
            columns = (self.contig, self.start, self.end, self.element, self.probability)
            for contig, start, end, element, probability in zip(
                *(column[rows].tolist() for column in columns), strict=True
            ):
                yield Call(contigs[contig], start, end, elements[element], strands[element], probability)

    @classmethod
    def ordered(cls, parts: Sequence[Calls]) -> Calls:
        """All of them by contig, start, end and name of the element."""
        job = parts[0].job
        contig, start, end, element, probability = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("contig", "start", "end", "element", "probability")
        )
        rank = np.argsort(np.argsort(job.elements))
        order = np.lexsort((rank[element], end, start, contig))
        return cls(job, contig[order], start[order], end[order], element[order], probability[order])


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
    finish: Callable[[Answers, Calls], None] = lambda found, calls: None,
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
        numbers = {name: number for number, name in enumerate(job.genome.contigs)}
        parts: list[Calls] = []
        sums: list[_Sums] = []
        for number, element in enumerate(job.elements):
            lengths = dict(job.genome.lengths)
            path = folder / TRACKS / f"{file_name(element)}.bw"
            write_bigwig(path, lengths, found.output(number), decimals=options.decimals, overwrite=True)
            parts.append(call_element(job, found, number, options, numbers))
            sums.append(_sums(found, number, parts[-1], options.of(element, job.model.spec), numbers))
        calls = Calls.ordered(parts)
        _write_calls(job, folder, calls)
        _write_summary(job, folder / SUMMARY, sums)
        finish(found, calls)
        return _record(job, options, calls)

    return answers_to_folder(folder, MANIFEST, lambda: run_segmenting(job, folder, on_progress=on_progress), write)


def file_name(element: str) -> str:
    """An element as part of a file name."""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "_", element.rstrip("+-")).strip("_")
    return words + {"+": "_forward", "-": "_reverse"}.get(element[-1], "")


def call_element(
    job: SegmentJob, found: Answers, number: int, options: CallOptions, numbers: Mapping[str, int]
) -> Calls:
    """The calls of one element in the order of the genome; they may cross pieces, not stretches without answer."""
    threshold = options.of(job.elements[number], job.model.spec)
    kept: list[tuple[int, Runs]] = []
    unfinished: Runs | None = None
    contig, last = "", -1

    def keep(runs: Runs) -> None:
        is_long = runs.end - runs.start >= options.min_length_bp
        if is_long.any():
            kept.append((numbers[contig], runs.rows(is_long)))

    for name, first, values in found.output(number):
        if unfinished is not None and (name != contig or first != last):
            keep(unfinished)
            unfinished = None
        contig, last = name, first + len(values)
        exact = np.asarray(values, np.float32)
        start, end = segments_of(exact >= threshold)
        if not len(start):
            continue
        sums = np.append(0.0, np.cumsum(exact, dtype=np.float64))
        runs = Runs(start + first, end + first, end - start, sums[end] - sums[start])
        runs = (runs if unfinished is None else Runs.joined([unfinished, runs])).merged(options.merge_gap_bp)
        keep(runs.rows(slice(-1)))
        unfinished = runs.rows(slice(-1, None))
    if unfinished is not None:
        keep(unfinished)
    contigs = np.repeat([place for place, _ in kept], [len(runs.start) for _, runs in kept]).astype(np.int64)
    none = np.zeros(0, np.int64)
    runs = Runs.joined([Runs(none, none, none, np.zeros(0)), *(part for _, part in kept)])
    return Calls(job, contigs, runs.start, runs.end, np.full(len(contigs), number), runs.total / runs.bases)


def _write_calls(job: SegmentJob, folder: Path, calls: Calls) -> None:
    """BED (0-based) and GFF3 (from 1), ordered by place."""
    publish_lines(folder / BED, map(_bed_line, calls), overwrite=True)
    publish_lines(folder / GFF, _gff_lines(job, calls), overwrite=True)


def _bed_line(call: Call) -> str:
    score = round(1000 * call.probability)
    return f"{call.contig}\t{call.start}\t{call.end}\t{call.element}\t{score}\t{call.strand}\n"


def _gff_lines(job: SegmentJob, calls: Calls) -> Iterator[str]:
    yield f"##gff-version 3\n# model: {job.model.spec.name}\n"
    yield from (f"##sequence-region {name} 1 {size}\n" for name, size in job.genome.lengths.items() if size)
    kinds = {element: Element.parse(element).type for element in job.elements}
    names = {element: quote(element, safe="+-_. []") for element in job.elements}
    for number, call in enumerate(calls, 1):
        source = f"{call.contig}\tchargaff\t{kinds[call.element]}\t{call.start + 1}\t{call.end}"
        score = f"{call.probability:.4f}\t{call.strand}\t."
        yield f"{source}\t{score}\tID=call{number};Name={names[call.element]}\n"


class _Sums(NamedTuple):
    """Of one element, [n] each over the contigs with an answer."""

    contig: list[str]
    answered_bp: Ints
    above_bp: Ints
    called_bp: Ints
    calls: Ints
    mean_probability: NDArray[np.float64]


def _sums(found: Answers, number: int, calls: Calls, threshold: float, numbers: Mapping[str, int]) -> _Sums:
    count = len(numbers)
    answered, above, total = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    for name, _, values in found.output(number):
        contig = numbers[name]
        answered[contig] += len(values)
        above[contig] += (np.asarray(values, np.float32) >= threshold).sum()
        total[contig] += np.asarray(values, np.float64).sum()
    called = np.zeros(count, np.int64)
    np.add.at(called, calls.contig, calls.end - calls.start)
    at = np.flatnonzero(answered)
    contigs = [calls.job.genome.contigs[contig] for contig in at.tolist()]
    calls_here = np.bincount(calls.contig, minlength=count)
    return _Sums(contigs, answered[at], above[at], called[at], calls_here[at], total[at] / answered[at])


def _write_summary(job: SegmentJob, path: Path, sums: Sequence[_Sums]) -> None:
    """A row a contig with answers, for each element."""
    schema = [Column("contig", "text"), Column("element", "text")]
    schema += [Column(name, "int64") for name in ("answered_bp", "above_bp", "called_bp", "calls")]
    schema.append(Column("mean_probability", "float64"))
    size = len(sums[0].contig)
    with open_writer(path, schema, metadata=job.provenance(), num_rows=size * len(sums), overwrite=True) as writer:
        for number, (element, found) in enumerate(zip(job.elements, sums, strict=True)):
            rows = range(number * size, (number + 1) * size)
            writer.write(rows, {**found._asdict(), "element": [element] * size})


def _record(job: SegmentJob, options: CallOptions, calls: Calls) -> dict[str, Any]:
    counts = np.bincount(calls.element, minlength=len(job.elements)).tolist()
    return {
        **job.provenance(),
        "elements": list(job.elements),
        "calling": {
            "thresholds": {name: options.of(name, job.model.spec) for name in job.elements},
            "min_length_bp": options.min_length_bp,
            "merge_gap_bp": options.merge_gap_bp,
            "decimals": options.decimals,
        },
        "asked_bp": job.asked_bp,
        "answered_bp": job.answered_bp,
        "unknown": {name: [list(place) for place in places] for name, places in job.unknown.items()},
        "calls": dict(zip(job.elements, counts, strict=True)),
    }
