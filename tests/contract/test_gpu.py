"""On a CUDA device every family computes what it computes on the CPU."""

import pytest
import torch

from chargaff.model import Model
from tests.contract.tiny import IDS, VARIANTS, is_stateful, parts, random_tokens, relative_error, tiny_model

pytestmark = pytest.mark.gpu

# float32 with other orders of summation and another exp; matrix products must not use TF32, which has 10 bits
FLOAT32 = 1e-4
BFLOAT16 = 0.03


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(params=VARIANTS, ids=IDS)
def models(request: pytest.FixtureRequest) -> tuple[Model, Model]:
    """The same weights on the CPU and on the GPU."""
    return tiny_model(*request.param), tiny_model(*request.param).cuda()


@pytest.mark.parametrize("length", [1, 63, 100])
def test_states_and_logits_agree_with_the_cpu(models, length):
    here, there = models
    tokens = random_tokens(here, batch=3, tokens=length)
    with torch.no_grad():
        expected, got = here(tokens), there(tokens.cuda())
    for name, tensor in parts(expected.encoded).items():
        assert relative_error(parts(got.encoded)[name].cpu(), tensor) < FLOAT32, name
    assert relative_error(got.logits.cpu(), expected.logits) < FLOAT32


def test_gradients_agree_with_the_cpu(models):
    here, there = models
    tokens = random_tokens(here, tokens=63)
    for model in models:
        model(tokens.to(model.device)).logits.float().square().mean().backward()
    others = dict(there.named_parameters())
    for name, parameter in here.named_parameters():
        assert relative_error(others[name].grad.cpu(), parameter.grad) < 10 * FLOAT32, name


@torch.no_grad()
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_stays_near_float32(models, how):
    _, model = models
    tokens = random_tokens(model, tokens=100).cuda()
    expected = model.encode(tokens).hidden
    if how == "weights":
        got = model.bfloat16().encode(tokens).hidden
    else:
        with torch.autocast("cuda", torch.bfloat16):
            got = model.encode(tokens).hidden
    assert relative_error(got.float(), expected) < BFLOAT16


@torch.no_grad()
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_chunks_with_a_carried_state_equal_one_pass(models, chunk_tokens):
    _, model = models
    if not is_stateful(model):
        pytest.skip("this backbone is not a StatefulBackbone")
    tokens = random_tokens(model, tokens=100).cuda()
    state, pieces = model.backbone.init_state(tokens.shape[0]), []
    for piece in tokens.split(chunk_tokens, 1):
        encoded, state = model.backbone.forward_chunk(piece, state)
        pieces.append(encoded.hidden)
    assert relative_error(torch.cat(pieces, 1), model.backbone(tokens).hidden) < FLOAT32
