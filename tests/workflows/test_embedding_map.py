"""Maps of embeddings: known axes, groups that are there, and labels joined by name."""

import numpy as np
import pytest

from chargaff.errors import ConfigError, InputError
from chargaff.workflows.embedding_map import compare_labels, neighbour_accuracy, project, read_record_labels


def groups(rows: int = 60, apart: float = 8.0) -> tuple[np.ndarray, list[str]]:
    number = np.arange(rows) % 3
    vectors = np.random.default_rng(0).normal(size=(rows, 5)) + apart * np.eye(5)[number]
    return vectors, [f"group {k}" for k in number]


def test_principal_components_of_a_known_ellipse():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    along, across = 3 * np.cos(angle), np.sin(angle)
    found = project(np.stack([along + across, along - across, np.full(400, 7.0)], axis=1))
    scale = np.sqrt(2) / np.std(along + across)
    np.testing.assert_allclose(np.abs(found.points[:, 0]), np.abs(along) * scale, atol=1e-9)
    np.testing.assert_allclose(np.abs(found.points[:, 1]), np.abs(across) * scale, atol=1e-9)
    assert found.axis_labels == ("component 1 (90% of variance)", "component 2 (10%)")


def test_groups_that_are_there_are_found():
    vectors, labels = groups()
    found = compare_labels(vectors[:, :3], labels)  # the columns that tell the groups apart
    assert found.adjusted_rand == found.mutual_information == found.neighbour_accuracy == 1
    assert found.silhouette > 0.7
    assert sorted(np.bincount(found.clusters)) == [20, 20, 20]


def test_labels_without_a_pattern_agree_by_chance():
    vectors, labels = groups(300, apart=0)
    found = compare_labels(vectors, labels)
    # three equally frequent labels: a third of the neighbours agree, give or take 0.03
    assert abs(found.adjusted_rand) < 0.05
    assert 0.2 < found.neighbour_accuracy < 0.47


def test_neighbours_do_not_depend_on_the_block(monkeypatch):
    vectors, labels = groups(61, apart=1.5)
    whole = neighbour_accuracy(vectors, labels)
    monkeypatch.setattr("chargaff.workflows.embedding_map._NEIGHBOUR_ROWS", 7)
    assert neighbour_accuracy(vectors, labels) == whole


def test_clusters_must_fit_the_records():
    vectors, labels = groups(6)
    for count in (1, 6):
        with pytest.raises(ConfigError, match=f"expected 2 to 5 for 6 records, got {count}"):
            compare_labels(vectors, labels, clusters=count)


def test_labels_are_joined_by_name(tmp_path):
    (tmp_path / "x.csv").write_text("name,kind\n2,two\n1,one\n")
    assert read_record_labels(tmp_path / "x.csv", "kind", ["1", "2", "1"]) == ("one", "two", "one")
    with pytest.raises(InputError, match=r"no row for record '3' \(1 of 2 are missing\)"):
        read_record_labels(tmp_path / "x.csv", "kind", ["1", "3"])
    (tmp_path / "y.csv").write_text("kind\ntwo\n")
    with pytest.raises(InputError, match="no column 'id' or 'name'"):
        read_record_labels(tmp_path / "y.csv", "kind", ["1"])
