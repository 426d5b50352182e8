"""`chargaff report`: one HTML file about runs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from chargaff.errors import ConfigError


def run(
    *runs: Path,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    title: str = "",
    name: str = "",
    baselines: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    kmers: Annotated[bool, Parameter(negative="")] = False,
    embeddings: Path | None = None,
    labels: str | None = None,
    label_table: Path | None = None,
    projection: Literal["pca", "umap"] = "pca",
    clusters: int | None = None,
    groups: str = "",
    references: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    repeats: int = 1000,
    unfinished: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Report on runs in one HTML file that needs no network.

    RUNS are folders that `chargaff pretrain` and `chargaff finetune` have
    written. The report shows how they trained, and for a fine-tuned model the
    test scores with confidence intervals, ROC and precision-recall curves,
    confusion and calibration (for values: residuals), beside baselines. Of a
    model that labels single bases it shows the scores of each element. Each
    figure also lies beside it as SVG and PNG, the scores as report.json.

    Args:
        runs: run folders.
        output: folder for report.html and its figures. [default: report/ in the first run's folder]
        title: of the page.
        name: of the fine-tuned model beside the baselines. [default: the run's folder]
        baselines: NAME=SOURCE ..., a fine-tuning folder or a table of predictions for the same test rows.
        kmers: fit a logistic regression on k-mer frequencies of the run's data, as one more baseline.
        embeddings: table that `chargaff embed` has written, drawn as a map.
        labels: column of --label-table (or of the embeddings' table) that colours the map.
        label_table: table with that column and a column "id" or "name".
        projection: pca, or umap (needs the package umap-learn).
        clusters: groups that k-means looks for in the embeddings. [default: as many as there are labels]
        groups: column of the test table; the bootstrap draws all rows of a group together.
        references: NAME=LOSS ..., drawn beside the loss of pre-training.
        repeats: bootstrap replicates.
        unfinished: report what there is of a run that has not ended.
    """
    from chargaff.workflows.report import MapSource, ReportOptions, write_report

    if embeddings is None and (labels or label_table or clusters):
        raise ConfigError("report: --labels, --label-table and --clusters belong to --embeddings, which is missing")
    if label_table is not None and labels is None:
        raise ConfigError("labels: which column of --label-table?")
    maps = []
    if embeddings is not None:
        maps.append(MapSource(embeddings, labels or (), label_table, method=projection, clusters=clusters))
    options = ReportOptions(
        title=title,
        name=name,
        groups=groups,
        references={key: _number(key, value) for key, value in _pairs("references", references).items()},
        repeats=repeats,
        is_unfinished_allowed=unfinished,
    )
    sources = {key: Path(value) for key, value in _pairs("baselines", baselines).items()}
    written = write_report(runs, output, baselines=sources, has_kmers=kmers, maps=maps, options=options)
    print(written.page)


def _pairs(flag: str, words: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"--{flag} {word!r}: expected NAME=VALUE")
        if name in found:
            raise ConfigError(f"--{flag}: {name!r} is given twice")
        found[name] = value
    return found


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--references {name}={text}: expected a number") from None
