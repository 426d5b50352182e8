"""The cards of the annotators that come with the package, as text made of their training records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GOAL, GOAL_ELEMENTS = 0.05, 4
"""MCC above the baseline, on so many elements."""


@dataclass(frozen=True, slots=True)
class Annotator:
    """What a card says that no run has recorded."""

    organism: str
    recipe: str
    """Run file, in `examples/annotator`."""
    split: str
    limits: str
    region: tuple[str, str] = ("", "")
    """Sequence and annotation of a held-out place, in `examples/data`."""
    before: tuple[str, ...] = ()
    """Run files trained before that one, each on the model of the one before it; hours and curve are of the last."""


ANNOTATORS = {
    "chargaff-segment-mini": Annotator(
        "Ustilago maydis",
        "fungus.toml",
        """\
*Ustilago maydis* 521 (Kaemper et al. 2006, MIPS annotation), 22 chromosomes. Trained on chr01 to chr10 without chr03,
where the annotation is out of phase with the sequence; the best weights and the thresholds were chosen on chr11 to
chr13; chr14 to chr23 were read once, for the table above. Introns, splice sites, start and stop codons are derived from
the coding parts of each transcript.""",
        """\
It knows one fungus. Elsewhere, even in related species, splice signals and codon use differ: fine-tune it on an
annotation of your own genome. Coding parts only: the annotation has no untranslated regions, so that introns in them
count as errors of the model. Calls are stretches of bases, no gene models: nothing sees to it that they begin with a
start codon, end with a stop codon and keep a reading frame, as a gene finder would.""",
        ("umaydis.fa.gz", "umaydis.gff3.gz"),
    ),
    "chargaff-segment-human-mini": Annotator(
        "Homo sapiens",
        "human.toml",
        """\
Human GRCh37, chromosome 20, GENCODE exons. Trained on the chromosome without 20:1-11 Mb, which was read for the figures
above only; a tenth of the other windows, in blocks of neighbours, chose the best weights and the thresholds (the model
has begun with splice sites of the whole rest of the chromosome). Genes, introns and splice sites are derived from the
exons of each transcript.""",
        """\
It has seen one chromosome of one genome and reads windows of 4,096 bp: for splice sites of human genes SpliceAI, beside
which it stands above, is far better. No exon or splice site reaches a probability of one half, so that calls are made
at the thresholds, with many false ones among them. A base that is exon in one transcript and intron in another counts
as both. Genes are longer than its window: what it says about `gene` and `intron` is hardly more than the content of the
sequence tells (the baseline). Calls are stretches of bases, no gene models.""",
        before=("examples/runs/splice.toml", "examples/annotator/human_sites.toml"),
    ),
}


def card(record: dict[str, Any]) -> str:
    """Markdown."""
    about = ANNOTATORS[record["name"]]
    parts = [
        f"# {record['name']}",
        _summary(record, about),
        "## Held-out figures",
        _held_out(record),
        verdict(record["held_out"]),
        _references(record["references"]),
        _reproduce(record, about),
        _region(record),
        "## Data",
        about.split + _held_out_list(record),
        _data(record["data"]),
        "## Training",
        _training(record, about),
        "## Limits",
        about.limits,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(record: dict[str, Any], about: Annotator) -> str:
    return f"""\
A small annotator of *{about.organism}*: [{record["backbone"]}]({record["backbone"]}.md)
with a head that gives every base a probability for each of {len(record["elements"])} elements, fine-tuned as a whole.
It comes with the package:

```sh
chargaff segment {record["name"]} genome.fa -o annotation
```

| | |
|---|---|
| elements | {", ".join(f"`{name}`" for name in record["elements"])} |
| parameters | {record["parameters"]:,}, {record["megabytes"]:.1f} MB |
| reads windows of | {record["window_bp"]:,} bp; contigs of any length, windows overlap and are blended |
| strands | equivariant: the reverse complement has the same answers, mirrored, strands swapped |
| licence | Apache-2.0 |"""


def _held_out(record: dict[str, Any]) -> str:
    chosen = record["baseline"]["chosen_on_validation"]
    windows = ", ".join(f"{kind} {found['window_bp']:,} bp" for kind, found in chosen.items())
    rows = [
        f"| `{name}` | {row['mcc']:.3f} | {row['auprc']:.3f} | {row['mcc_at_threshold']:.3f} ({row['threshold']:.2f}) "
        f"| {row['baseline_mcc']:.3f} | {row['baseline_auprc']:.3f} "
        f"| {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) |"
        for name, row in record["held_out"].items()
    ]
    text = f"""\
Per base and strand, on {record["test_bases"]:,} bases that no training has seen: Matthews correlation at probability
0.5, area under precision and recall, and MCC at the threshold that was best on the validation windows (in brackets);
these thresholds come with the model, and `chargaff segment` calls at them unless told otherwise.
The baseline is a logistic regression for each element on how often each 3- to 6-mer stands in a window around the base,
with the same labels and split. Its window, penalty and threshold were chosen on the validation windows, too; windows:
{windows}.
Difference: of MCC, both at their chosen thresholds, with a 95 % interval from a bootstrap over blocks of 50 kb.

| element | MCC | auPRC | MCC at threshold | baseline MCC | baseline auPRC | difference |
|---|---|---|---|---|---|---|
"""
    return text + "\n".join(rows)


def verdict(held_out: dict[str, Any]) -> str:
    """How the figures stand to the goal."""
    above = [name for name, row in held_out.items() if row["difference"] >= GOAL]
    clear = [name for name in above if held_out[name]["low"] > 0]
    reached = "reached" if len(above) >= GOAL_ELEMENTS else "missed"
    others = [f"`{name}`" for name in held_out if name not in above]
    return (
        f"The goal, at least {GOAL} MCC above the baseline on at least {GOAL_ELEMENTS} elements, is {reached}: "
        f"{len(above)} of {len(held_out)} elements, {len(clear)} of them with an interval above zero"
        + (f"; not {', '.join(others)}." if others else ".")
    )


def _references(references: list[dict[str, Any]]) -> str:
    """Tables of gene finders that were trained on these bases."""
    parts = []
    for found in references:
        where = f"{', '.join(found['places'])}, " if found["places"] else ""
        ours = found.get("model", {}).get("test", {})
        has_area = any("auprc" in row for row in found["test"].values())
        head = f"| element | {found['reference']}: MCC |" + (" auPRC |" if has_area else "")
        head += " this model: MCC |" + (" auPRC |" if has_area else "") if ours else ""
        rows = []
        for name, row in found["test"].items():
            scores = [row, *([ours[name]] if ours else [])]
            cells = [f"{one[key]:.3f}" for one in scores for key in (("mcc", "auprc") if has_area else ("mcc",))]
            rows.append(f"| `{name}` | {' | '.join(cells)} |")
        rule = "|" + "---|" * (head.count("|") - 1)
        parts.append(
            f"For orientation, {found['reference']} on {where}{found['test_bases']:,} bases. Not held out: trained on "
            f"{found['trained_on']}.\n\n" + "\n".join([head, rule, *rows])
        )
    return "\n\n".join(parts)


def _reproduce(record: dict[str, Any], about: Annotator) -> str:
    run = f"examples/annotator/{about.recipe}"
    return f"""\
```sh
python examples/annotator/data.py -o annotator
python examples/annotator/baseline.py {run} -o baseline.json
python examples/annotator/evaluate.py {record["name"]} {run} --baseline baseline.json -o heldout.json
```"""


def _region(record: dict[str, Any]) -> str:
    found = record.get("region")
    if found is None:
        return ""
    shown = ", ".join(f"`{name}` {row['mcc']:.3f}" for name, row in found["test"].items())
    return f"MCC on the record {found['record']} of `examples/data/{found['fasta']}`, at the thresholds: {shown}."


def _held_out_list(record: dict[str, Any]) -> str:
    if record["leaves_out_listed_places"]:
        return (
            " Windows that touch a place of the project's held-out list (`examples/data/holdout.tsv.gz`) were left out."
        )
    return (
        " The short places of the project's held-out list (`examples/data/holdout.tsv.gz`) that lie among the training "
        "contigs were not left out: do not judge this model on them."
    )


def _data(rows: list[dict[str, str]]) -> str:
    lines = [f"| {row['content']} | {row['package']} | `{row['sha256']}` |" for row in rows]
    return "\n".join(["| data | package | sha256 |", "|---|---|---|", *lines])


def _training(record: dict[str, Any], about: Annotator) -> str:
    curve = record["curve"]
    rows = [
        f"| {step:,.0f} | {mcc:.3f} | {area:.3f} |"
        for step, mcc, area in zip(curve["step"], curve["mcc"], curve["auprc"], strict=True)
    ]
    commands = [*about.before, " ".join([f"examples/annotator/{about.recipe}", *record["overrides"]])]
    shown = "\n".join(f"chargaff finetune {words}" for words in commands)
    first = f"{len(commands)} runs, each on the model of the one before; the last: seed" if about.before else "Seed"
    return f"""\
{first} {record["seed"]}, {record["steps"]:,} steps, {record["hours"]:.1f} hours on {record["hardware"]};
the weights of step {record["kept_step"]:,} were kept. The weight file of the backbone, which may have been replaced by
a better one since, had the SHA-256 sum `{record["backbone_sha256"]}`:

```sh
python examples/annotator/data.py -o annotator
{shown}
```

Mean over the elements on the validation windows read while training:

| step | MCC | auPRC |
|---|---|---|
""" + "\n".join(rows)
