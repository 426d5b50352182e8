"""Masked and causal objectives: what is hidden, what is asked, and what an empty question costs."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from chargaff.data.batch import Batch
from chargaff.data.rng import SampleRng
from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.tasks import cross_entropy as module
from chargaff.tasks.causal_lm import CausalLM, next_tokens
from chargaff.tasks.cross_entropy import cross_entropy
from chargaff.tasks.masked_lm import MaskedLM, MaskingRule, mask_tokens
from chargaff.tokenizers.char import CharTokenizer

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "goldens/data/caduceus/training_cases.json").read_text(encoding="utf-8")
)
TOKENIZER = CharTokenizer.standard()
PAD, MASK = 4, 3
RNG = SampleRng(2222, 0)


def tokens(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(7, 12, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def batch_of(ids: torch.Tensor, mask: torch.Tensor | None = None) -> Batch:
    return Batch(ids, mask, None, torch.arange(len(ids)))


def test_masking_statistics_are_the_published_ones():
    expected = GOLDEN["mlm_masking"]
    ids = tokens(400, 1000)
    corrupted, target = mask_tokens(ids, torch.arange(400), RNG, MaskingRule(), mask_id=MASK, pad_id=PAD, num_ids=12)
    selected = target != PAD
    assert abs(float(selected.float().mean()) - expected["frac_target_not_pad"]) < 0.01
    masked, same = corrupted == MASK, corrupted == ids
    changed = ~masked & ~same
    # the published example draws random ids from 12, so one in twelve hits the mask or the original
    assert abs(float(masked[selected].float().mean()) - expected["of_selected_mask"]) < 0.01
    assert abs(float(changed[selected].float().mean()) - expected["of_selected_changed_to_other_than_mask"]) < 0.01
    assert abs(float(same[selected].float().mean()) - expected["of_selected_unchanged"]) < 0.01
    assert sorted(corrupted[selected].unique().tolist()) == expected["random_ids_seen"]
    assert torch.equal(target[selected], ids[selected])
    assert torch.equal(corrupted[~selected], ids[~selected])
    assert corrupted.dtype == target.dtype == torch.uint8


def test_padding_is_corrupted_but_never_asked():
    ids = torch.full((100, 80), PAD, dtype=torch.uint8)
    corrupted, target = mask_tokens(ids, torch.arange(100), RNG, MaskingRule(), mask_id=MASK, pad_id=PAD, num_ids=12)
    share = float((corrupted == MASK).float().mean())
    assert abs(share - GOLDEN["mlm_masking"]["pad_positions_get_masked_frac"]) < 0.01
    assert (target == PAD).all()


@pytest.mark.parametrize(("mask_fraction", "random_fraction"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.5, 0.25)])
def test_fractions_are_free(mask_fraction, random_fraction):
    ids = tokens(200, 500)
    rule = MaskingRule(0.3, mask_fraction, random_fraction)
    corrupted, target = mask_tokens(ids, torch.arange(200), RNG, rule, mask_id=MASK, pad_id=PAD, num_ids=12)
    selected = target != PAD
    expected = mask_fraction + random_fraction / 12
    assert abs(float((corrupted[selected] == MASK).float().mean()) - expected) < 0.02


def test_masking_depends_on_the_sample_and_epoch_only():
    ids = tokens(6, 50)
    index = torch.tensor([5, 9, 2, 30, 7, 1])

    def masked(rows: torch.Tensor, rng: SampleRng = RNG) -> torch.Tensor:
        return mask_tokens(ids[rows], index[rows], rng, MaskingRule(), mask_id=MASK, pad_id=PAD, num_ids=12)[0]

    whole = masked(torch.arange(6))
    assert torch.equal(masked(torch.tensor([4, 0])), whole[[4, 0]])
    assert not torch.equal(masked(torch.arange(6), SampleRng(2222, 1)), whole)


@pytest.mark.parametrize("n_as_pad", [True, False])
def test_unknown_bases_are_shown_as_padding_if_asked(n_as_pad):
    ids = torch.tensor([[7, 11, 11, 8]] * 200, dtype=torch.uint8)
    ready = MaskedLM(TOKENIZER, n_as_pad=n_as_pad).prepare(batch_of(ids), RNG, is_training=True)
    asked = ready.target[:, 1:3]
    assert bool((asked == 11).any()) == (not n_as_pad)
    assert bool((ready.tokens[:, 1:3] == PAD).any()) or not n_as_pad


def test_reverse_complement_is_for_training_only():
    ids = tokens(50, 31)
    task = MaskedLM(TOKENIZER, MaskingRule(1e-6), n_as_pad=False, rc_probability=1.0)
    assert torch.equal(task.prepare(batch_of(ids), RNG, is_training=False).tokens, ids)
    complement = torch.as_tensor(TOKENIZER.complement)
    assert torch.equal(task.prepare(batch_of(ids), RNG, is_training=True).tokens, complement[ids.int()].flip(1))


@pytest.mark.parametrize("add_eos", [True, False])
def test_causal_targets_are_the_published_ones(add_eos):
    """Items of the published data set: data and target, one hexadecimal digit a token."""
    for item in GOLDEN["hg38_intervals"]["items"]:
        for example in item["examples"]:
            data = torch.tensor([[int(digit, 16) for digit in example["data"]]], dtype=torch.uint8)
            expected = torch.tensor([[int(digit, 16) for digit in example["target"]]], dtype=torch.uint8)
            if not add_eos:
                expected[0, -1] = PAD
            ready = CausalLM(TOKENIZER, add_eos=add_eos).prepare(batch_of(data), RNG, is_training=True)
            assert torch.equal(ready.tokens, data)
            assert torch.equal(ready.target, expected)


def test_separator_follows_the_last_real_token_of_a_padded_row():
    ids = torch.tensor([[7, 8, PAD, PAD], [7, 8, 9, 10], [PAD, PAD, PAD, 7]], dtype=torch.uint8)
    target = next_tokens(ids, 1, ids != PAD)
    assert target.tolist() == [[8, 1, PAD, PAD], [8, 9, 10, 1], [PAD, PAD, 7, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_chunked_cross_entropy_is_cross_entropy(monkeypatch, dtype, weighted):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 50)  # chunks of three rows, the last one shorter
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(5, 7, 16, generator=generator)).to(dtype).requires_grad_()
    target = torch.randint(0, 12, (5, 7), generator=generator)
    weight = torch.rand(5, 7, generator=generator) if weighted else None
    loss, total = cross_entropy(logits, target, ignore=PAD, weight=weight)
    reference = logits.detach().double().requires_grad_()
    each = F.cross_entropy(reference.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="none")
    effective = (target.flatten() != PAD).double() * (1 if weight is None else weight.flatten().double())
    expected = (each * effective).sum() / effective.sum()
    (grad,), (wanted,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, reference)
    assert loss.dtype == torch.float32
    assert grad.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(total) == pytest.approx(float(effective.sum()), rel=1e-6)
    # a gradient in bfloat16 is rounded to 8 bits
    torch.testing.assert_close(grad.double(), wanted, rtol=8e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-8)


def test_cross_entropy_keeps_no_float32_copy_of_bfloat16_logits():
    logits = torch.zeros(3000, 16, dtype=torch.bfloat16, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        cross_entropy(logits, torch.zeros(3000, dtype=torch.uint8), ignore=PAD)
    assert all(tensor.dtype != torch.float32 or tensor.numel() <= 3000 for tensor in saved)


@pytest.mark.parametrize("variant", ["ph", "ps"])
def test_batch_without_a_question_has_zero_loss_and_no_nan(variant):
    model = create("caduceus", get_family("caduceus").tiny[variant], head="lm", seed=0)
    task = MaskedLM(model.tokenizer)
    ready = task.prepare(batch_of(torch.full((2, 9), 11, dtype=torch.uint8)), RNG, is_training=True)
    assert float(task.count(ready)) == 0
    out = task.loss(model, ready)
    out.loss.backward()
    assert out.loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
    metrics = task.metrics()
    model.eval()
    metrics.update(ready, task.loss(model, ready))
    assert metrics.compute() == {"loss": 0.0, "perplexity": 1.0, "accuracy": 0.0}


def test_metrics_are_weighted_by_positions():
    model = create("caduceus", get_family("caduceus").tiny["ph"], head="lm", seed=0).eval()
    task = MaskedLM(model.tokenizer, MaskingRule(0.5))
    ready = task.prepare(batch_of(tokens(7, 20)), RNG, is_training=False)
    whole, parts = task.metrics(), task.metrics()
    whole.update(ready, task.loss(model, ready))
    for begin, end in ((0, 1), (1, 7)):
        part = Batch(ready.tokens[begin:end], None, ready.target[begin:end], ready.index[begin:end])
        parts.update(part, task.loss(model, part))
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-5)
    merged = task.metrics()
    merged.merge([parts.state(), whole.state()])
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-5)


def test_models_that_cannot_are_refused():
    model = create("caduceus", get_family("caduceus").tiny["ph"], head="none", seed=0)
    for task in (MaskedLM(TOKENIZER), CausalLM(TOKENIZER)):
        with pytest.raises(ConfigError, match=r"task\.kind: .*needs a model with a language-model head"):
            task.head(model)
    with pytest.raises(ConfigError, match=r"task\.probability: expected more than 0"):
        MaskedLM(TOKENIZER, MaskingRule(0.0))
