"""Per-base elements: the loss is the sheet's, the other strand means the mirrored labels, scores are the known ones."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, matthews_corrcoef

from chargaff.data.annotated import AnnotatedWindows
from chargaff.data.annotation import Annotation
from chargaff.data.batch import NOT_LABELLED, Batch
from chargaff.data.loader import Collate, TokenRule
from chargaff.data.rng import SampleRng
from chargaff.data.sources import open_windows
from chargaff.errors import ConfigError
from chargaff.hub.load import create
from chargaff.tasks.protocol import LossOut
from chargaff.tasks.segmentation import BINS, SegmentationTask, best_step, element_logits
from chargaff.train.heads import attach_head
from chargaff.train.module import split_rows

ELEMENTS, OPPOSITE = ("gene+", "gene-", "repeat"), (1, 0, 2)
TINY = {"d_model": 16, "n_layer": 2, "vocab_size": 12}


@pytest.fixture(params=[True, False], ids=["ps", "ph"])
def model(request):
    made = create("caduceus", {**TINY, "rcps": request.param}, seed=1)
    torch.manual_seed(0)
    attach_head(made, SegmentationTask(made.tokenizer, ELEMENTS, OPPOSITE), ELEMENTS)
    return made.eval()


def batch_of(model, length=24, rows=3):
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(7, 11, (rows, length)).astype(np.uint8))
    target = torch.from_numpy(rng.integers(0, 2, (rows, length, 3)).astype(np.uint8))
    return Batch(tokens, None, target, torch.arange(rows))


def task_of(model, **options):
    return SegmentationTask(model.tokenizer, ELEMENTS, OPPOSITE, **options)


def test_cross_entropy_and_focal_loss_are_their_formulas(model):
    batch = batch_of(model)
    batch.target[0, :5] = NOT_LABELLED
    logits = task_of(model).predict(model, batch)
    both = torch.stack([torch.zeros_like(logits), logits], -1).log_softmax(-1)
    counts = batch.target != NOT_LABELLED
    log_p = both.gather(-1, torch.where(counts, batch.target, 0).long().unsqueeze(-1)).squeeze(-1)[counts]
    plain = task_of(model, objective="cross-entropy").loss(model, batch)
    assert plain.loss.item() == pytest.approx(-log_p.mean().item(), rel=1e-5)
    assert plain.count == counts.sum()
    focal = task_of(model, gamma=2.0).loss(model, batch)
    assert focal.loss.item() == pytest.approx((-((1 - log_p.exp()) ** 2) * log_p).mean().item(), rel=1e-4)


def test_rows_count_as_much_as_they_weigh(model):
    batch = batch_of(model)
    task = task_of(model)
    each = [task.loss(model, part).loss.item() for part in split_rows(batch, 1)]
    batch.weight = torch.tensor([2.0, 0.5, 0.5])
    found = task.loss(model, batch)
    assert found.loss.item() == pytest.approx(np.mean([2 * each[0], each[1] / 2, each[2] / 2]), rel=1e-5)
    assert found.count == batch.target.numel()
    assert [part.weight.tolist() for part in split_rows(batch, 2)] == [[2.0, 0.5], [0.5]]


def test_positive_weights_weigh_the_inside_and_leave_probabilities_as_they_are(model):
    batch = batch_of(model)
    task = task_of(model, objective="cross-entropy", positive_weights=(3.0, 1.0, 0.5))
    logits, truth = task.predict(model, batch).double(), batch.target.double()
    weight = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    p = (logits + weight.log()).sigmoid()
    expected = -(truth * weight * p.log() + (1 - truth) * (1 - p).log()).mean()
    assert task.loss(model, batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ConfigError, match="1 for 3 elements"):
        task_of(model, positive_weights=(1.0,))


@pytest.mark.parametrize("weight", [1.0, 50.0])
def test_the_best_constant_answer_is_the_share_whatever_the_weight(weight):
    model = create("caduceus", {**TINY, "rcps": False}, seed=1)
    attach_head(model, SegmentationTask(model.tokenizer, ELEMENTS, OPPOSITE), ELEMENTS)
    batch = batch_of(model, rows=8)
    batch.target[..., 0] = (torch.arange(batch.target[..., 0].numel()) % 16 == 0).view(8, -1)
    task = task_of(model, objective="cross-entropy", positive_weights=(weight, 1.0, 1.0))
    torch.nn.init.zeros_(model.head.linear.weight)
    bias = model.head.linear.bias
    optimizer = torch.optim.LBFGS([bias], lr=0.5, max_iter=200, tolerance_grad=1e-10)

    def loss():
        optimizer.zero_grad()
        value = task.loss(model, batch).loss
        value.backward()
        return value

    optimizer.step(loss)
    assert bias[0].sigmoid().item() == pytest.approx(1 / 16, rel=1e-2)


def test_an_element_that_is_never_found_keeps_one_half():
    inside, outside = np.zeros((2, BINS), np.int64)
    inside[10], outside[900] = 5, 95  # the more probable, the less inside: calling everything is no answer
    assert best_step(inside, outside) == (BINS // 2, 0.0)
    inside[950] = 50
    assert best_step(inside, outside)[0] in range(901, 951)


def test_a_fresh_head_starts_from_the_shares():
    made = create("caduceus", TINY, seed=1)
    task = SegmentationTask(made.tokenizer, ELEMENTS, OPPOSITE, shares=(0.3, 0.3, 1e-4))
    attach_head(made, task, ELEMENTS)
    torch.testing.assert_close(made.head.linear.bias.sigmoid(), torch.tensor([0.3, 0.3, 1e-4]), rtol=1e-5, atol=0)
    with torch.no_grad():
        made.head.linear.bias.zero_()
    attach_head(made, task, ELEMENTS)
    assert (made.head.linear.bias == 0).all(), "a head that stays keeps its weights"


def test_the_other_strand_has_mirrored_labels_with_strands_swapped(model):
    batch = batch_of(model, rows=40)
    rng = SampleRng(seed=0, epoch=0)
    found = task_of(model, rc_probability=0.5).prepare(batch, rng, is_training=True)
    flipped = [row for row in range(40) if not torch.equal(found.tokens[row], batch.tokens[row])]
    assert 10 < len(flipped) < 30
    for row in range(40):
        expected = batch.target[row].flip(0)[:, list(OPPOSITE)] if row in flipped else batch.target[row]
        assert torch.equal(found.target[row], expected)
        if row in flipped:
            assert torch.equal(found.tokens[row][None], model.reverse_complement(batch.tokens[row : row + 1]))


def test_an_equivariant_model_gives_the_other_strand_the_swapped_elements():
    model = create("caduceus", {**TINY, "rcps": True}, seed=1)
    attach_head(model, task_of(model), ELEMENTS)
    model.eval()
    batch = batch_of(model)
    forward = model(batch.tokens).logits
    other = model(model.reverse_complement(batch.tokens)).logits
    assert torch.allclose(other.flip(1)[..., list(OPPOSITE)], forward, atol=1e-5)
    assert not torch.allclose(other.flip(1), forward, atol=1e-3)


def test_a_head_of_two_classes_gives_their_log_odds():
    logits = torch.randn(2, 5, 3, 2)
    assert torch.allclose(element_logits(logits).sigmoid(), logits.softmax(-1)[..., 1], atol=1e-6)
    assert element_logits(logits[..., 0]).shape == (2, 5, 3)


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    target = rng.integers(0, 2, (4, 300, 3)).astype(np.uint8)
    # probabilities in the middle of a step, so that counting in steps loses nothing
    probability = (rng.integers(0, 1024, target.shape) + 0.5) / 1024
    probability = np.where(rng.random(target.shape) < 0.5, probability, (probability + target) / 2 // (1 / 1024) / 1024)
    probability = np.clip(probability, 0.5 / 1024, 1 - 0.5 / 1024)
    metrics = SegmentationTask(create("caduceus", TINY, seed=1).tokenizer, ELEMENTS, OPPOSITE).metrics()
    for row in range(4):
        part = torch.from_numpy(target[row : row + 1])
        logits = torch.logit(torch.from_numpy(probability[row : row + 1]).float())
        metrics.update(
            Batch(part, None, part, torch.tensor([row])), LossOut(torch.tensor(0.5), torch.tensor(9.0), logits)
        )
    for number, found in enumerate(metrics.by_element().values()):
        truth, values = target[..., number].ravel(), probability[..., number].ravel()
        called = values >= 0.5
        assert found["mcc"] == pytest.approx(matthews_corrcoef(truth, called), abs=5e-3)
        assert found["f1"] == pytest.approx(f1_score(truth, called), abs=5e-3)
        assert found["jaccard"] == pytest.approx(jaccard_score(truth, called), abs=5e-3)
        assert found["auprc"] == pytest.approx(average_precision_score(truth, values), abs=2e-3)
        assert found["bases"] == truth.sum()
    assert metrics.compute()["loss"] == pytest.approx(0.5)


def test_windows_carry_the_labels_of_their_place(tmp_path, model):
    (tmp_path / "g.fa").write_text(">long\n" + "ACGT" * 30 + "\n>short\nGATTACA\n")
    spans = [(np.array([0, 1]), np.array([10, 2]), np.array([70, 4]))] * 3
    windows = open_windows(tmp_path / "g.fa", 50)
    source = AnnotatedWindows(windows, Annotation(ELEMENTS, spans))
    batch = Collate(model.tokenizer, TokenRule())(source.__getitems__(range(len(source))), np.arange(len(source)))
    assert batch.target.shape == (len(source), 50, 3)
    assert batch.target.dtype == torch.uint8
    assert batch.target[0, :, 0].nonzero().squeeze(1).tolist() == list(range(10, 50))
    assert batch.target[1, :, 0].nonzero().squeeze(1).tolist() == list(range(20))


def test_it_learns_where_an_element_is(tmp_path):
    """Bases of poly-A stretches: a tiny model finds them in a few steps."""
    from chargaff.train.config import TrainSpec
    from chargaff.train.fit import fit

    rng = np.random.default_rng(0)
    bases, starts = rng.choice(list("CGT"), 20_000), np.arange(100, 19_900, 200)
    for start in starts:
        bases[start : start + 60] = "A"
    (tmp_path / "g.fa").write_text(">one\n" + "".join(bases) + "\n")
    annotation = Annotation(["polyA"], [(np.zeros_like(starts), starts, starts + 60)])
    source = AnnotatedWindows(open_windows(tmp_path / "g.fa", 200), annotation)
    model = create("caduceus", {**TINY, "rcps": True}, seed=1)
    task = SegmentationTask(model.tokenizer, ("polyA",), (0,))
    spec = TrainSpec(max_steps=40, batch=8, seed=1, optim={"lr": 1e-2}, valid_every=40, monitor="mcc")
    result = fit(model, task, source, source, spec, tmp_path / "run", labels=("polyA",))
    assert result.metrics["mcc"] > 0.9
