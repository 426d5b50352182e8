"""json.training.caduceus: strand, schedules, masking, genome windows, variant positions, splits."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import MismatchError

from chargaff.data.rng import SampleRng
from chargaff.data.sources import GenomeWindows
from chargaff.data.splits import torch_split
from chargaff.data.variants import variant_index
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.seq.interval import Interval
from chargaff.tasks.causal_lm import next_tokens
from chargaff.tasks.masked_lm import MaskingRule, mask_tokens
from chargaff.tasks.token_loss import unknown_as_pad
from chargaff.tokenizers.char import CharTokenizer
from chargaff.train.schedules import cosine_schedule

PAD, MASK, SEP = 4, 3, 1


def training(values: dict[str, Any]) -> None:
    for name, check in _PARTS.items():
        if name in values:
            check(values[name])


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise MismatchError(f"{what}: {found!r}, expected {expected!r}")


def _reverse_complement(cases: list[dict[str, str]]) -> None:
    for case in cases:
        _same(to_string(reverse_complement(to_array(case["in"]))), case["out"], f"reverse complement of {case['in']!r}")


def _schedules(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        schedule = cosine_schedule(
            case["lr"],
            horizon_steps=case["t_initial"],
            warmup_steps=case["warmup_t"],
            warmup_lr=case["warmup_lr_init"],
            min_lr=case["lr_min"],
            after_warmup=case["warmup_prefix"],
        )
        for step, expected in case["lr_used_at_update"].items():
            found = schedule(int(step))
            if abs(found - expected) > 1e-9 * abs(expected):
                raise MismatchError(f"learning rate of {case['kind']} step {step}: {found!r}, expected {expected!r}")


def _masking(case: dict[str, Any]) -> None:
    """Fractions over random tokens, within 0.01."""
    index = torch.arange(case["n"] // 1000)
    tokens = torch.randint(7, 11, (len(index), 1000), generator=torch.Generator().manual_seed(0))
    tokens[:, :100] = PAD
    rule = MaskingRule(probability=case["seeded_example"]["mlm_probability"] if "seeded_example" in case else 0.15)
    data, target = mask_tokens(
        tokens, index, SampleRng(0, 0), rule, mask_id=MASK, pad_id=PAD, num_ids=len(case["random_ids_seen"])
    )
    selected, bases = target != PAD, tokens != PAD
    picked = data[selected]
    found = {
        "frac_target_not_pad": selected[bases].float().mean(),
        "of_selected_mask": (picked == MASK).float().mean(),
        "of_selected_changed_to_other_than_mask": ((picked != MASK) & (picked != tokens[selected])).float().mean(),
        "of_selected_unchanged": (picked == tokens[selected]).float().mean(),
        "pad_positions_get_masked_frac": (data[:, :100] == MASK).float().mean(),
    }
    for name, value in found.items():
        if name in case and abs(float(value) - case[name]) > 0.01:
            raise MismatchError(f"masking: {name} is {float(value):.4f}, expected {case[name]:.4f}")
    if "random_ids_seen" in case:
        _same(sorted(set(picked.tolist())), sorted(case["random_ids_seen"]), "ids that replace others")
    if case.get("target_equals_base_where_selected"):
        _same(bool((target == tokens)[selected].all()), True, "target equals the base where selected")


def _intervals(case: dict[str, Any]) -> None:
    tokenizer = CharTokenizer.standard()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "genome.fa"
        path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in case["fasta"].items()))
        genome = Genome(path)
        for item in case["items"]:
            regions = [
                Interval(contig, start, min(end, len(case["fasta"][contig])))
                for contig, start, end, split in case["bed"]
                if split == item["split"]
            ]
            windows = GenomeWindows.over_regions(
                genome, regions, window_bp=item["max_length"], parent_bp=case["parent_length"]
            )
            _same(len(windows), item["len"], f"items of {item['split']} at {item['max_length']}")
            for example in item["examples"]:
                ids = torch.from_numpy(tokenizer.encode(windows[example["idx"]].views[0], special=False)).long()
                data = unknown_as_pad(ids.unsqueeze(0), tokenizer)
                target = next_tokens(data, SEP)
                where = f"{item['split']} {item['max_length']} item {example['idx']}"
                _same(_hex(data), example["data"], f"data of {where}")
                _same(_hex(target), example["target"], f"target of {where}")


def _hex(ids: torch.Tensor) -> str:
    return "".join(f"{token:x}" for token in ids.flatten().tolist())


def _variants(cases: list[dict[str, Any]]) -> None:
    complement = CharTokenizer.standard().complement
    assert complement is not None
    for case in cases:
        ref, alt = np.array(case["ref"]), np.array(case["alt"])
        _same(variant_index(ref, alt), case["variant_idx"], f"variant position of {case['alt']}")
        other = variant_index(complement[ref][::-1], complement[alt][::-1], is_reverse=True)
        _same(other, case["rc_variant_idx"], f"variant position of {case['alt']} on the other strand")


def _splits(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        valid, train = torch_split(case["n"], case["seed"])
        where = f"split of {case['n']} rows with seed {case['seed']}"
        _same(len(valid), case["n_val"], f"validation rows of the {where}")
        _same(len(train), case["n_train"], f"training rows of the {where}")
        _same(valid[: len(case["val_indices"])].tolist(), case["val_indices"], f"validation of the {where}")
        _same(train[: len(case["train_head"])].tolist(), case["train_head"], f"training of the {where}")


_PARTS = {
    "reverse_complement": _reverse_complement,
    "lr_schedules": _schedules,
    "mlm_masking": _masking,
    "hg38_intervals": _intervals,
    "variant_index": _variants,
    "genomic_benchmark_split": _splits,
}

KINDS = {"json.training.caduceus": training}
