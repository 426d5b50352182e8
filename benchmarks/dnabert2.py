"""DNABERT-2 (117 M parameters) on real sequences of mixed lengths beside the installable peer, and its tokenizer.

The published sizes with random weights, the same on both sides; mean-pooled embeddings. Needs the shared data folder
for the genome slice and the vocabulary. 2,000 sequences take an hour and a half, most of it the peer's:

    benchmarks/dnabert2.py --json OUT --sequences 2000
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from chargaff.hub.catalog import get_checkpoint
from chargaff.hub.load import create
from chargaff.io.records import read_records
from chargaff.model import Model
from chargaff.seq.alphabet import upper
from chargaff.tokenizers.bpe import BpeTokenizer
from chargaff.workflows.embed import embed

SHARED = Path(os.environ.get("CHARGAFF_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
SLICE = SHARED / "data" / "human_grch37_chr20" / "chr20_1-11Mb.fa.gz"
VOCABULARY = SHARED / "goldens" / "dnabert" / "tokenizer.json"
THREADS, SHORTEST_BP, LONGEST_BP = 2, 200, 5000
PEER_BATCH, ROUND = 8, 16
AT_LEAST, AIM, MOST_DIFFERENT = 2.0, 3.0, 1e-4
WHOLE_BP, LONG_BP = 2_000_000, 100_000_000


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sequences", type=int, default=80, help="of the 2,000, the first so many")
    parser.add_argument("--work", choices=["embed", "library", "ours", "long"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work == "embed":
        _embed(args.folder, args.sequences)
        return
    if args.work:
        _tokenise(args.work)
        return
    if args.json is None:
        parser.error("--json: where to write the figures?")
    rows = [*_embeddings(args.sequences), *_tokens()]
    notes = [
        f"embeddings: sequences of {SHORTEST_BP} to {LONGEST_BP} bases of human chromosome 20, float32, {THREADS} "
        f"threads, a process each, rounds of {ROUND} sequences in turn after a short warm-up; times faster: median "
        "of the rounds' ratios; the peer is "
        f"multimolecule's DnaBert2Model, padded to the longest of {PEER_BATCH}; ours is chargaff's embed, tokenisation "
        "included, the peer gets ready ids",
        "floor: matrix products and attention products alone, at the rate of one product with the MLP's first matrix "
        "measured in the same process",
        "tokens: the peer is the library `tokenizers`, which ours calls a piece at a time; one thread, records of "
        f"{WHOLE_BP:,} bases in one piece; memory is the growth of the peak while ours encodes {LONG_BP:,} bases",
    ]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


# embeddings


def _embeddings(count: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model = _model()
        save_file({key: tensor.contiguous() for key, tensor in model.backbone.state_dict().items()}, folder / "weights")
        _write_ids(model, count, folder / "ids.npz")
        del model
        peer_script = Path(__file__).parent / "peers" / "dnabert2.py"
        commands = {
            "ours": [sys.executable, __file__, "--work", "embed", "--folder", name, "--sequences", str(count)],
            "peer": [os.environ["CHARGAFF_PEERS_PYTHON"], str(peer_script), str(THREADS), name, str(PEER_BATCH)],
        }
        workers = {side: stack.enter_context(_worker(command, side)) for side, command in commands.items()}
        seconds: dict[str, list[float]] = {side: [] for side in workers}
        peak, floor = dict.fromkeys(workers, 0.0), 0.0
        worst = 0.0
        for first in range(0, count, ROUND):
            for side, worker in workers.items():
                answer = _ask(worker, f"{first} {min(first + ROUND, count)}")
                seconds[side].append(answer["seconds"])
                peak[side] = answer["peak_gib"]
                floor += answer.get("floor", 0.0)
            ours, peers = (np.load(folder / f"{side}.npy") for side in workers)
            worst = max(worst, float(np.abs(ours - peers).max() / np.abs(peers).max()))
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
    total_bp = sum(len(sequence) for sequence in _sequences(count))
    ratio = float(np.median(np.divide(seconds["peer"], seconds["ours"])))
    return [
        {
            "case": f"embed {count} sequences, {total_bp:,} bases",
            "ours bp/s": round(total_bp / sum(seconds["ours"])),
            "peer bp/s": round(total_bp / sum(seconds["peer"])),
            "times faster": round(ratio, 2),
            "at least": AT_LEAST,
            "aim": AIM,
            "floor bp/s": round(total_bp / floor),
            "share of the floor": round(floor / sum(seconds["ours"]), 2),
            "ours GiB": round(peak["ours"], 2),
            "peer GiB": round(peak["peer"], 2),
            "largest difference": f"{worst:.1e}",
            "met": ratio >= AT_LEAST and worst <= MOST_DIFFERENT,
        }
    ]


def _sequences(count: int) -> list[NDArray[np.uint8]]:
    """The first `count` of 2,000 pieces of the slice."""
    letters = upper(next(iter(read_records(SLICE))).sequence)
    rng = np.random.default_rng(0)
    lengths = rng.integers(SHORTEST_BP, LONGEST_BP + 1, 2000)
    starts = rng.integers(0, len(letters) - LONGEST_BP, 2000)
    return [letters[start : start + length] for start, length in zip(starts[:count], lengths[:count], strict=True)]


def _model() -> Model:
    config = {**get_checkpoint("dnabert-2-117m").config, "hidden_dropout_prob": 0.0}
    model = create("dnabert2", config, head="none", pooling="mean-all").eval()
    model.tokenizer = BpeTokenizer.from_published({"tokenizer.json": VOCABULARY.read_text(encoding="utf-8")})
    return model


def _write_ids(model: Model, count: int, path: Path) -> None:
    rows = [model.tokenizer.encode(sequence) for sequence in _sequences(count)]
    np.savez(path, ids=np.concatenate(rows), lengths=np.array([len(row) for row in rows]))


def _embed(folder: Path, count: int) -> None:
    """Answers "first stop" on every line of standard input with one round."""
    torch.set_num_threads(THREADS)
    model, sequences = _model(), _sequences(count)
    embed(model, sequences[:1])  # compiles the kernels
    rate = _rate(model)
    for line in sys.stdin:
        first, stop = map(int, line.split())
        begin = time.perf_counter()
        vectors = embed(model, sequences[first:stop]).vectors
        seconds = time.perf_counter() - begin
        np.save(folder / "ours.npy", vectors)
        rate = max(rate, _rate(model))
        lengths = [len(model.tokenizer.encode(sequence)) for sequence in sequences[first:stop]]
        print(json.dumps({"seconds": seconds, "floor": _flops(model, lengths) / rate, "peak_gib": _peak()}), flush=True)


def _flops(model: Model, lengths: list[int]) -> float:
    """Of matrix products and attention products."""
    config = model.spec.config
    width, inner = config.hidden_size, config.intermediate_size
    linear = 2 * sum(lengths) * (4 * width * width + 3 * width * inner)
    attention = sum(4 * length * length * width for length in lengths)
    return float(config.num_hidden_layers * (linear + attention))


def _rate(model: Model) -> float:
    """Operations a second, at best."""
    weight = model.backbone.blocks[0].mlp.gated_layers.weight  # type: ignore[union-attr]
    assert isinstance(weight, torch.Tensor)
    x = torch.randn(4096, weight.shape[1])
    best = float("inf")
    with torch.inference_mode():
        for _ in range(4):
            begin = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best = min(best, time.perf_counter() - begin)
    return 2 * x.numel() * weight.shape[0] / best


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# tokens


def _tokens() -> list[dict[str, Any]]:
    kept = {**os.environ, "RAYON_NUM_THREADS": "1"}

    def work(kind: str) -> dict[str, Any]:
        command = [sys.executable, __file__, "--work", kind]
        done = subprocess.run(command, env=kept, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    ours, library, long = work("ours"), work("library"), work("long")
    assert ours["ids"] == library["ids"], "the ids differ"
    ratio = library["seconds"] / ours["seconds"]
    return [
        {
            "case": f"BPE of a record of {WHOLE_BP:,} bases",
            "ours Mbp/s": round(WHOLE_BP / ours["seconds"] / 1e6, 2),
            "peer Mbp/s": round(WHOLE_BP / library["seconds"] / 1e6, 2),
            "times faster": round(ratio, 2),
            "at least": 1.0,
            "met": ratio >= 1,
        },
        {
            "case": f"BPE of a record of {LONG_BP:,} bases",
            "ours Mbp/s": round(LONG_BP / long["seconds"] / 1e6, 2),
            "ours GiB": round(long["peak_gib"], 2),
            "at most": 1.0,
            "met": long["peak_gib"] < 1,
        },
    ]


def _tokenise(kind: str) -> None:
    tokenizer = BpeTokenizer.from_published({"tokenizer.json": VOCABULARY.read_text(encoding="utf-8")})
    letters = upper(next(iter(read_records(SLICE))).sequence)
    tokenizer.encode(letters[:1000])
    seq = np.resize(letters, LONG_BP) if kind == "long" else letters[:WHOLE_BP]
    before, times = _peak(), []
    for _ in range(1 if kind == "long" else 5):
        begin = time.perf_counter()
        if kind == "library":
            text = seq.tobytes().decode("ascii")
            ids = np.array(tokenizer._library.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        else:
            ids = tokenizer.encode(seq, special=False)
        times.append(time.perf_counter() - begin)
    checksum = int((ids.astype(np.int64) * (np.arange(len(ids)) % 997 + 1)).sum())
    print(json.dumps({"seconds": float(np.median(times)), "ids": [len(ids), checksum], "peak_gib": _peak() - before}))


# workers


def _worker(command: list[str], side: str) -> "subprocess.Popen[str]":
    # the peer keeps the threads' default way of waiting, which suits a program with one thread pool
    kept = {key: value for key, value in os.environ.items() if side == "ours" or key != "OMP_WAIT_POLICY"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept)


def _ask(worker: "subprocess.Popen[str]", line: str) -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()
    answer: dict[str, Any] = json.loads(worker.stdout.readline())
    return answer


if __name__ == "__main__":
    main()
