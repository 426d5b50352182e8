"""The blockwise inference path and the stretches of the mixers equal the plain forward pass."""

import pytest
import torch

from chargaff.errors import ConfigError
from chargaff.nn.mamba import BiMamba, MambaMixer, SsmConfig, init_mixer

WIDTH, LENGTH = 12, 63


def bimamba(*, bias=False, **options) -> BiMamba:
    torch.manual_seed(3)
    options = {"bidirectional": True, "strategy": "add", "tie": True, **options}
    mixer = BiMamba(WIDTH, SsmConfig(bias=bias), **options)
    for name, parameter in mixer.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
        elif "A_log" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    return mixer


def assert_close(found, expected):
    """Relative to the largest value, since float32 sums are taken in another order."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


VARIANTS = {
    "tied": {},
    "tied with biases": {"bias": True},
    "untied": {"tie": False},
    "multiplied": {"strategy": "ew_multiply"},
    "multiplied untied": {"strategy": "ew_multiply", "tie": False, "bias": True},
    "one direction": {"bidirectional": False, "bias": True},
    "no strategy named": {"strategy": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("block", [1, 2, 16, 100])
def test_blocks_equal_the_whole_sequence(variant, reverse, flip, block):
    mixer = bimamba(**VARIANTS[variant])
    x = torch.randn(2, LENGTH, WIDTH)
    expected = x + mixer(torch.tanh(x), reverse=reverse, flip=flip)
    found = x.clone()
    mixer.add_to_(found, torch.tanh, reverse=reverse, flip=flip, block=block)
    assert_close(found, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reverse_is_the_mixer_of_the_flipped_sequence(variant):
    mixer = bimamba(**VARIANTS[variant])
    x = torch.randn(2, LENGTH, WIDTH)
    expected = mixer(x.flip(1)).flip(1)
    assert_close(mixer(x, reverse=True), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_flip_is_the_mixer_of_flipped_channels(variant):
    mixer = bimamba(**VARIANTS[variant])
    x = torch.randn(2, LENGTH, WIDTH)
    expected = mixer(x.flip(2)).flip(2)
    assert_close(mixer(x, flip=True), expected)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_chunks_with_carried_state_equal_the_whole_sequence(size):
    torch.manual_seed(0)
    mixer = MambaMixer(WIDTH, SsmConfig(d_conv=4))
    init_mixer(mixer, residual_divisor=1.0)
    x = torch.randn(2, LENGTH, WIDTH)
    h, z = mixer.in_proj(x).chunk(2, -1)
    expected = mixer.out_proj(mixer.scan(h, z, reverse=False))
    state, found = mixer.init_state(2), []
    for piece in x.split(size, 1):
        out, state = mixer.forward_chunk(piece, state)
        found.append(out)
    assert_close(torch.cat(found, 1), expected)


def test_tied_directions_share_their_projections():
    mixer = bimamba()
    assert mixer.mamba_rev.in_proj.weight is mixer.mamba_fwd.in_proj.weight
    assert mixer.mamba_rev.x_proj.weight is not mixer.mamba_fwd.x_proj.weight


def test_an_unknown_strategy_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"bidirectional_strategy.*'concat'"):
        bimamba(strategy="concat")


def test_fresh_step_sizes_lie_in_the_configured_range():
    torch.manual_seed(0)
    mixer = MambaMixer(64, SsmConfig(dt_min=0.01, dt_max=0.05))
    init_mixer(mixer, residual_divisor=1.0)
    step = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert step.min() >= 0.01 * 0.999
    assert step.max() <= 0.05 * 1.001
    assert torch.equal(mixer.A_log[3].exp().round(), torch.arange(1.0, 17.0))
