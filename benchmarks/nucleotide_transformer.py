"""The Nucleotide Transformer beside the ESM classes of transformers, and the rate of 6-mer tokenisation."""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import chargaff
from chargaff.model import Model
from chargaff.tokenizers.kmer import KmerTokenizer
from chargaff.workflows.embed import EmbedOptions, embed

THREADS, SEQUENCES, PIECE = 2, 500, 100
SHORTEST_BP, LONGEST_BP = 200, 5_000
V1_LAYERS, V1_BATCH, V1_TOKENS, V1_PASSES = 4, 4, 500, 7
BASE = {
    "attention_probs_dropout_prob": 0.0,
    "emb_layer_norm_before": False,
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "mask_token_id": 2,
    "model_type": "esm",
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
V2_50M = {
    **BASE,
    "vocab_size": 4107,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "intermediate_size": 2048,
    "max_position_embeddings": 2050,
    "position_embedding_type": "rotary",
    "token_dropout": False,
    "add_bias_fnn": False,
}
V1 = {
    **BASE,
    "vocab_size": 4105,
    "hidden_size": 1280,
    "num_hidden_layers": V1_LAYERS,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
    "max_position_embeddings": 1002,
    "position_embedding_type": "absolute",
    "token_dropout": True,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=SEQUENCES, help="fewer, for a quick look")
    args = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    rows = [_ragged(args.sequences), _v1(), *_tokenisation()]
    notes = [
        f"{THREADS} threads, float32; both sides in turn, a process each; weights are random, the same on both",
        f"ragged: {args.sequences} random sequences, lengths log-uniform from {SHORTEST_BP} to {LONGEST_BP:,} bp, in "
        "random order; mean of the final states behind <cls>. The peer is transformers' EsmModel with the gated "
        "feed-forward part of v2 put in, in batches of 8 padded to their longest, from token ids; ours is `embed` from "
        f"letters, tokenisation included. Times faster: median of the ratios of pieces of {PIECE} sequences, each read "
        "by both in turn",
        f"v1: logits of {V1_BATCH} x {V1_TOKENS} tokens without padding, {V1_LAYERS} layers of the 500M's 24; medians",
        "tokenisation: one thread; median of five",
    ]
    args.json.write_text(json.dumps({"rows": rows, "notes": notes}))


class Peer:
    """The other side, in its own process."""

    def __init__(self, folder: Path, config: dict[str, Any], ids: np.ndarray, lengths: np.ndarray) -> None:
        self.folder = folder
        (folder / "config.json").write_text(json.dumps(config))
        np.save(folder / "ids.npy", ids)
        np.save(folder / "lengths.npy", lengths)
        script = Path(__file__).parent / "peers" / "nucleotide_transformer.py"
        command = [os.environ["CHARGAFF_PEERS_PYTHON"], str(script), str(folder), str(THREADS)]
        # the peer keeps the threads' default way of waiting, which suits a program with one thread pool
        kept = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept)

    def ask(self, *words: object) -> tuple[float, np.ndarray]:
        """Seconds of a pass, and its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        seconds = json.loads(self._process.stdout.readline())["seconds"]
        return float(seconds), np.load(self.folder / "peer.npy")

    def model(self) -> Model:
        """Ours, with the weights the peer wrote."""
        return chargaff.load(self.folder / "model.safetensors", device="cpu")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _ragged(num: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    length_bp = np.exp(rng.uniform(np.log(SHORTEST_BP), np.log(LONGEST_BP), num)).astype(int)
    letters = [np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, length)] for length in length_bp]
    tokenizer = KmerTokenizer(6, "v2")
    encoded = [tokenizer.encode(sequence) for sequence in letters]
    lengths = np.array([len(row) for row in encoded])
    ids = np.ones((num, int(lengths.max())), np.int64)
    for row, found in zip(ids, encoded, strict=True):
        row[: len(found)] = found
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder), V2_50M, ids, lengths)
        peer.ask("part", 0, 2)
        model = peer.model()
        embed(model, letters[:2])
        for first in range(0, num, PIECE):
            stop = min(first + PIECE, num)
            spent, expected = peer.ask("part", first, stop)
            begin = time.perf_counter()
            found = embed(model, letters[first:stop], EmbedOptions(window_bp=LONGEST_BP)).vectors
            seconds["ours"].append(time.perf_counter() - begin)
            seconds["peer"].append(spent)
            worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
        peer.close()
    total = int(length_bp.sum())
    ratio = float(np.median(np.divide(seconds["peer"], seconds["ours"])))
    return {
        "case": f"v2-50M, {num} sequences of mixed length",
        "ours bp/s": round(total / sum(seconds["ours"])),
        "peer bp/s": round(total / sum(seconds["peer"])),
        "times faster": round(ratio, 2),
        "at least": 1.5,
        "relative difference": f"{worst:.1e}",
        "met": ratio >= 1.5 and worst < 1e-4,
    }


def _v1() -> dict[str, Any]:
    ids = np.random.default_rng(1).integers(4, 4104, (V1_BATCH, V1_TOKENS))
    ids[:, 0] = 3
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder), V1, ids, np.full(V1_BATCH, V1_TOKENS))
        peer.ask("logits", 1, 50)
        model, tokens = peer.model(), torch.from_numpy(ids)
        for _ in range(V1_PASSES):
            spent, expected = peer.ask("logits", V1_BATCH, V1_TOKENS)
            times["peer"].append(spent)
            with torch.inference_mode():
                begin = time.perf_counter()
                logits = model(tokens).logits
                times["ours"].append(time.perf_counter() - begin)
        peer.close()
    assert logits is not None
    worst = float(np.abs(logits.numpy() - expected).max() / np.abs(expected).max())
    ours, theirs = (float(np.median(times[name])) for name in ("ours", "peer"))
    return {
        "case": "v1, logits",
        "ours s": round(ours, 3),
        "peer s": round(theirs, 3),
        "times faster": round(theirs / ours, 2),
        "at least": 1.0,
        "relative difference": f"{worst:.1e}",
        "met": theirs >= ours and worst < 1e-5,
    }


def _tokenisation() -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    whole = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 20_000_000)].copy()
    with_n = whole.copy()
    with_n[1_000_000:3_000_000] = ord("N")
    rows = []
    for case, letters in (("6-mers, 20 Mbp", whole), ("6-mers, 20 Mbp, a tenth in a run of N", with_n)):
        tokenizer, times = KmerTokenizer(6, "v2"), []
        tokenizer.encode(letters)
        for _ in range(5):
            begin = time.perf_counter()
            tokenizer.encode(letters)
            times.append(time.perf_counter() - begin)
        rate = len(letters) / float(np.median(times)) / 1e6
        rows.append({"case": case, "Mbp/s": round(rate), "at least": 100, "met": rate >= 100})
    return rows


if __name__ == "__main__":
    main()
