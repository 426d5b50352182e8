"""`chargaff segment`: does its cost per base depend on the contig's length, its memory, and what do the files cost?"""

import argparse
import gzip
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

THREADS, PASSES = 2, 5
SLICE = Path(__file__).resolve().parent.parent / "examples" / "data" / "chr20_slices.fa.gz"
"""Its first record is repeated where a contig is longer: GRCh37 20:32,000,001-33,000,000."""
NT, CADUCEUS = "SegmentNT of 50M", "Caduceus of one layer"
WINDOW_BP = {NT: 6_000, CADUCEUS: 4_096}
CASES = [
    (CADUCEUS, 100_000, 1, PASSES),
    (CADUCEUS, 1_000_000, 1, PASSES),
    (CADUCEUS, 10_000_000, 1, 1),
    (CADUCEUS, 6_000_000, 100_000, 1),
    (NT, 100_000, 1, PASSES),
    (NT, 500_000, 1, 1),
    (NT, 5_000_000, 1, 1),
]
"""Model, bases in all, contigs, passes."""
QUICK = [(CADUCEUS, 50_000, 1, 1), (CADUCEUS, 50_000, 1_000, 1), (NT, 12_000, 1, 1)]
LIMIT_S = 2400
"""A case that would end later is left out, and the notes say so."""
LARGEST_SHARE, MOST_TIMES = 0.05, 1.1
SHORTEST_CALL_BP = 50
"""Fresh weights answer close to the threshold everywhere; shorter calls would be the noise of that."""
FEW_ELEMENTS, SHORTEST_BP = 3, 20


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few thousand bases, to see that everything runs")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work:
        model, bases, contigs, passes = args.work
        _work(model, int(bases), int(contigs), int(passes))
        return
    if args.json is None:
        parser.error("--json: where to write the figures?")
    rows, notes = _measure(QUICK if args.quick else CASES)
    notes += [
        f"one process a row; medians where there are several passes; {THREADS} threads, float32, fresh weights, no "
        "page, a quarter of each window shared with the next",
        f"{NT}: backbone of NT v2 50M and a U-Net of its width, {WINDOW_BP[NT]:,} bp a window; {CADUCEUS}: 8 channels, "
        f"{WINDOW_BP[CADUCEUS]:,} bp a window, about the cheapest model there can be, so that the files weigh most",
        f"14 elements, {FEW_ELEMENTS} where contigs are many; those have {SHORTEST_BP} bp and more, evenly distributed",
        "bases: GRCh37 20:32,000,001-33,000,000, repeated where that is not enough",
        f"files: bigWig, calls of at least {SHORTEST_CALL_BP} bp, summary: their share of the time; GiB: highest "
        "memory of the process, weights and libraries included; it grows until a contig fills a part of work (250 kbp)",
        f"against the shortest: of the same model; the aim is at most {MOST_TIMES} times, and holds for {NT}",
    ]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


def _measure(cases: list[tuple[str, int, int, int]]) -> tuple[list[dict[str, Any]], list[str]]:
    begin = time.monotonic()
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    shortest: dict[str, dict[str, float]] = {}
    for model, bases, contigs, passes in cases:
        name = f"{model}, {bases / 1e6:g} Mbp" + (f" in {contigs:,} contigs" if contigs > 1 else "")
        first = shortest.get(model)
        left_s = LIMIT_S - (time.monotonic() - begin)
        if first is not None and contigs == 1 and first["seconds"] * bases / first["bases"] * passes > left_s:
            minutes = first["seconds"] * bases / first["bases"] * passes / 60
            notes.append(f"left out for its time, about {minutes:.0f} minutes on this machine: {name}")
            continue
        words = [sys.executable, __file__, "--work", model, str(bases), str(contigs), str(passes)]
        found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        first = shortest.setdefault(model, found)
        rows.append(_row(name, found, first, contigs, is_aim=model == NT))
        print("  ".join(f"{key}: {value}" for key, value in rows[-1].items()), file=sys.stderr, flush=True)
    return rows, notes


def _row(name: str, found: dict[str, float], first: dict[str, float], contigs: int, *, is_aim: bool) -> dict[str, Any]:
    cost, share = found["seconds"] / found["bases"] * 1e6, found["files_s"] / found["seconds"]
    times = cost / (first["seconds"] / first["bases"] * 1e6)
    memory = found["peak_gib"] / first["peak_gib"]
    row: dict[str, Any] = {
        "case": name,
        "s/Mbp": round(cost, 2),
        "planning s": round(found["plan_s"], 2),
        "calls": int(found["calls"]),
        "GiB": round(found["peak_gib"], 2),
        "files %": round(100 * share, 1),
        "at most %": 100 * LARGEST_SHARE if is_aim else None,
    }
    if contigs == 1:
        row |= {"s/Mbp against the shortest": round(times, 2), "GiB against the shortest": round(memory, 2)}
        if is_aim:
            row["met"] = max(times, memory) <= MOST_TIMES and share <= LARGEST_SHARE
    return row


def _work(kind: str, bases: int, contigs: int, passes: int) -> None:
    """Prints the medians of the passes and the highest memory of this process."""
    torch.set_num_threads(THREADS)
    model = _model(kind, FEW_ELEMENTS if contigs > 1 else None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_genome(folder / "warm-up.fa", 2 * WINDOW_BP[kind], 1)
        _pass(model, folder / "warm-up.fa", WINDOW_BP[kind], folder / "warm-up")
        _write_genome(folder / "genome.fa", bases, contigs)
        found = [_pass(model, folder / "genome.fa", WINDOW_BP[kind], folder / f"out{i}") for i in range(passes)]
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    print(json.dumps(medians | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def _pass(model: Any, genome: Path, window_bp: int, folder: Path) -> dict[str, float]:
    from chargaff.workflows.segment import SegmentOptions, plan_segmenting
    from chargaff.workflows.segment_files import CallOptions, segment_to_folder

    begin = time.perf_counter()
    job = plan_segmenting(model, genome, SegmentOptions(window_bp=window_bp))
    ends = [time.perf_counter()]

    def part_is_done(_: int) -> None:
        ends.append(time.perf_counter())

    options = CallOptions(min_length_bp=SHORTEST_CALL_BP)
    record = segment_to_folder(job, folder, options, on_progress=part_is_done)
    end = time.perf_counter()
    return {
        "bases": job.answered_bp,
        "seconds": end - begin,
        "plan_s": ends[0] - begin,
        "files_s": end - ends[-1],  # they come after the last part
        "calls": sum(record["calls"].values()),
    }


def _model(kind: str, num_elements: int | None) -> Any:
    from chargaff.hub.catalog import get_checkpoint
    from chargaff.hub.load import create

    published = get_checkpoint("segment-nt")
    labels = published.labels[:num_elements]
    if kind == NT:
        small = get_checkpoint("nucleotide-transformer-v2-50m-multi-species")
        sizes = {name: small.config[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size")}
        config = {**published.config, **sizes, "features": list(labels)}
        model = create(published.family, config, head="segmentation", num_outputs=len(labels), seed=0)
    else:
        config = {"d_model": 8, "n_layer": 1, "vocab_size": 12, "rcps": False}
        model = create("caduceus", config, head="token", num_outputs=len(labels), seed=0)
    model.spec = replace(model.spec, labels=labels)
    return model.eval()


def _write_genome(path: Path, bases: int, contigs: int) -> None:
    with gzip.open(SLICE, "rt") as file:
        next(file)
        lines = []
        for line in file:
            if line.startswith(">"):
                break
            lines.append(line.strip())
    letters = "".join(lines)
    letters *= -(-bases // len(letters))
    cuts = [0, bases]
    if contigs > 1:
        rng = random.Random(0)
        cuts = [0]
        while len(cuts) <= contigs:
            cuts.append(cuts[-1] + rng.randint(SHORTEST_BP, 2 * bases // contigs - SHORTEST_BP))
        letters *= -(-cuts[-1] // len(letters))
    with path.open("w") as out:
        for number in range(len(cuts) - 1):
            part = letters[cuts[number] : cuts[number + 1]]
            out.write(f">contig{number}\n")
            out.writelines(f"{part[i : i + 60]}\n" for i in range(0, len(part), 60))


if __name__ == "__main__":
    main()
