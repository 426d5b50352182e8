"""Judges an annotator on the test windows of its run file, beside the k-mer baseline.

    python examples/annotator/evaluate.py MODEL examples/annotator/fungus.toml --baseline baseline.json -o heldout.json

The model reads the test contigs (or regions) as `chargaff segment` does, windows overlapping and blended, and is judged
at the bases of the test windows: for each element and strand MCC, area under precision and recall, and F1, at
probability 0.5 and at the threshold with the highest MCC on the validation windows. Differences to the baseline carry a
95 % interval from a bootstrap over blocks of 50 kb. The counts go to a `.npz` file beside the output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tally import Tally, count_answers, differences, open_run, rounded, spans_of

from chargaff.data.annotated import AnnotatedWindows
from chargaff.hub.load import load
from chargaff.model import Model
from chargaff.workflows.segment import SegmentOptions, compute_part, plan_segmenting

READ_ALL = 1 << 40
"""No stretch of unknown bases is this long: every base gets an answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("run", type=Path, help="the run file it was trained with")
    parser.add_argument("--baseline", type=Path, help="what baseline.py has written for the same run file")
    parser.add_argument("--window-bp", type=int, help="bases read at once (default: as in training)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    began = time.monotonic()
    ready = open_run(options.run)
    assert ready.test is not None
    model = load(options.model, device=options.device)
    if model.spec.labels != ready.elements:
        parser.error(f"{options.model} knows {model.spec.labels}, {options.run} asks for {ready.elements}")
    baseline = Tally.read(options.baseline.with_suffix(".npz")) if options.baseline else None
    _, start, end = spans_of(ready.test)
    if baseline is not None and baseline.counts[:, 0].sum() != (end - start).sum():
        parser.error(f"{options.baseline} was judged on other bases than those of {options.run}; run baseline.py again")
    reading = SegmentOptions(window_bp=options.window_bp, min_unknown_bp=READ_ALL)
    valid, test = (judge(model, source, reading) for source in (ready.valid, ready.test))
    test.save(options.output.with_suffix(".npz"))
    thresholds = valid.best_thresholds()
    record: dict[str, Any] = {
        "model": str(options.model),
        "run": options.run.name,
        "window_bp": options.window_bp or model.spec.context_bp,
        "test_bases": int(test.counts[:, 0].sum()),
        "test": rounded(test.scores()),
        "thresholds": thresholds,
        "test_at_thresholds": rounded(test.scores(thresholds)),
        "valid_at_thresholds": rounded(valid.scores(thresholds)),
    }
    if baseline is not None:
        record["baseline"] = json.loads(options.baseline.read_text())
        record |= beside(test, baseline, thresholds)
    record["seconds"] = round(time.monotonic() - began, 1)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print_table(record)


def judge(model: Model, source: AnnotatedWindows, options: SegmentOptions) -> Tally:
    """The model's answers at the bases of a source's windows."""
    return count_answers(source, blended(model, source, options))


def blended(
    model: Model, source: AnnotatedWindows, options: SegmentOptions
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """(row, probabilities [1, window_bp, elements]) of each window, read together with its neighbours."""
    windows, genome = source.windows, source.windows.genome
    contig, start = windows.places(np.arange(len(source)))
    with tempfile.TemporaryDirectory() as scratch:
        places = Path(scratch) / "places.bed"
        places.write_text(
            "".join(
                f"{genome.contigs[number]}\t{first}\t{first + windows.window_bp}\n"
                for number, first in zip(contig.tolist(), start.tolist(), strict=True)
            )
        )
        job = plan_segmenting(model, genome.path, options, regions=places)
    rows = {
        (genome.contigs[number], first): row
        for row, (number, first) in enumerate(zip(contig.tolist(), start.tolist(), strict=True))
    }
    found: dict[str, NDArray[np.float16]] = {}
    for part in job.parts:
        for piece, values in zip(part, compute_part(job, part), strict=True):
            name = piece.place.contig
            if name not in found:
                found[name] = np.zeros((genome.lengths[name], len(job.elements)), np.float16)
            found[name][piece.start : piece.end] = values.T
    for (name, first), row in rows.items():
        yield [row], found[name][None, first : first + windows.window_bp].astype(np.float32)


def beside(test: Tally, baseline: Tally, thresholds: dict[str, float]) -> dict[str, Any]:
    """Model minus baseline, at 0.5 and at the chosen thresholds."""
    half = dict.fromkeys(test.elements, 0.5)
    return {
        "model_minus_baseline": differences(test, baseline, half, half),
        "model_minus_baseline_at_thresholds": differences(test, baseline, thresholds, half),
    }


def print_table(record: dict[str, Any]) -> None:
    apart = record.get("model_minus_baseline_at_thresholds", {})
    known = record.get("baseline", {}).get("test", {})
    print(f"{'element':22}{'MCC':>8}{'at thr.':>9}{'auPRC':>8}{'baseline MCC':>14}{'auPRC':>8}  difference of MCC")
    for name, row in record["test"].items():
        line = f"{name:22}{row['mcc']:8.3f}{record['test_at_thresholds'][name]['mcc']:9.3f}{row['auprc']:8.3f}"
        if name in apart:
            mcc = apart[name]["mcc"]
            line += f"{known[name]['mcc']:14.3f}{known[name]['auprc']:8.3f}"
            line += f"  {mcc['difference']:+.3f} ({mcc['low']:+.3f} to {mcc['high']:+.3f})"
        print(line)


if __name__ == "__main__":
    main()
