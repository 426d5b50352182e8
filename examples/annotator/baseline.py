"""What the content of k-mers around a base says about it: the bar that an annotator has to pass.

    python examples/annotator/baseline.py examples/annotator/fungus.toml -o baseline.json

Reads the run file that the annotator is trained with: labels, training, validation and test windows are the same. For
each kind of element a logistic regression on how often each 3-, 4-, 5- and 6-mer stands in a window centred on the
base; both strands train one regression (an element on the reverse strand is the forward one of the reverse complement),
which then answers on each strand. Fitted by L-BFGS on a sample of training bases: up to `INSIDE` inside of the element
and `OUTSIDE` outside (`NARROW_OUTSIDE` in narrow windows). The width of the window and the penalty are those with the
highest MCC on the validation windows, and so is the threshold. Written are, for each element, MCC, area under precision
and recall, and F1 on the test windows, counted as `elements.parquet` counts them; the counts go to a `.npz` beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tally import count_answers, open_run, rounded

from chargaff.data.annotated import AnnotatedWindows
from chargaff.seq.alphabet import BASE_CODE, reverse_complement, translate
from chargaff.tasks.segmentation import best_step
from chargaff.workflows.finetune_segmentation import Segmenting

K = 6
KMERS = 4**K
WINDOWS_BP = (8, 10, 12, 16, 24, 48, 96, 200, 400, 800, 1600)
PENALTIES = (1e-5, 1e-4, 1e-6, 1e-7)
"""The windows are compared with the first; the others are tried in the best window."""
INSIDE, OUTSIDE = 20_000, 40_000
NARROW_BP, NARROW_OUTSIDE = 100, 400_000
"""Up to this width many more bases outside are seen: narrow windows are for elements that are rare."""
GAP_BP = 1024
"""Of unknown bases between contigs: no window spans two."""
LOGIT_STEPS = 1 << 14

Codes = NDArray[np.int16]
Bases = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """The contigs laid end to end, and after them the same in reverse complement."""

    codes: Codes
    """[2 * T] number of the 6-mer that begins at each base; KMERS where it holds an unknown base."""
    offset: NDArray[np.int64]
    """[contigs] where each begins."""

    @property
    def size(self) -> int:
        return len(self.codes) // 2


@dataclass(frozen=True, slots=True)
class Fit:
    """A regression: the log-odds of a base are `bias` plus `weight` summed over the 6-mers in its window."""

    window_bp: int
    penalty: float
    weight: NDArray[np.float64]
    """[KMERS + 1]; the shorter k-mers are in it, as the beginnings of the longer ones."""
    bias: float
    threshold: float
    """Log-odds with the highest MCC on the validation windows."""
    valid_mcc: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the annotator's run file (task.kind segmentation)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--chosen", type=Path, help="an earlier output whose windows and penalties are used again")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    ready = open_run(options.run)
    assert ready.test is not None
    layout = lay_out(ready)
    chosen = json.loads(options.chosen.read_text())["chosen_on_validation"] if options.chosen else {}
    fits = {kind: fit_kind(ready, layout, kind, options.seed, chosen.get(kind)) for kind in kinds(ready.elements)}
    tally = count_answers(ready.test, answers(ready.test, layout, fits))
    tally.save(options.output.with_suffix(".npz"))
    record = {
        "what": "logistic regression on 3- to 6-mer counts in a window around each base",
        "run": options.run.name,
        "sampled_bases": {"inside": INSIDE, "outside": OUTSIDE, f"outside, up to {NARROW_BP} bp": NARROW_OUTSIDE},
        "seed": options.seed,
        "chosen_on_validation": {
            kind: {"window_bp": fit.window_bp, "penalty": fit.penalty, "valid_mcc": round(fit.valid_mcc, 4)}
            for kind, fit in fits.items()
        },
        "test": rounded(tally.scores()),
        "seconds": round(time.monotonic() - began, 1),
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def kinds(elements: Sequence[str]) -> list[str]:
    """Names without their strand; every element needs one."""
    for name in elements:
        if name[-1] not in "+-":
            sys.exit(f"element {name}: the baseline reads each strand by itself; write {name}+ and {name}-")
    return list(dict.fromkeys(name[:-1] for name in elements))


def lay_out(ready: Segmenting) -> Layout:
    """All contigs of the run's genome."""
    genome = ready.valid.windows.genome
    gap = np.full(GAP_BP, ord("N"), np.uint8)
    parts, offset, at = [gap], [], GAP_BP
    for name, length_bp in zip(genome.contigs, genome.lengths_bp.tolist(), strict=True):
        offset.append(at)
        parts += [genome.fetch(name), gap]
        at += length_bp + GAP_BP
    text = np.concatenate(parts)
    both = [six_mers(translate(strand, BASE_CODE)) for strand in (text, reverse_complement(text))]
    return Layout(np.concatenate(both), np.array(offset))


def six_mers(bases: NDArray[np.uint8]) -> Codes:
    """[T] from codes 0 to 3, 4 for an unknown base; those that run over the end hold one."""
    padded = np.concatenate([bases, np.full(K - 1, 4, np.uint8)])
    number, is_known = np.zeros(len(bases), np.int16), np.ones(len(bases), np.bool_)
    for shift in range(K):
        part = padded[shift : shift + len(bases)]
        number = number * 4 + (part & 3)
        is_known &= part < 4
    return np.where(is_known, number, KMERS).astype(np.int16)


def labels(source: AnnotatedWindows, layout: Layout, kind: str) -> NDArray[np.int8]:
    """[2 * T] of an element on both strands: 1 inside, 0 outside, -1 where no window of the source is."""
    windows, annotation = source.windows, source.annotation
    contig, start = windows.places(np.arange(len(source)))
    is_read = np.zeros(layout.size, np.bool_)
    for first in (layout.offset[contig] + start).tolist():
        is_read[first : first + windows.window_bp] = True
    found = np.where(np.concatenate([is_read, is_read[::-1]]), 0, -1).astype(np.int8)
    for sign, strand in (("+", found[: layout.size]), ("-", found[layout.size :][::-1])):
        number = annotation.elements.index(kind + sign)
        for place in range(len(windows.genome.contigs)):
            for begin, end in zip(*annotation.spans(number, place), strict=True):
                part = strand[layout.offset[place] + begin : layout.offset[place] + end]
                part[part == 0] = 1
    return found


def fit_kind(ready: Segmenting, layout: Layout, kind: str, seed: int, chosen: dict[str, Any] | None = None) -> Fit:
    """The best of all windows and penalties on the validation windows, or the one that was chosen before."""
    train, valid = (labels(source, layout, kind) for source in (ready.train[0], ready.valid))
    where = np.flatnonzero(valid >= 0)
    is_inside = valid[where] == 1

    def fit(window_bp: int, penalty: float) -> Fit:
        rng = np.random.default_rng(seed)
        inside = sample(np.flatnonzero(train == 1), INSIDE, rng)
        outside = sample(np.flatnonzero(train == 0), NARROW_OUTSIDE if window_bp <= NARROW_BP else OUTSIDE, rng)
        truth = np.repeat([1.0, 0.0], [len(inside), len(outside)])
        weight, bias = fit_one(layout.codes, np.concatenate([inside, outside]), truth, window_bp, penalty)
        threshold, mcc = choose(log_odds(layout.codes, weight, bias, window_bp, where), is_inside)
        print(f"{kind} {window_bp} bp, penalty {penalty:g}: validation MCC {mcc:.4f}", file=sys.stderr, flush=True)
        return Fit(window_bp, penalty, weight, bias, threshold, mcc)

    if chosen is not None:
        return fit(chosen["window_bp"], chosen["penalty"])
    best = max((fit(window_bp, PENALTIES[0]) for window_bp in WINDOWS_BP), key=lambda found: found.valid_mcc)
    others = [fit(best.window_bp, penalty) for penalty in PENALTIES[1:]]
    return max([best, *others], key=lambda found: found.valid_mcc)


def sample(places: Bases, count: int, rng: np.random.Generator) -> Bases:
    return places if len(places) <= count else np.sort(rng.choice(places, count, replace=False))


def fit_one(
    codes: Codes, bases: Bases, truth: NDArray[np.float64], window_bp: int, penalty: float
) -> tuple[NDArray[np.float64], float]:
    """(what each 6-mer adds [KMERS + 1], bias)."""
    from scipy.optimize import minimize

    size = sum(4**k for k in range(3, K + 1))
    scale = 1 / np.sqrt(window_bp)

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope, bias_slope = regress(codes, bases, truth, table(x) * scale, x[-1], window_bp)
        gradient = np.append(folded(slope * scale), bias_slope)
        gradient[:size] += penalty * x[:size]
        return value + penalty / 2 * float(x[:size] @ x[:size]), gradient

    found = minimize(loss, np.zeros(size + 1), jac=True, method="L-BFGS-B", options={"maxiter": 60, "maxcor": 20}).x
    return table(found) * scale, float(found[-1])


def table(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """[KMERS + 1] what each 6-mer adds: its own weight and those of the k-mers it begins with."""
    found, at = np.zeros(KMERS + 1), 0
    for k in range(3, K + 1):
        found[:KMERS] += np.repeat(x[at : at + 4**k], 4 ** (K - k))
        at += 4**k
    return found


def folded(slope: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gradient for the weights, from that for `table`."""
    return np.concatenate([slope[:KMERS].reshape(4**k, -1).sum(1) for k in range(3, K + 1)])


@numba.njit
def regress(codes, bases, truth, weight, bias, window_bp):
    """(mean loss, its gradient for each 6-mer, and for the bias)."""
    slope, bias_slope, loss = np.zeros(len(weight)), 0.0, 0.0
    before, count = window_bp // 2, window_bp - 5
    for row in range(len(bases)):
        first = bases[row] - before
        total = bias
        for place in range(first, first + count):
            total += weight[codes[place]]
        signed = total if truth[row] > 0.5 else -total
        loss += np.log1p(np.exp(-abs(signed))) + max(-signed, 0.0)
        error = 1 / (1 + np.exp(-total)) - truth[row]
        bias_slope += error
        for place in range(first, first + count):
            slope[codes[place]] += error
    slope[-1] = 0.0
    return loss / len(bases), slope / len(bases), bias_slope / len(bases)


@numba.njit
def log_odds(codes, weight, bias, window_bp, bases):
    """[n] float32 of the bases, which are ascending."""
    found = np.zeros(len(bases), np.float32)
    before, count = window_bp // 2, window_bp - 5
    total, last = 0.0, -2
    for row in range(len(bases)):
        first = bases[row] - before
        if bases[row] == last + 1:
            total += weight[codes[first + count - 1]] - weight[codes[first - 1]]
        else:
            total = 0.0
            for place in range(first, first + count):
                total += weight[codes[place]]
        last = bases[row]
        found[row] = bias + total
    return found


def choose(odds: NDArray[np.float32], is_inside: NDArray[np.bool_]) -> tuple[float, float]:
    """(threshold, MCC): the best of LOGIT_STEPS thresholds."""
    low, high = float(odds.min()), float(odds.max())
    width = max(high - low, 1e-9) / LOGIT_STEPS
    step = ((odds - low) / width).astype(np.int64).clip(0, LOGIT_STEPS - 1)
    inside, outside = (np.bincount(step[rows], minlength=LOGIT_STEPS) for rows in (is_inside, ~is_inside))
    best, mcc = best_step(inside, outside)
    return low + best * width, mcc


def answers(
    source: AnnotatedWindows, layout: Layout, fits: dict[str, Fit]
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Probabilities for `count_answers`, moved so that the chosen threshold lies at one half."""
    contig, start = source.windows.places(np.arange(len(source)))
    windows = [np.arange(first, first + source.windows.window_bp) for first in (layout.offset[contig] + start).tolist()]
    forward = np.unique(np.concatenate(windows))
    column = {}
    for kind, fit in fits.items():
        for sign, bases in (("+", forward), ("-", 2 * layout.size - 1 - forward[::-1])):
            odds = log_odds(layout.codes, fit.weight, fit.bias, fit.window_bp, bases) - np.float32(fit.threshold)
            probability = 1 / (1 + np.exp(-odds))
            column[kind + sign] = probability if sign == "+" else probability[::-1]
    for row, window in enumerate(windows):
        part = np.searchsorted(forward, window[0]) + np.arange(len(window))
        yield [row], np.stack([column[name][part] for name in source.annotation.elements], 1)[None]


if __name__ == "__main__":
    main()
