"""chargaff data: known data sets, checks of local copies, and the making of new ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from chargaff.cli.main import ExitCode

app = App(name="data", help="Data sets: list the known ones, check a local copy, prepare tables.")
prepare = app.command(App(name="prepare", help="Make the tables of a data set."))

Output = Annotated[Path, Parameter(alias="-o")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
Overwrite = Annotated[bool, Parameter(negative="", show_default=False)]
Words = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
TableFormat = Literal["parquet", "tsv", "tsv.gz"]


@app.command(name="list")
def list_known(
    name: str | None = None, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """List the known data sets, or describe one: its files, and where to get them.

    Args:
        name: A data set, as suite/task or just the task.
        as_json: Print JSON.
    """
    from chargaff.workflows.data import describe_known

    rows = describe_known(name)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif name is not None:
        _print_description(rows[0])
    else:
        header = ("name", "train", "test", "classes", "max bp", "metric", "layout")
        _print_table([header, *(_summary(row) for row in rows)])


@app.command
def check(
    *paths: Path,
    dataset: str | None = None,
    format: str | None = None,
    sequence: str = "sequence",
    label: Words = (),
    kind: Literal["class", "value", "multi-label"] = "class",
    as_json: AsJson = False,
) -> ExitCode:
    """Check a data set: counts, lengths, letters, classes, and sequences that occur twice on either strand.

    Every path is one split (chargaff data check train.csv test.csv). Exit code 3 if there are problems.

    Args:
        paths: Tables, FASTA files, or folders with a folder per class; with --dataset, the one folder it lies in.
        dataset: Compare with this known data set.
        format: Layout of the files (see `chargaff data list`), if their names do not tell.
        sequence: Column of the sequences in tables.
        label: Column of the labels in tables; repeatable.
        kind: What the labels are.
        as_json: Print JSON.
    """
    from chargaff.errors import ConfigError
    from chargaff.workflows.data import check_files, check_known

    if not paths:
        raise ConfigError("name at least one file or folder to check")
    if dataset is None:
        report = check_files(paths, format=format, sequence=sequence, label=label, kind=kind)
    elif len(paths) > 1:
        raise ConfigError(f"--dataset takes one folder, got {len(paths)} paths")
    else:
        report = check_known(dataset, paths[0])
    found = report.to_json()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print_check(found)
    return ExitCode.PARTIAL if report.problems else ExitCode.DONE


@prepare.command(name="known")
def prepare_known(
    name: str,
    root: Path,
    /,
    *,
    output: Output,
    seed: int = 1,
    format: TableFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Turn a local copy of a known data set into train, valid and test tables.

    Args:
        name: The data set, as suite/task or just the task.
        root: The folder its files lie in.
        output: New folder.
        seed: Seed of the validation split, which follows the rule of the data set's authors.
        format: Format of the tables.
        overwrite: Replace an existing folder.
    """
    from chargaff.workflows.data import prepare_known as run

    counts = run(name, root, output, seed=seed, format=format, overwrite=overwrite)
    _print_table([("split", "rows"), *((split, f"{count:,}") for split, count in counts.items())])


@prepare.command(name="splice")
def prepare_splice(
    *,
    genome: Path,
    gtf: Path,
    output: Output,
    window_bp: int = 400,
    test_regions: Words = (),
    exclude: Path | None = None,
    exclude_species: str | None = None,
    valid_fraction: float = 0.1,
    valid_block_bp: int = 1_000_000,
    neither_ratio: float = 1.0,
    decoy_fraction: float = 0.8,
    max_train_per_class: int | None = None,
    max_eval_per_class: int | None = None,
    seed: int = 0,
    format: TableFormat = "parquet",
    overwrite: Overwrite = False,
) -> None:
    """Cut splice donor, acceptor and neither windows from a genome and its exons.

    Windows are centred on the site and read in transcript direction. Writes the tables train, valid and test with the
    columns sequence, label, contig, start, end (0-based, end exclusive), strand, and dataset.json.

    Args:
        genome: FASTA file.
        gtf: Exons of its transcripts, GTF or GFF3.
        output: New folder.
        window_bp: Window length, even.
        test_regions: Test windows lie wholly inside these, all others wholly outside: 20:1000001-11000000. Repeatable.
        exclude: BED or table of places that no training or validation window may touch.
        exclude_species: Use only the rows of that table with this species.
        valid_fraction: Share of validation windows among those outside the test regions.
        valid_block_bp: Validation windows come in whole blocks of this length.
        neither_ratio: Neither windows per donor or acceptor.
        decoy_fraction: Share of them with GT or AG where a site would have it, from the same genes.
        max_train_per_class: Keep at most this many training windows of each class.
        max_eval_per_class: The same for validation and test.
        seed: Seed of every random choice.
        format: Format of the tables.
        overwrite: Replace an existing folder.
    """
    from chargaff.workflows.splice import SpliceSpec
    from chargaff.workflows.splice import prepare_splice as run

    report = run(
        genome,
        gtf,
        output,
        spec=SpliceSpec(window_bp, neither_ratio, decoy_fraction, seed=seed),
        test_regions=test_regions,
        exclude=exclude,
        exclude_species=exclude_species,
        valid_fraction=valid_fraction,
        valid_block_bp=valid_block_bp,
        max_train_per_class=max_train_per_class,
        max_eval_per_class=max_eval_per_class,
        format=format,
        overwrite=overwrite,
    )
    classes = next(iter(report.rows.values()))
    rows = [(split, *(f"{counts[name]:,}" for name in classes)) for split, counts in report.rows.items()]
    _print_table([("split", *classes), *rows])
    for name, shares in report.dinucleotides.items():
        print(f"{name}: " + ", ".join(f"{pair} {share:.1%}" for pair, share in list(shares.items())[:3]))
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items() if count)
    print(f"windows left out: {left_out or 'none'}")


def _summary(row: dict[str, Any]) -> tuple[str, ...]:
    counts = [f"{row['rows'][split]:,}" for split in ("train", "test")]
    return (row["name"], *counts, str(len(row["classes"])), str(row["max_length_bp"]), row["metric"], row["format"])


def _print_description(row: dict[str, Any]) -> None:
    suite = row["suite"]
    lines = [
        ("name", row["name"]),
        ("suite", suite["title"]),
        ("source", suite["source"]),
        ("paper", suite["paper"]),
        ("licence", suite["licence"]),
        ("to get it", suite["get"]),
        ("layout", row["format"]),
        *((split, f"{path} ({row['rows'][split]:,} sequences)") for split, path in row["files"].items()),
        ("classes", ", ".join(row["classes"])),
        ("lengths", ", ".join(f"{key} {value}" for key, value in row["length_bp"].items()) or "not recorded"),
        (
            "authors use",
            f"the first {row['max_length_bp']} bp, {row['metric']}, {row['valid_fraction']:.0%} for validation",
        ),
    ]
    _print_table(lines)


def _print_check(found: dict[str, Any]) -> None:
    for split, facts in found["splits"].items():
        shortest, median, longest = facts["length_bp"]
        print(split)
        lines = [
            ("  rows", f"{facts['rows']:,}"),
            ("  lengths", f"{shortest:,} to {longest:,} bp, median {median:,}"),
            ("  classes", ", ".join(f"{name} {count:,}" for name, count in facts["classes"].items()) or "none"),
            ("  other letters", ", ".join(f"{k} {v:,}" for k, v in facts["unknown_bases"].items()) or "none"),
            ("  repeated", f"{facts['repeated']:,} rows"),
        ]
        _print_table(lines)
    for sentence in found["problems"]:
        print(f"problem: {sentence}")
    if not found["problems"]:
        print("no problems")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns padded to their widest entry; the last one is left as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
