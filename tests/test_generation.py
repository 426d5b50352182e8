"""Sampling: what the carried state gives is what full forward passes give, and seeds decide everything else."""

import pytest
import torch

from chargaff.errors import ConfigError, InputError
from chargaff.families import get_family
from chargaff.generation import Sampling, repeat_state
from tests.contract.tiny import VARIANTS, relative_error, tiny_model


def has_state(family: str, variant: str) -> bool:
    kind = get_family(family)
    with torch.device("meta"):
        return hasattr(kind.backbone(kind.config.from_json(kind.tiny[variant])), "forward_chunk")


STATEFUL = [variant for variant in VARIANTS if has_state(*variant)]


@pytest.fixture(params=STATEFUL, ids=["-".join(variant) for variant in STATEFUL])
def model(request):
    return tiny_model(*request.param)


@torch.no_grad()
def test_likeliest_letters_are_those_of_full_forward_passes(model):
    letters = "ACGT"
    allowed = torch.tensor([model.tokenizer.vocab.index(letter) for letter in letters])
    prompt = "ACGTTGCANAC"
    ids = torch.tensor([[model.tokenizer.vocab.index(letter) for letter in prompt]])
    for _ in range(12):
        choice = model(ids).logits[:, -1, allowed].argmax(-1)
        ids = torch.cat([ids, allowed[choice].unsqueeze(0)], 1)
    expected = "".join(model.tokenizer.vocab[token] for token in ids[0, len(prompt) :].tolist())
    assert model.generate(prompt, length=12, temperature=0) == [expected]


@torch.no_grad()
def test_a_repeated_state_continues_every_row_alike(model):
    tokens = torch.randint(7, 11, (1, 9))
    _, state = model.backbone.forward_chunk(tokens, model.backbone.init_state(1))
    following = torch.randint(7, 11, (3, 1))
    together, _ = model.backbone.forward_chunk(following, repeat_state(state, 3))
    for row in range(3):
        alone, _ = model.backbone.forward_chunk(following[row : row + 1], state)
        assert relative_error(together.hidden[row : row + 1], alone.hidden) < 1e-5


def test_a_sequence_does_not_depend_on_how_many_are_sampled(model):
    many = model.generate("acg", length=20, num=5, seed=3)
    assert model.generate("ACG", length=20, num=2, seed=3) == many[:2]
    assert len(set(many)) == 5
    assert model.generate("ACG", length=20, num=5, seed=4) != many
    assert all(set(sequence) <= set("ACGT") and len(sequence) == 20 for sequence in many)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}])
def test_a_narrow_choice_is_the_likeliest_letter(model, options):
    assert model.generate("ACGT", length=10, **options) == model.generate("ACGT", length=10, temperature=0)


def test_generation_leaves_the_mode_alone(model):
    model.train()
    model.backbone.blocks[0].eval()
    model.generate("A", length=2)
    assert model.training
    assert not model.backbone.blocks[0].training


def test_letters_come_as_often_as_their_probability_says():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = Sampling(temperature=2.0).choose(logits.expand(len(draws), -1), draws)
    found = torch.bincount(chosen, minlength=4) / len(draws)
    assert torch.allclose(found, (logits[0] / 2).softmax(0), atol=0.01)


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.6}, {0}), ({"top_p": 0.7}, {0, 1}), ({"top_k": 3, "top_p": 0.9}, {0, 1})],
)
def test_top_k_and_top_p_keep_the_likeliest(options, kept):
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])  # 0.64, 0.24, 0.09, 0.03
    draws = torch.linspace(0, 1 - 1e-9, 500, dtype=torch.float64)
    assert set(Sampling(**options).choose(logits.expand(500, -1), draws).tolist()) == kept


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        Sampling(**options)


def test_what_cannot_be_generated_is_said():
    llama = tiny_model("llama", "causal")
    with pytest.raises(InputError, match=r"prompt: 1 .*'X'"):
        llama.generate("ACGX", length=5)
    with pytest.raises(InputError, match="empty"):
        llama.generate("", length=3)
    with pytest.raises(ConfigError, match="100 \\+ 29 letters are more than the 128"):
        llama.generate("A" * 100, length=29)
    with pytest.raises(ConfigError, match="no tokens for the letters"):
        llama.generate("A", length=3, letters="AX")
    with pytest.raises(ConfigError, match="needs a causal language model"):
        tiny_model("caduceus", "ph").generate("A", length=3)
    with pytest.raises(ConfigError, match="needs a causal language model"):
        tiny_model("llama", "bidirectional").generate("A", length=3)
