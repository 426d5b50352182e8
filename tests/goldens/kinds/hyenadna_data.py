"""json.dataset.hg38, .species, .chromatin, .genomic_benchmark, json.optimizer.hyenadna."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import MismatchError

from chargaff.data.long_windows import (
    LabelledWindows,
    RegionWindows,
    SpeciesWindows,
    fixed_windows,
    legal_starts,
    species_chromosomes,
)
from chargaff.data.readers import read_class_folder
from chargaff.hub.load import create
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import to_string
from chargaff.seq.interval import Interval
from chargaff.tasks.prompt import few_shot_prompt
from chargaff.tokenizers.char import CharTokenizer
from chargaff.train.config import OptimSpec
from chargaff.train.optim import parameter_groups
from chargaff.train.schedules import cosine_schedule

PAD, SEP = 4, 1


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise MismatchError(f"{what}: {found!r}, expected {expected!r}")


@contextmanager
def _genome(contigs: Mapping[str, str]) -> Iterator[Genome]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "genome.fa"
        path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in contigs.items()))
        yield Genome(path, keep_case=True)


def _ids(letters: str, max_length: int, *, add_eos: bool, n_as_pad: bool = False, side: Any = "left") -> list[int]:
    tokenizer = CharTokenizer.hyenadna("training", padding_side=side)
    options: dict[str, Any] = {"padding": "max_length", "max_length": max_length, "truncation": True}
    ids = tokenizer.encode_text(letters, add_special_tokens=add_eos, **options).input_ids
    n = tokenizer.vocab.index("N")
    return [PAD if n_as_pad and token == n else token for token in ids]


def hg38(values: dict[str, Any]) -> None:
    rows = [line.split("\t") for line in values["bed"].splitlines() if line.strip()]
    with _genome(values["fasta"]) as genome:
        for case in values.get("cases", []):
            regions = [Interval(row[0], int(row[1]), int(row[2])) for row in rows if row[3] == case["split"]]
            length, fill = case["max_length"], case["pad_interval"]
            windows = RegionWindows(genome, regions, window_bp=length, fill_ends=fill)
            letters = to_string(windows[case["index"]].views[0])
            where = f"{case['split']} {case['index']} at {length}"
            if "sequence" in case:  # the published loader may fill a cut interval further; the tokenizer drops that
                _same(letters, case["sequence"][:length], f"letters of {where}")
            ids = _ids(letters, length, add_eos=case["add_eos"], n_as_pad=case["replace_N_token"])
            _same(ids[:-1], case["input_ids"], f"ids of {where}")
            _same(ids[1:], case["target_ids"], f"targets of {where}")
        fixed = values.get("fixed")
        if fixed is None:
            return
        ranges = {name: (start, end) for name, (start, end) in fixed["chr_ranges"].items()}
        found = list(fixed_windows(ranges, fixed["max_length"]))
        _same(len(found), len(fixed["cases"]), "number of fixed windows")
        for interval, case in zip(found, fixed["cases"], strict=True):
            _same([interval.contig, interval.start, interval.end], case["interval"], "fixed window")
            letters = to_string(genome[interval]).upper()
            ids = [*_ids(letters, fixed["max_length"], add_eos=False, n_as_pad=True), SEP]
            _same(ids[:-1], case["input_ids"], f"ids of {interval}")
            _same(ids[1:], case["target_ids"], f"targets of {interval}")


def species(values: dict[str, Any]) -> None:
    for name, splits in values.get("chromosome_splits", {}).items():
        for split, expected in splits.items():
            _same(list(species_chromosomes(name, split)), expected, f"{split} chromosomes of {name}")
    with tempfile.TemporaryDirectory() as folder:
        genomes = {}
        for name, contigs in values["genome"].items():
            path = Path(folder) / f"{name}.fa"
            path.write_text("".join(f">{contig}\n{sequence}\n" for contig, sequence in contigs.items()))
            genomes[name] = Genome(path)
        for case in values.get("cases", []):
            _species_case(genomes, case, values["max_length"])


def _species_case(genomes: Mapping[str, Genome], case: dict[str, Any], length: int) -> None:
    tail = case["cutoff"] if case["remove_tail_ends"] else 0.0
    contigs = {name: genome.contigs for name, genome in genomes.items()}
    source = SpeciesWindows(genomes, contigs, length, 1, tail_fraction=tail, cut_at_last_start=True)
    place = case["species"], case["chromosome"], case["start"]
    contig_bp = genomes[place[0]].lengths[place[1]]
    _same(list(legal_starts(contig_bp, length, tail, as_published=True)), case["start_range"], f"starts on {place}")
    example = source.sample(*place)
    is_classes = case["task"] == "species_classification"
    letters = to_string(example.views[0])
    # the published loader makes max_length + 1 tokens with the separator, or max_length without, and drops the last
    ids = _ids(letters, length + case["add_eos"], add_eos=case["add_eos"])
    _same(ids[:-1], case["input_ids"], f"ids of {place}")
    _same(example.target if is_classes else ids[1:], case["target"], f"target of {place}")


def chromatin(values: dict[str, Any]) -> None:
    with _genome(values["fasta"]) as genome, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coords_targets.csv"
        path.write_text(values["csv"])
        for case in values.get("cases", []):
            windows = LabelledWindows(genome, path, window_bp=case["max_length"])
            index, where = case["index"], f"row {case['index']} at {case['max_length']}"
            example = windows[index]
            ids = CharTokenizer.hyenadna("training").encode(example.views[0]).tolist()
            start = int(windows.start[index])
            _same([start, start + case["max_length"]], case["window"], f"window of {where}")
            _same(len(ids), case["n_tokens"], f"tokens of {where}")
            _same(ids[: len(case["first_ids"])], case["first_ids"], f"first ids of {where}")
            _same(ids[-len(case["last_ids"]) :], case["last_ids"], f"last ids of {where}")
            _same(sum(ids), case["id_sum"], f"sum of ids of {where}")
            _same(example.target.astype(int).tolist(), [int(label) for label in case["target"]], f"target of {where}")


def genomic_benchmark(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in values["files"].items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        tables = {
            split: read_class_folder(Path(folder) / split) for split in {name.split("/")[0] for name in values["files"]}
        }
        for case in values.get("cases", []):
            table, row = tables[case["split"]], case["index"]
            tokenizer = CharTokenizer.hyenadna("training", padding_side=case["padding_side"])
            found = tokenizer.encode_text(
                to_string(table[row].views[0]),
                add_special_tokens=case["add_eos"],
                padding="max_length",
                max_length=case["max_length"],
                truncation=True,
            )
            where = f"{case['split']} {row}"
            _same(found.input_ids, case["input_ids"], f"ids of {where}")
            _same([int(table[row].target)], case["target"], f"class of {where}")
            if "mask" in case:
                _same([int(flag) for flag in found.attention_mask], case["mask"], f"mask of {where}")
        if "icl" in values:
            _in_context(tables["train"], values["icl"])


def _in_context(table: Any, case: dict[str, Any]) -> None:
    length = case["max_length"]
    tokenizer = CharTokenizer.hyenadna("training")
    names = {int(label): tokenizer.vocab.index(token) for label, token in case["label_to_token"].items()}
    sequences = [tokenizer.encode(table[row].views[0], special=False).astype(np.int64) for row in range(len(table))]
    labels = [names[int(table[row].target)] for row in range(len(table))]
    rows = [torch.from_numpy(ids) for ids in sequences]
    options = {"max_length": length, "pad_id": PAD, "sep_id": SEP}
    for sample in case["samples"]:
        row = sample["index"]
        _same(few_shot_prompt([], rows[row], **options).tolist(), sample["sequence_ids"], f"sample {row}")
        _same([labels[row], SEP], sample["target_ids"], f"label of sample {row}")
    example = case["example"]
    ids = example["input_ids"]
    _same(len(ids), example["n_tokens"], "tokens of the example")
    shown = [ids[start : start + length] for start in range(0, len(ids) - length - 1, length + 3)]
    padded = [few_shot_prompt([], row, **options)[:-1].tolist() for row in rows]
    order = [padded.index(piece) for piece in shown]  # drawn at random
    query = example["index"]
    _same(query in order or len(set(order)) < len(order), False, "the query or a sequence is shown twice")
    _same(set(Counter(labels[row] for row in order).values()), {example["shots"]}, "examples of each class")
    prompt = few_shot_prompt([(rows[row], labels[row]) for row in order], rows[query], **options)
    _same(prompt.tolist(), ids, "prompt")
    _same([labels[query]], example["target"], "answer")


def optimizer(values: dict[str, Any]) -> None:
    for case in values.get("optimizer_groups", []):
        _groups(case)
    for case in values.get("schedules", []):
        for step, expected in enumerate(case["lr_at_step"]):
            for base, rate in zip(case["base_lrs"], expected, strict=True):
                schedule = cosine_schedule(
                    base,
                    horizon_steps=case["t_initial"],
                    warmup_steps=case["warmup_t"],
                    warmup_lr=case["warmup_lr_init"],
                    min_lr=case["lr_min"],
                    after_warmup=False,
                )
                if abs(schedule(step) - rate) > 1e-9 * abs(rate):
                    raise MismatchError(f"learning rate of step {step}: {schedule(step)!r}, expected {rate!r}")


def _groups(case: dict[str, Any]) -> None:
    names = set(case["groups"])
    depth = 1 + max(int(name.split(".")[2]) for name in names if name.startswith("backbone.layers."))
    layer = {"l_max": 66, "emb_dim": 5, "filter_order": 16, "w": 10, **case["layer"]}
    config = {"d_model": 16, "n_layer": depth, "d_inner": 32, "pad_vocab_size_multiple": 8, "layer": layer}
    model = create("hyenadna", config)
    spec = OptimSpec(**case["optimizer"], decay_all=not case["param_grouping_hook"])
    found = {}
    for group in parameter_groups(model, spec):
        rate = spec.lr if group["own_lr"] is None else group["own_lr"]
        for name in group["names"]:
            found[name] = {"lr": rate, "weight_decay": group["weight_decay"]}
    _same(found, case["groups"], "rates of parameters")


KINDS = {
    "json.dataset.hg38": hg38,
    "json.dataset.species": species,
    "json.dataset.chromatin": chromatin,
    "json.dataset.genomic_benchmark": genomic_benchmark,
    "json.optimizer.hyenadna": optimizer,
}
