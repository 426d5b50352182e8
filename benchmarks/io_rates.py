"""How fast letters become tokens and windows come out of a genome file, beside pysam (and pyfaidx, if installed)."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pysam

from chargaff.io.fasta import Genome
from chargaff.io.records import read_records
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.tokenizers.char import CharTokenizer

GENOME_BP, CONTIGS, LINE_BP = 100_000_000, 10, 60
WINDOW_BP, BATCH, NUM_WINDOWS = 1024, 256, 20_480
WARM_UP, REPEATS = 2, 7

Rows = list[dict[str, Any]]


def main(argv: list[str] | None = None) -> Rows:
    """Measure everything, print the table, and write it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = write_genome(Path(folder) / "genome.fa")
        rows = [*letters(), *windows(path), *records(path)]
    for row in rows:
        print("  ".join(f"{name}: {value}" for name, value in row.items() if value is not None), file=sys.stderr)
    notes = [
        f"medians of {REPEATS} after {WARM_UP} warm-up runs, one thread, ours and peers in turn, file in the page cache"
    ]
    if args.json is not None:
        args.json.write_text(json.dumps({"rows": rows, "notes": notes}))
    return rows


def letters() -> Rows:
    """Tokenising and reverse-complementing one piece of a megabase, and a batch of windows."""
    tokenizer = CharTokenizer.standard()
    seq = np.frombuffer(b"ACGTN", np.uint8)[np.random.default_rng(0).integers(0, 5, 1 << 20)]
    batch = seq.reshape(-1, WINDOW_BP)
    text = to_string(seq)
    ids = {letter: i for i, letter in enumerate(tokenizer.vocab)}
    ours, one_by_one = in_turn(
        [lambda: tokenizer.encode(seq, special=False), lambda: [ids.get(letter, 6) for letter in text.upper()]]
    )
    (batches,) = in_turn([lambda: tokenizer.encode(batch, special=False)])
    (complement,) = in_turn([lambda: reverse_complement(batch)])
    unit = "Mbp/s per core"
    rate = seq.size / 1e6
    return [
        row("tokenise 1 Mb", rate / ours, unit, 200, "a dictionary look-up per letter", rate / one_by_one),
        row(f"tokenise windows of {WINDOW_BP}", rate / batches, unit, 200),
        row(f"reverse complement of windows of {WINDOW_BP}", rate / complement, unit),
    ]


def windows(path: Path) -> Rows:
    """Random windows, in batches as a training loader asks for them."""
    rng = np.random.default_rng(1)
    rows = []
    with pysam.BGZFile(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes()[: GENOME_BP // 5])
    for source, num_windows, target in ((path, NUM_WINDOWS, 100_000), (Path(f"{path}.gz"), NUM_WINDOWS // 20, None)):
        genome = Genome(source)
        contig = rng.integers(0, len(genome.contigs), num_windows)
        start = (rng.random(num_windows) * (genome.lengths_bp[contig] - WINDOW_BP)).astype(np.int64)
        places = list(zip((genome.contigs[c] for c in contig), start.tolist(), strict=True))
        runs = [ours(genome, contig, start), pysam_run(source, places)]
        names = ["pysam"]
        if find_spec("pyfaidx") is not None and source == path:
            runs.append(pyfaidx_run(source, places))
            names.append("pyfaidx")
        first, *others = in_turn(runs)
        kind = "FASTA" if source == path else "bgzip"
        what = f"random windows of {WINDOW_BP}, {source.stat().st_size / 1e6:.0f}-MB {kind}"
        for name, seconds in zip(names, others, strict=True):
            rows.append(row(what, num_windows / first, "windows/s", target, name, num_windows / seconds))
    return rows


def records(path: Path) -> Rows:
    """Streaming through all records."""
    seconds, peer = in_turn(
        [
            lambda: sum(record.sequence.size for record in read_records(path)),
            lambda: sum(len(to_array(record.sequence)) for record in pysam.FastxFile(str(path))),
        ]
    )
    rate = GENOME_BP / 1e6
    return [row("stream all records as arrays", rate / seconds, "Mbp/s", None, "pysam", rate / peer)]


def ours(genome: Genome, contig: np.ndarray, start: np.ndarray) -> Callable[[], object]:
    return lambda: [
        genome.windows(contig[i : i + BATCH], start[i : i + BATCH], WINDOW_BP) for i in range(0, len(start), BATCH)
    ]


def pysam_run(path: Path, places: list[tuple[str, int]]) -> Callable[[], object]:
    fasta = pysam.FastaFile(str(path))
    return lambda: [
        to_array("".join(fasta.fetch(contig, start, start + WINDOW_BP) for contig, start in places[i : i + BATCH]))
        for i in range(0, len(places), BATCH)
    ]


def pyfaidx_run(path: Path, places: list[tuple[str, int]]) -> Callable[[], object]:
    import pyfaidx

    fasta = pyfaidx.Fasta(str(path), as_raw=True, sequence_always_upper=True)
    return lambda: [
        to_array("".join(fasta[contig][start : start + WINDOW_BP] for contig, start in places[i : i + BATCH]))
        for i in range(0, len(places), BATCH)
    ]


def in_turn(runs: list[Callable[[], object]]) -> list[float]:
    """Median seconds of each, run one after the other so that a busy machine slows all alike."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(WARM_UP + REPEATS):
        for run, kept in zip(runs, seconds, strict=True):
            begin = time.perf_counter()
            run()
            if repeat >= WARM_UP:
                kept.append(time.perf_counter() - begin)
    return [statistics.median(kept) for kept in seconds]


def row(
    case: str,
    figure: float,
    unit: str,
    target: float | None = None,
    peer: str | None = None,
    other: float | None = None,
) -> dict[str, Any]:
    return {
        "case": case,
        "ours": round(figure),
        "unit": unit,
        "at least": target,
        "met": None if target is None else figure >= target,
        "peer": peer,
        "peer's": None if other is None else round(other),
        "times faster": None if other is None else round(figure / other, 2),
    }


def write_genome(path: Path) -> Path:
    """Random mixed-case contigs in lines of 60."""
    rng = np.random.default_rng(0)
    lines = GENOME_BP // CONTIGS // LINE_BP
    with path.open("wb") as file:
        for i in range(CONTIGS):
            bases = np.frombuffer(b"ACGTacgt", np.uint8)[rng.integers(0, 8, (lines, LINE_BP))]
            file.write(f">contig{i}\n".encode())
            file.write(np.concatenate([bases, np.full((lines, 1), ord("\n"), np.uint8)], axis=1).tobytes())
    return path


if __name__ == "__main__":
    main()
