"""Cost estimates: counted operations are exact, memory and time have the right size, nothing is changed."""

import pytest
import torch
from torch import nn

from chargaff.families.protocol import InputRule
from chargaff.model import Model, ModelSpec
from chargaff.nn.encoded import Encoded
from chargaff.tokenizers.char import CharTokenizer
from chargaff.workflows.cost import (
    Workload,
    estimate_inference,
    estimate_training,
    format_bytes,
    format_seconds,
    free_memory_bytes,
    measure_gemm_rate,
)
from tests.workflows.toy import tiny_model

WIDTH, DEPTH = 32, 4


class Layers(nn.Module):
    """Plain linear layers, whose cost is known."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.rule = WIDTH, InputRule()
        self.words = nn.Embedding(12, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(self, tokens, mask=None, *, taps=()):
        x = self.words(tokens.int())
        for layer in self.layers:
            x = layer(x)
        return Encoded(x)


class Attention(Layers):
    def forward(self, tokens, mask=None, *, taps=()):
        x = self.words(tokens.int())
        return Encoded(x @ x.transpose(1, 2) @ x)


def plain(backbone: nn.Module) -> Model:
    return Model(ModelSpec("plain", None, "none"), backbone, None, CharTokenizer.standard())


def test_operations_are_counted_exactly():
    cost = estimate_inference(plain(Layers()), [Workload(3, 5000, times=7), Workload(1, 100)])
    tokens = 3 * 5000 * 7 + 100
    assert cost.tokens == tokens
    assert cost.gemm_flops == pytest.approx(2 * DEPTH * WIDTH * WIDTH * tokens, rel=1e-9)
    assert cost.parameters == 12 * WIDTH + DEPTH * (WIDTH * WIDTH + WIDTH)


def test_operations_of_attention_grow_with_the_square():
    cost = estimate_inference(plain(Attention()), [Workload(2, 50_000)])
    assert cost.gemm_flops == pytest.approx(2 * 2 * 2 * 50_000**2 * WIDTH, rel=1e-6)


def test_memory_of_inference_is_weights_and_two_activations():
    model = plain(Layers())
    cost = estimate_inference(model, [Workload(3, 5000)])
    activations = 2 * 3 * 5000 * WIDTH * 4
    assert activations < cost.peak_bytes < 1.2 * activations + 4 * cost.parameters + 100_000


def test_training_counts_three_passes_and_the_optimizer():
    model = plain(Layers())
    cost = estimate_training(model, batch_size=8, length_tokens=1000, num_steps=10)
    forward = 2 * DEPTH * WIDTH * WIDTH * 80_000
    assert 2.5 * forward < cost.gemm_flops <= 3 * forward
    assert cost.peak_bytes > 16 * cost.parameters + DEPTH * 8000 * WIDTH * 4


def test_time_and_memory_are_positive_for_a_real_model_in_both_dtypes():
    for dtype in (None, torch.bfloat16):
        cost = estimate_inference(tiny_model(), [Workload(4, 64, times=10)], dtype=dtype)
        assert cost.seconds > 0
        assert cost.floor_s > 0
        assert 0 < cost.peak_bytes < 100_000_000
        assert "time about" in str(cost)
        assert ("bfloat16" in str(cost)) == (dtype is not None)


def test_estimating_changes_nothing():
    model = tiny_model().train()
    state = torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    estimate_training(model, batch_size=2, length_tokens=40, num_steps=3)
    estimate_inference(model, [Workload(1, 40)])
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_to_do_costs_no_time():
    cost = estimate_inference(plain(Layers()), [])
    assert (cost.tokens, cost.gemm_flops, cost.seconds) == (0, 0, 0)


def test_the_machine_is_measured():
    assert measure_gemm_rate(torch.device("cpu"), torch.float32, width=128) > 1e6
    assert free_memory_bytes(torch.device("cpu")) > 1_000_000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**20, "3.0 MiB"), (5 * 2**40, "5120.0 GiB")],
)
def test_bytes_are_readable(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (200, "3 min 20 s"), (18_720, "5 h 12 min")]
)
def test_times_are_readable(seconds, text):
    assert format_seconds(seconds) == text
