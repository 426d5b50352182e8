"""Every config key of the sheet against the literal form, with gradients."""

import pytest
import torch

from chargaff.families.caduceus.config import CaduceusConfig
from chargaff.families.caduceus.model import Caduceus, init_weights, make_lm_head
from tests.families.literal_caduceus import Literal

BASE = {"d_model": 20, "n_layer": 3, "vocab_size": 12, "residual_in_fp32": False}
OPTIONS = {
    "published": {},
    "two layers": {"n_layer": 2},
    "one layer": {"n_layer": 1},
    "unfused": {"fused_add_norm": False},
    "layer norm": {"rms_norm": False},
    "layer norm unfused": {"rms_norm": False, "fused_add_norm": False},
    "untied": {"bidirectional_weight_tie": False},
    "multiply": {"bidirectional_strategy": "ew_multiply"},
    "multiply untied": {"bidirectional_strategy": "ew_multiply", "bidirectional_weight_tie": False},
    "no strategy": {"bidirectional_strategy": None},
    "one direction": {"bidirectional": False},
    "float32 residual": {"residual_in_fp32": True},
    "ssm sizes": {"ssm_cfg": {"d_state": 5, "d_conv": 3, "expand": 3, "dt_rank": 4}},
    "ssm biases": {"ssm_cfg": {"bias": True, "conv_bias": False, "d_conv": 2}},
    "ssm biases multiplied": {"ssm_cfg": {"bias": True}, "bidirectional_strategy": "ew_multiply"},
    "ssm biases one direction": {"ssm_cfg": {"bias": True}, "bidirectional": False},
    "other epsilon": {"norm_epsilon": 1e-2},
    "other padding": {"pad_vocab_size_multiple": 5},
}


@pytest.mark.parametrize("rcps", [False, True])
@pytest.mark.parametrize("case", OPTIONS)
def test_outputs_and_gradients_equal_the_literal_form(case, rcps):
    config = CaduceusConfig.from_json({**BASE, **OPTIONS[case], "rcps": rcps})
    backbone, head = weighted(config)
    state = {name: value.detach().clone() for name, value in backbone.state_dict().items()}
    groups = {}  # tied names must stay one tensor, so that their gradients add up
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        state[name] = groups.setdefault(id(parameter), state[name].requires_grad_())
    literal = Literal(config, state)
    tokens = torch.randint(0, 12, (2, 37), generator=torch.Generator().manual_seed(1))
    taps = [f"layer.{k}{end}" for k in range(4) for end in ("", ".branch")]
    encoded = backbone(tokens, taps=taps)
    hidden = encoded.hidden if not rcps else torch.cat([encoded.hidden, encoded.hidden_rc.flip(-1)], -1)
    expected, trace = literal.states(tokens)
    table = "embeddings.word_embeddings.embedding.weight" if rcps else "embeddings.word_embeddings.weight"
    logits, expected_logits = head(encoded), literal.logits(expected, state[table])
    close(hidden, expected)
    close(logits, expected_logits)
    for index in range(config.n_layer):
        close(encoded.taps[f"layer.{index + 1}.branch"], trace[2 * index])
        close(encoded.taps[f"layer.{index + 1}"], trace[2 * index] + trace[2 * index + 1])
    with torch.no_grad():
        backbone.block_tokens = 16
        close(backbone(tokens).hidden, encoded.hidden)
    slope = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * slope).sum().backward()
    (expected_logits * slope).sum().backward()
    for name, parameter in backbone.named_parameters():
        close(parameter.grad, state[name].grad, relative=1e-4)


def weighted(config):
    """A model in which every parameter matters."""
    torch.manual_seed(0)
    backbone = Caduceus(config)
    head = make_lm_head(config, backbone)
    init_weights(backbone, config)
    init_weights(head, config)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if not name.endswith(("A_log", "dt_proj.bias")):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return backbone, head


def close(found, expected, relative=1e-5):
    """Relative to the largest value: float32 sums are taken in another order."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= relative * expected.abs().max() + 1e-6
