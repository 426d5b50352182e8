"""Sequence tasks: losses by hand, the right head, settings that make no sense."""

import pytest
import torch
import torch.nn.functional as F

from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.errors import ConfigError, InputError
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.model import Model
from chargaff.tasks.sequence import SequenceTask, infer_problem
from chargaff.tokenizers.char import CharTokenizer
from chargaff.tokenizers.kmer import KmerTokenizer
from chargaff.train.heads import attach_head

TOKENIZER = CharTokenizer.standard()
TARGETS = {
    "single-label": torch.tensor([0, 2, 1, 2]),
    "multi-label": torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]),
    "regression": torch.tensor([[0.5, 1, -1], [2, 0, 0], [1, 1, 1], [0, -3, 2]]),
}


def model_with(task: SequenceTask, variant: str = "ph") -> Model:
    model = create("caduceus", get_family("caduceus").tiny[variant], head="none", seed=0)
    torch.manual_seed(0)
    attach_head(model, task)
    return model


def batch_for(target: torch.Tensor, mask: torch.Tensor | None = None) -> Batch:
    tokens = torch.randint(7, 11, (len(target), 9), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Batch(tokens, mask, target, torch.arange(len(target)))


@pytest.mark.parametrize(
    ("problem", "loss"),
    [
        ("single-label", F.cross_entropy),
        ("multi-label", F.binary_cross_entropy_with_logits),
        ("regression", F.mse_loss),
    ],
)
def test_loss_is_the_usual_one(problem, loss):
    task = SequenceTask(TOKENIZER, 3, problem)
    model, batch = model_with(task), batch_for(TARGETS[problem])
    out = task.loss(model.eval(), batch)
    assert torch.allclose(out.loss, loss(out.outputs, batch.target))
    assert task.loss(model.train(), batch).outputs is None


def test_one_value_per_row_is_a_column():
    task = SequenceTask(TOKENIZER, 1, "regression")
    model, batch = model_with(task), batch_for(torch.tensor([1.0, 2.0, 3.0]))
    out = task.loss(model.eval(), batch)
    assert torch.allclose(out.loss, ((out.outputs[:, 0] - batch.target) ** 2).mean())


def test_class_weights_and_the_count_they_are_a_mean_over():
    task = SequenceTask(TOKENIZER, 3, class_weights=(1.0, 2.0, 5.0))
    model, batch = model_with(task), batch_for(TARGETS["single-label"])
    out = task.loss(model.eval(), batch)
    each = F.cross_entropy(out.outputs, batch.target, reduction="none")
    weights = torch.tensor([1.0, 5.0, 2.0, 5.0])
    assert torch.allclose(out.loss, (each * weights).sum() / weights.sum())
    assert out.count.item() == task.count(batch).item() == 13.0


@pytest.mark.parametrize("counts_padding", [True, False])
def test_padding_is_pooled_only_if_asked(counts_padding):
    task = SequenceTask(TOKENIZER, 3, counts_padding=counts_padding)
    model = model_with(task).eval()
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[:, :3] = False
    batch = batch_for(TARGETS["single-label"], mask)
    hidden = model.encode(batch.tokens).hidden
    pooled = hidden.mean(1) if counts_padding else hidden[:, 3:].mean(1)
    torch.testing.assert_close(task.predict(model, batch), model.head.linear(pooled), rtol=1e-5, atol=1e-6)


def test_unknown_bases_can_be_shown_as_in_pretraining():
    batch = batch_for(torch.tensor([0, 1]))
    batch.tokens[0, 2] = 11
    for n_as_pad, expected in ((False, 11), (True, TOKENIZER.pad_id)):
        task = SequenceTask(TOKENIZER, 2, n_as_pad=n_as_pad)
        assert task.prepare(batch, SampleRng(0, 0), is_training=True).tokens[0, 2] == expected


@pytest.mark.parametrize(
    ("num_outputs", "target", "problem"),
    [
        (1, torch.tensor([1.0]), "regression"),
        (1, torch.tensor([1]), "regression"),
        (3, torch.tensor([1]), "single-label"),
        (3, torch.tensor([[1.0, 0, 0]]), "multi-label"),
    ],
)
def test_problem_is_inferred_as_transformers_does(num_outputs, target, problem):
    assert infer_problem(num_outputs, target) == problem


def test_fitting_head_is_kept_and_another_replaced():
    task = SequenceTask(TOKENIZER, 3)
    model = model_with(task)
    head = model.head
    attach_head(model, task, ("a", "b", "c"))
    assert model.head is head
    assert model.spec.labels == ("a", "b", "c")
    attach_head(model, SequenceTask(TOKENIZER, 2))
    assert model.head is not head
    assert model.spec.head_options["num_outputs"] == 2
    assert model.spec.labels == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_outputs": 1}, "1 is too few for single-label"),
        ({"num_outputs": 3, "class_weights": (1.0, 2.0)}, "2 for 3 classes"),
        ({"num_outputs": 3, "problem": "regression", "class_weights": (1.0,) * 3}, "only for single-label"),
        ({"num_outputs": 3, "conjoin_train": True, "rc_probability": 0.5}, "no use beside conjoin_train"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        SequenceTask(TOKENIZER, **options)


def test_positions_are_those_of_bases():
    with pytest.raises(ConfigError, match="none needs one token per base"):
        SequenceTask(KmerTokenizer.for_vocabulary(73), 2, pooling="none", positions=9)


def test_an_oriented_head_tells_a_sequence_from_its_reverse_complement():
    for is_oriented in (False, True):
        task = SequenceTask(TOKENIZER, 3, is_oriented=is_oriented)
        model, batch = model_with(task, "ps").eval(), batch_for(TARGETS["single-label"])
        one, other = model(batch.tokens).logits, model(model.reverse_complement(batch.tokens)).logits
        assert torch.allclose(one, other, atol=1e-5) is not is_oriented
        assert task.head(model) is None
        # turned round, the two views change places
        if is_oriented:
            first, second = model.head.linear.weight.chunk(2, -1)
            model.head.linear.weight = torch.nn.Parameter(torch.cat([second, first], -1))
            assert torch.allclose(model(model.reverse_complement(batch.tokens)).logits, one, atol=1e-5)


def test_a_model_that_reads_one_strand_is_oriented_without_a_word():
    with pytest.raises(ConfigError, match="oriented is for models that see both strands at once"):
        model_with(SequenceTask(TOKENIZER, 3, is_oriented=True), "ph")


def test_a_head_that_keeps_positions_weighs_each_apart():
    task = SequenceTask(TOKENIZER, 3, pooling="none", positions=9)
    model, batch = model_with(task, "ps").eval(), batch_for(TARGETS["single-label"])
    encoded = model.encode(batch.tokens)
    weight, bias = model.head.linear.weight.view(3, 9, -1), model.head.linear.bias
    strands = encoded.hidden, encoded.hidden_rc.flip(1)
    expected = sum(torch.einsum("btd,ctd->bc", hidden, weight) + bias for hidden in strands) / 2
    assert torch.allclose(model(batch.tokens).logits, expected, atol=1e-5)
    assert torch.allclose(model(model.reverse_complement(batch.tokens)).logits, expected, atol=1e-5)
    assert task.head(model) is None
    assert SequenceTask(TOKENIZER, 3, pooling="none", positions=8).head(model) is not None
    with pytest.raises(InputError, match="weighs 9 positions apart; got a sequence of 8"):
        model(batch.tokens[:, :8])


def test_padding_has_no_say_in_a_head_that_keeps_positions():
    task = SequenceTask(TOKENIZER, 3, pooling="none", positions=9)
    model, batch = model_with(task).eval(), batch_for(TARGETS["single-label"])
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[:, 6:] = False
    found = model.head(model.encode(batch.tokens), mask)
    expected = model.head.linear.weight.view(3, 9, -1)[:, :6]
    hidden = model.encode(batch.tokens).hidden[:, :6]
    assert torch.allclose(found, torch.einsum("btd,ctd->bc", hidden, expected) + model.head.linear.bias, atol=1e-5)
