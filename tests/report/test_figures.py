"""Figures: written whole, with nothing cut off, equal for equal input; wrong input is named."""

import matplotlib.image
import numpy as np
import pytest

from chargaff.errors import InputError
from chargaff.report.figures import (
    plot_confusion,
    plot_loss,
    plot_points,
    plot_roc_pr,
    plot_sites,
    principal_components,
)

CLASSES = ("acceptor", "donor", "neither")


def draw_loss(path):
    steps = np.arange(0, 600, 10)
    curves = {"training": (steps, 1.3 + np.exp(-steps / 100)), "held-out slice": (steps[::10], 1.4 + 0 * steps[::10])}
    plot_loss(path, curves, title="Pre-training", y_label="nats per base", references={"base composition": 1.373})


def draw_roc_pr(path):
    rng = np.random.default_rng(3)
    target = rng.integers(0, 3, 90)
    scores = {name: rng.random((90, 3)) for name in ("Caduceus-PS, fine-tuned", "CNN", "k-mer logistic regression")}
    plot_roc_pr(path, target, scores, CLASSES, title="Held-out windows")


def draw_confusion(path):
    plot_confusion(path, np.array([[12000, 10, 3], [5, 9, 0], [0, 0, 0]]), CLASSES, title="Held-out windows")


def draw_points(path):
    points = np.random.default_rng(4).normal(size=(60, 2))
    labels = [f"Mycobacterium tuberculosis {i % 9}" for i in range(60)]
    plot_points(path, points, labels, title="Contigs", axis_labels=("PC 1", "PC 2"))


def draw_sites(path):
    rng = np.random.default_rng(5)
    panels = {kind: (np.arange(0, 6000, 30), rng.random(200), rng.random(200) < 0.1) for kind in ("donor", "acceptor")}
    plot_sites(path, panels, title="Sites of a gene", x_label="position in the gene (bp)")


DRAWINGS = [draw_loss, draw_roc_pr, draw_confusion, draw_points, draw_sites]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_nothing_is_cut_off(draw, tmp_path):
    path = tmp_path / "new folder" / "figure.png"
    draw(path)
    image = matplotlib.image.imread(path)[..., :3]
    height, width, _ = image.shape
    assert min(height, width) >= 500
    assert image.min() < 0.5
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    assert all((edge == 1).all() for edge in edges), "ink on the border: something reaches beyond the figure"


@pytest.mark.parametrize("draw", DRAWINGS)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_input_gives_an_equal_file(draw, suffix, tmp_path):
    draw(tmp_path / f"one{suffix}")
    draw(tmp_path / f"two{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_the_legend_gives_the_areas(tmp_path):
    target = np.array([0, 0, 1, 1, 1])
    scores = {"good": np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8]])}
    scores["half wrong"] = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.6, 0.4]])
    plot_roc_pr(tmp_path / "curves.svg", target, scores, ("no", "yes"), title="x")
    text = (tmp_path / "curves.svg").read_text()
    assert text.count("<!-- good: 1.000 -->") == 4
    # of the 6 pairs of one row of each class, 4 are in order
    assert text.count("<!-- half wrong: 0.667 -->") == 2


def test_plotting_leaves_the_style_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_loss(tmp_path / "loss.png")
    assert dict(matplotlib.rcParams) == before


def test_principal_components_of_a_known_ellipse():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    along, across = 3 * np.cos(angle), np.sin(angle)
    values = np.stack([along + across, along - across, np.full(400, 7.0)], axis=1)
    coordinates, share = principal_components(values)
    spread = values[:, 0].std()
    np.testing.assert_allclose(coordinates[:, 0], 2 * along / spread / np.sqrt(2), atol=1e-12)
    np.testing.assert_allclose(np.abs(coordinates[:, 1]), np.abs(2 * across) / spread / np.sqrt(2), atol=1e-12)
    np.testing.assert_allclose(share, [0.9, 0.1], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: plot_loss(path, {}, title="", y_label=""), "no curve to draw"),
        (lambda path: draw_loss(path.with_suffix(".jpeg")), "written as .png, .svg, .pdf"),
        (
            lambda path: plot_roc_pr(path, np.array([0, 1]), {"m": np.zeros((3, 2))}, ("a", "b"), title=""),
            r"scores of m are \(3, 2\), expected \(2, 2\)",
        ),
        (
            lambda path: plot_roc_pr(path, np.array([0, 0]), {"m": np.zeros((2, 2))}, ("a", "b"), title=""),
            "class a, 2 of 2",
        ),
        (lambda path: plot_confusion(path, np.zeros((2, 2), int), CLASSES, title=""), r"expected \(3, 3\)"),
        (
            lambda path: plot_points(path, np.zeros((2, 2)), ["a"], title="", axis_labels=("", "")),
            r"expected \(1, 2\)",
        ),
        (lambda path: plot_sites(path, {}, title="", x_label=""), "no panel to draw"),
        (lambda path: principal_components(np.zeros((1, 5))), r"at least 2 rows and columns, got \(1, 5\)"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(call, message, tmp_path):
    with pytest.raises(InputError, match=message):
        call(tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
