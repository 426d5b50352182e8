"""Embeddings as a map: two coordinates for each record, groups found without labels, and how both agree with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import ConfigError, InputError
from chargaff.io.tables import column_names, read_table
from chargaff.optional import need
from chargaff.seq.kmers import distances

Floats = NDArray[np.float64]
Method = Literal["pca", "umap"]
_NEIGHBOUR_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Records in the plane."""

    points: Floats
    """[n, 2]"""
    axis_labels: tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """How far embeddings tell labels apart."""

    clusters: NDArray[np.int64]
    """[n] k-means cluster of each record, the largest first."""
    adjusted_rand: float
    """Of clusters and labels: 1 for the same grouping, 0 on average for a random one."""
    mutual_information: float
    """Of clusters and labels, normalised to 0..1."""
    neighbour_accuracy: float
    """Share of records whose nearest other record has the same label."""
    silhouette: float
    """Mean over records: near 1 where labels are compact and apart, below 0 where they overlap."""


def read_record_labels(path: Path, column: str, ids: Sequence[str]) -> tuple[str, ...]:
    """Label of each record, from a table with that column and a column "id" or "name".

    Raises:
        InputError: a column is missing, or a record is not in the table.
    """
    available = column_names(path)
    key = next((name for name in ("id", "name") if name in available), None)
    if key is None:
        raise InputError(f"{path}: no column 'id' or 'name' to find the records by (columns: {', '.join(available)})")
    table = read_table(path, [key, column], types={key: "text"})
    found = dict(zip(table[key].to_pylist(), table[column].to_pylist(), strict=True))
    missing = [name for name in ids if name not in found]
    if missing:
        raise InputError(f"{path}: no row for record {missing[0]!r} ({len(missing):,} of {len(ids):,} are missing)")
    return tuple(str(found[name]) for name in ids)


def standardise(vectors: Floats) -> Floats:
    """[n, D] with columns of mean 0 and variance 1; a constant column becomes 0."""
    spread = vectors.std(0)
    scaled: Floats = (vectors - vectors.mean(0)) / np.where(spread > 0, spread, 1)
    return scaled


def project(vectors: Floats, method: Method = "pca", *, seed: int = 0) -> Projection:
    """Two coordinates for each record, after standardising the columns.

    Raises:
        DependencyError: umap is asked for and not installed.
    """
    scaled = standardise(vectors)
    if method == "umap":
        umap = need("umap", extra="umap", feature="a UMAP of embeddings", package="umap-learn")
        neighbours = min(15, len(vectors) - 1)
        reducer = umap.UMAP(n_components=2, n_neighbors=neighbours, random_state=seed, n_jobs=1)
        return Projection(np.asarray(reducer.fit_transform(scaled), np.float64), ("UMAP 1", "UMAP 2"))
    if method != "pca":
        raise ConfigError(f"map: expected pca or umap, got {method!r}")
    from sklearn.decomposition import PCA

    if scaled.shape[1] < 2:
        raise InputError(f"embeddings have {scaled.shape[1]} column; a map needs at least 2")
    components = PCA(n_components=2, svd_solver="full").fit(scaled)
    first, second = components.explained_variance_ratio_
    labels = f"component 1 ({first:.0%} of variance)", f"component 2 ({second:.0%})"
    return Projection(components.transform(scaled), labels)


def compare_labels(vectors: Floats, labels: Sequence[str], *, clusters: int | None = None, seed: int = 0) -> Agreement:
    """k-means of the standardised embeddings, and how it and the nearest neighbours agree with the labels.

    Args:
        clusters: how many; None: as many as there are labels.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    names = np.asarray(labels, dtype=str)
    distinct = len(np.unique(names))
    count = clusters or distinct
    if not 2 <= count < len(names):
        raise ConfigError(f"clusters: expected 2 to {len(names) - 1} for {len(names)} records, got {count}")
    scaled = standardise(vectors)
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(scaled)
    by_size = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    place = np.argsort(by_size)
    is_grouped = 2 <= distinct < len(names)
    return Agreement(
        place[found].astype(np.int64),
        float(adjusted_rand_score(names, found)),
        float(normalized_mutual_info_score(names, found)),
        neighbour_accuracy(vectors, labels),
        float(silhouette_score(scaled, names)) if is_grouped else float("nan"),
    )


def neighbour_accuracy(vectors: Floats, labels: Sequence[str]) -> float:
    """Share of records whose nearest other record, after standardising the columns, has the same label."""
    scaled, names = standardise(vectors), np.asarray(labels, dtype=str)
    right = 0
    for first in range(0, len(scaled), _NEIGHBOUR_ROWS):
        block = slice(first, min(first + _NEIGHBOUR_ROWS, len(scaled)))
        apart = distances(scaled[block], scaled)
        rows = np.arange(block.stop - block.start)
        apart[rows, first + rows] = np.inf
        right += int((names[apart.argmin(1)] == names[block]).sum())
    return right / len(scaled)
