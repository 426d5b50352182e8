"""Judges a masked language model on the held-out places, beside the base composition and a count model.

    python examples/mini/evaluate.py MODEL --corpus corpus -o heldout.json

The corpus is what `examples/mini/corpus.py` writes. Bases are hidden in windows of 1,024 bp and predicted:

  model    sees the window with the hidden bases masked
  counts   the k bases on either side with back-off (counts.py), counted on both strands of the organism's own part of
           the training sequence; k and the strength of back-off do best on windows of it that a first count leaves out
  hidden   15 %: as in pre-training; 1 in 64: nearly all that surrounds a base is seen

"counts, same input" backs off where its context is hidden; "counts, all seen" reads the true bases, which the model at
15 % does not. Where an organism has few held-out windows they are read several times, each time with other bases
hidden, until at least 20,000 have been. Differences carry a 95 % interval from a bootstrap over blocks of 50 kb.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent))
import torch
from counts import Codes, Counts, Targets, codes, count

from chargaff.hub.load import load
from chargaff.io.fasta import Genome
from chargaff.io.regions import read_bed
from chargaff.model import Model

WINDOW_BP = 1024
BLOCK_BP = 50_000
RATES = {"15 %": 0.15, "1 in 64": 1 / 64}
COUNTS = {"counts, same input": False, "counts, all seen": True}
"""Whether the counts see the bases that are hidden from the model."""
STRENGTHS = (1.0, 4.0, 16.0, 64.0)
MAX_K = 15
"""The widest context whose bases fit one key of counts.py."""
MIN_BASES = 20_000
"""At least so many bases are hidden for a figure; of the windows with 1 in 64 hidden, 1,250 have that many."""
CHOICE_EVERY, CHOICE_WINDOWS = 100, 100
"""One training window in so many is kept from the counts to choose k on; of small genomes more, for so many windows."""
LARGEST_CHOICE = 1 / 10
"""Never more than this share of the windows."""
REGION = "Homo_sapiens.20:1000000-11000000"
"""The record of the project's held-out region."""
BATCH = 16


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows side by side, and the block that each belongs to."""

    codes: NDArray[np.uint8]
    """[n, WINDOW_BP]"""
    block: NDArray[np.int64]
    """[n]"""


@dataclass(frozen=True, slots=True)
class Masked:
    """Windows with hidden bases."""

    codes: NDArray[np.uint8]
    """[n, WINDOW_BP]"""
    hidden: NDArray[np.bool_]
    """[n, WINDOW_BP]"""
    window_block: NDArray[np.int64]
    """[n]"""

    @property
    def base(self) -> NDArray[np.int64]:
        """[hidden bases] what they are."""
        return self.codes[self.hidden].astype(np.int64)

    @property
    def block(self) -> NDArray[np.int64]:
        """[hidden bases] the block that each belongs to."""
        return self.window_block[np.nonzero(self.hidden)[0]]

    def targets(self, see_all: bool) -> Targets:
        """The hidden bases of the windows laid end to end, a 4 between these."""
        seen = self.codes if see_all else np.where(self.hidden, np.uint8(4), self.codes)
        gap = np.full((len(seen), 1), 4, np.uint8)
        return Targets(np.hstack([seen, gap]).ravel(), np.flatnonzero(np.pad(self.hidden, ((0, 0), (0, 1)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--species", nargs="*", help="only these")
    parser.add_argument("--windows", type=int, default=5000, help="at most so many of an organism (default: 5000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    model = load(options.model, device="cpu")
    held_out = Genome(options.corpus / "heldout.fa")
    species = options.species or sorted({name.partition(".")[0] for name in held_out.contigs})
    results = {}
    for name in species:
        windows = held_out_windows(held_out, name, options.windows)
        results[name] = judge(model, windows, training_part(options.corpus, name), options.seed)
        print(name, json.dumps(results[name]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


def held_out_windows(genome: Genome, species: str, most: int) -> Windows:
    """Of the project's region for human, of all held-out places for others; every second, third, ... if too many."""
    rows, blocks = [], []
    for number, name in enumerate(genome.contigs):
        if not name.startswith(f"{species}.") or (species == "Homo_sapiens" and name != REGION):
            continue
        bases = codes(genome.fetch(name))
        for start in range(0, len(bases) - WINDOW_BP + 1, WINDOW_BP):
            rows.append(bases[start : start + WINDOW_BP])
            blocks.append((number << 32) + start // BLOCK_BP)
    every = -(-len(rows) // most)
    return Windows(np.stack(rows[::every]), np.unique(blocks[::every], return_inverse=True)[1])


def training_part(corpus: Path, species: str) -> list[Codes]:
    """The training sequence of a species, each base once; what is not trained on is 4."""
    genome, train = Genome(corpus / "corpus.fa"), {}
    for name in genome.contigs:
        if name.startswith(f"{species}.") and "_copy" not in name:
            train[name] = codes(genome.fetch(name)).copy()
    for place in read_bed(corpus / "holdout.bed"):
        if place.contig in train:
            train[place.contig][place.start : place.end] = 4
    return list(train.values())


def divide(train: list[Codes]) -> tuple[list[Codes], Windows]:
    """(the training sequence without some windows, these windows): to choose k on."""
    rest = [bases.copy() for bases in train]
    views = [bases[i : i + WINDOW_BP] for bases in rest for i in range(0, len(bases) - WINDOW_BP + 1, WINDOW_BP)]
    places = [view for view in views if (view < 4).mean() > 0.9]
    every = min(CHOICE_EVERY, max(round(1 / LARGEST_CHOICE), len(places) // CHOICE_WINDOWS))
    chosen = places[every // 2 :: every]
    windows = Windows(np.stack(chosen), np.arange(len(chosen)))
    for view in chosen:
        view[:] = 4
    return rest, windows


def judge(model: Model, windows: Windows, train: list[Codes], seed: int) -> dict[str, Any]:
    """Cross-entropies (nats), accuracies and paired differences for each way of hiding."""
    rest, kept = divide(train)
    asked = {label: mask(windows, rate, seed) for label, rate in RATES.items()}
    trials = {label: mask(kept, rate, seed) for label, rate in RATES.items()}
    ways = [(label, name) for label in RATES for name in COUNTS]
    tried = count(rest, [trials[label].targets(COUNTS[name]) for label, name in ways], MAX_K)
    counted = count(train, [asked[label].targets(COUNTS[name]) for label, name in ways], MAX_K)

    result: dict[str, Any] = {"windows": len(windows.codes)}
    own = {label: predictions(model, masked.codes, masked.hidden) for label, masked in asked.items()}
    for (label, name), trial, counts in zip(ways, tried, counted, strict=True):
        base = asked[label].base
        found = result.setdefault(
            label,
            {
                "bases": len(base),
                "model": scores(own[label], base),
                "composition": scores(counts.probabilities(0, 1.0), base),
            },
        )
        k, strength = choose(trial, trials[label].base)
        other = counts.probabilities(k, strength)
        found[name] = scores(other, base) | {"k": k, "strength": strength}
        found[name]["model_minus_counts"] = difference(own[label], other, base, asked[label].block)
    return result


def choose(counts: Counts, base: NDArray[np.int64]) -> tuple[int, float]:
    """(k, strength) with the smallest cross-entropy."""
    trials = [
        (scores(counts.probabilities(k, strength), base)["nats"], k, strength)
        for k in range(1, MAX_K + 1)
        for strength in STRENGTHS
    ]
    _, k, strength = min(trials)
    return k, strength


def mask(windows: Windows, rate: float, seed: int) -> Masked:
    """Bases of the windows hidden at random; windows are read several times if that is needed for `MIN_BASES`."""
    read = repeated(windows, rate)
    return Masked(read.codes, hide(read.codes, rate, seed), read.block)


def repeated(windows: Windows, rate: float) -> Windows:
    """The windows as often as `MIN_BASES` asks for."""
    times = max(1, math.ceil(MIN_BASES / (rate * (windows.codes < 4).sum())))
    return Windows(np.tile(windows.codes, (times, 1)), np.tile(windows.block, times))


def hide(windows: NDArray[np.uint8], rate: float, seed: int) -> NDArray[np.bool_]:
    """[n, WINDOW_BP] which bases are hidden; never an unknown one."""
    return (np.random.default_rng(seed).random(windows.shape) < rate) & (windows < 4)


@torch.inference_mode()
def predictions(model: Model, windows: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n, 4] probabilities of the hidden bases among A, C, G, T."""
    tokenizer = model.tokenizer
    ids = np.array([tokenizer.vocab.index(letter) for letter in "ACGTN"])
    parts: list[NDArray[np.float64]] = []
    for rows in batches(len(windows)):
        tokens = torch.from_numpy(ids[windows[rows]])
        masked = tokens.masked_fill(torch.from_numpy(hidden[rows]), int(tokenizer.mask_id or 0))
        logits = model(masked).logits.float()[..., ids[:4]]
        parts.append(torch.softmax(logits, -1).double().numpy()[hidden[rows]])
    return np.concatenate(parts)


def batches(count: int) -> Iterator[slice]:
    for first in range(0, count, BATCH):
        yield slice(first, min(first + BATCH, count))


def scores(probability: NDArray[np.float64], base: NDArray[np.int64]) -> dict[str, float]:
    """Cross-entropy in nats, and share of bases that were the most probable."""
    nats = -np.log(probability[np.arange(len(base)), base]).mean()
    return {"nats": round(float(nats), 5), "accuracy": round(float((probability.argmax(1) == base).mean()), 5)}


def difference(
    own: NDArray[np.float64], other: NDArray[np.float64], base: NDArray[np.int64], block: NDArray[np.int64]
) -> dict[str, float]:
    """Mean difference of the cross-entropies (below 0: the first is better), 95 % interval over blocks."""
    rows = np.arange(len(base))
    apart = np.log(other[rows, base]) - np.log(own[rows, base])
    total, count = np.bincount(block, apart), np.bincount(block).astype(float)
    total, count = total[count > 0], count[count > 0]
    draws = np.random.default_rng(0).integers(0, len(total), (2000, len(total)))
    low, high = np.quantile(total[draws].sum(1) / count[draws].sum(1), [0.025, 0.975])
    return {"nats": round(float(apart.mean()), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


if __name__ == "__main__":
    main()
