"""What every model family promises (families/protocol.py), for each tiny variant it declares.

Families are found by listing folders: a new one is tested without a change here.
"""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from chargaff.families import get_family, list_families
from chargaff.model import Model
from tests.contract.tiny import (
    IDS,
    NUM_OUTPUTS,
    VARIANTS,
    is_layered,
    is_stateful,
    legal_tokens,
    parts,
    random_tokens,
    relative_error,
    tiny_model,
)

# float32 sums in another order differ by a few units of 2^-24, times the depth
REORDERED = 1e-5
# a bfloat16 number has 8 significant bits: 2^-8 = 0.4 % a rounding, a few of them in each of at most three layers
BFLOAT16 = 0.03


@pytest.fixture(params=VARIANTS, ids=IDS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_model(*request.param)


def layered(model: Model) -> nn.Module:
    if not is_layered(model):
        pytest.skip("this backbone is not a LayeredBackbone")
    return model.backbone


def depth_of(backbone: nn.Module) -> int:
    return len(backbone.blocks)


@pytest.mark.parametrize("family", list_families())
def test_a_family_declares_tiny_variants(family):
    assert get_family(family).tiny


@pytest.mark.parametrize("family", list_families())
def test_config_is_frozen_and_returns_from_json(family):
    kind = get_family(family).config
    for values in get_family(family).tiny.values():
        config = kind.from_json(values)
        assert kind.from_json(config.to_json()) == config
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, dataclasses.fields(config)[0].name, 1)


def test_forward_gives_finite_states_and_logits_of_the_promised_shape(model):
    tokens = random_tokens(model, batch=2)
    out = model(tokens)
    hidden = out.encoded.hidden
    assert hidden.shape[0] == 2
    assert hidden.shape[-1] == model.backbone.width
    if is_layered(model):
        assert hidden.shape == (*tokens.shape, model.backbone.width)
    if model.head is None or model.spec.head == "lm":
        assert out.logits.shape[:2] == tokens.shape
        assert out.logits.shape[2] >= len(model.tokenizer.vocab)
        assert out.logits.dtype == torch.float32
    else:
        assert out.logits.shape == (2, NUM_OUTPUTS)
    for name, tensor in {**parts(out.encoded), "logits": out.logits}.items():
        assert tensor.isfinite().all(), name


def test_other_strand_has_the_shape_of_this_one(model):
    encoded = model.encode(random_tokens(model))
    assert encoded.hidden_rc is None or encoded.hidden_rc.shape == encoded.hidden.shape


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_any_integer_type_gives_the_same_states(model, batch, dtype):
    tokens = random_tokens(model, batch=batch)
    assert torch.equal(model.encode(tokens.to(dtype)).hidden, model.encode(tokens.int()).hidden)


def test_non_contiguous_tokens_give_the_same_states(model):
    tokens = random_tokens(model, batch=2)
    other = tokens.t().contiguous().t()
    assert not other.is_contiguous()
    assert torch.equal(model.encode(other).hidden, model.encode(tokens).hidden)


@pytest.mark.parametrize("length", [1, 2, 63, 100])
def test_odd_lengths_run(model, length):
    tokens = random_tokens(model, batch=1, tokens=length)
    assert model.encode(tokens).hidden.isfinite().all()


def test_every_parameter_receives_a_gradient(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():  # a matrix of zeros, as some begin, lets no gradient through to what lies before it
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    model(random_tokens(model)).logits.float().square().mean().backward()
    wrong = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not wrong
    assert not [name for name, p in model.named_parameters() if not p.grad.any()]


@torch.no_grad()
def test_padding_the_rule_allows_leaves_real_positions_alone(model):
    rule = model.backbone.rule
    tokens = random_tokens(model, batch=2, tokens=24)
    padding = tokens.new_full((2, legal_tokens(model, 8)), model.tokenizer.pad_id)
    if rule.padding == "never":
        pytest.skip('this model\'s rule is "never": its batches have one length, see the next test')
    padded = torch.cat([tokens, padding], 1)
    mask = torch.cat([torch.ones_like(tokens), torch.zeros_like(padding)], 1).bool()
    got = model.encode(padded, mask).hidden[:, : tokens.shape[1]]
    assert relative_error(got, model.encode(tokens).hidden) < REORDERED
    if rule.padding == "masked":
        got = model.encode(padded.roll(padding.shape[1], 1), mask.roll(padding.shape[1], 1)).hidden
        assert relative_error(got[:, padding.shape[1] :], model.encode(tokens).hidden) < REORDERED


@torch.no_grad()
def test_a_rule_against_padding_is_needed(model):
    """`never` forbids batches of mixed lengths, which costs speed: it must have a reason."""
    rule = model.backbone.rule
    if rule.padding != "never" or rule.fixed_bp is not None:
        pytest.skip("the rule allows padding, or only one length exists")
    tokens = random_tokens(model, batch=2, tokens=24)
    padding = tokens.new_full((2, legal_tokens(model, 8)), model.tokenizer.pad_id)
    alone, padded = model.encode(tokens).hidden, model.encode(torch.cat([tokens, padding], 1)).hidden
    assert not torch.allclose(padded[:, : alone.shape[1]], alone)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch_mates(model):
    tokens = random_tokens(model, batch=5)
    together = model(tokens)
    for row in (0, 4):
        alone = model(tokens[row : row + 1])
        for name, tensor in parts(alone.encoded).items():
            assert relative_error(parts(together.encoded)[name][row : row + 1], tensor) < REORDERED, name
        assert relative_error(together.logits[row : row + 1], alone.logits) < REORDERED


def test_evaluation_is_repeatable_to_the_bit(model):
    tokens = random_tokens(model)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, model(tokens).logits)


def test_no_grad_and_grad_agree(model):
    """Without gradients a family may take a leaner path; it must lead to the same place."""
    tokens = random_tokens(model, tokens=100)
    with torch.no_grad():
        lean = model.encode(tokens)
    full = model.encode(tokens)
    for name, tensor in parts(lean).items():
        assert relative_error(tensor, parts(full)[name]) < REORDERED, name


@pytest.mark.parametrize("is_training", [True, False])
def test_embed_run_finish_is_forward(model, is_training):
    backbone = layered(model).train(is_training)
    tokens = random_tokens(model)
    with torch.set_grad_enabled(is_training):
        stepwise = backbone.finish(backbone.run(backbone.embed(tokens)))
        whole = backbone(tokens)
    for name, tensor in parts(whole).items():
        assert relative_error(parts(stepwise)[name], tensor) < REORDERED, name


@pytest.mark.parametrize("is_training", [True, False])
def test_run_in_pieces_is_run(model, is_training):
    backbone = layered(model).train(is_training)
    depth = depth_of(backbone)
    with torch.set_grad_enabled(is_training):
        x = backbone.embed(random_tokens(model))
        before = x.detach().clone()
        whole = backbone.run(x)
        assert torch.equal(x, before), "run changed its input"
        for middle in range(depth + 1):
            pieces = backbone.run(backbone.run(x, None, 0, middle), None, middle)
            assert relative_error(pieces, whole) < REORDERED


@pytest.mark.parametrize("is_training", [True, False])
def test_taps_are_the_stepwise_values(model, is_training):
    backbone = layered(model).train(is_training)
    tokens = random_tokens(model)
    depth = depth_of(backbone)
    names = [f"layer.{k}" for k in range(depth + 1)]
    with torch.set_grad_enabled(is_training):
        taps = backbone(tokens, taps=names).taps
        assert set(taps) == set(names)
        x = backbone.embed(tokens)
        for k in range(depth + 1):
            assert relative_error(taps[f"layer.{k}"], x) < REORDERED, k
            if k < depth:
                x = backbone.run(x, None, k, k + 1)


@torch.no_grad()
def test_branch_taps_are_what_the_blocks_added(model):
    backbone = layered(model)
    names = [f"layer.{k}.branch" for k in range(1, depth_of(backbone) + 1)]
    found = backbone(random_tokens(model), taps=[*names, "layer.0", f"layer.{len(names)}"]).taps
    assert set(found) == {*names, "layer.0", f"layer.{len(names)}"}
    assert all(found[name].shape == found["layer.0"].shape and found[name].any() for name in names)


@torch.no_grad()
def test_taps_change_nothing_and_unasked_ones_are_absent(model):
    backbone = layered(model)
    tokens = random_tokens(model)
    plain = backbone(tokens)
    assert dict(plain.taps) == {}
    tapped = backbone(tokens, taps=["layer.1", "layer.1.branch"])
    assert relative_error(tapped.hidden, plain.hidden) < REORDERED


@torch.no_grad()
def test_the_other_strand_is_the_reverse_complement_read_backwards(model):
    """hidden_rc[t] belongs to token t: it is what the model says of that base when it reads the other strand."""
    if model.tokenizer.complement is None or model.backbone.rule.fixed_bp is not None:
        pytest.skip("needs one token per base and one state per token")
    tokens = random_tokens(model, tokens=63)
    here, there = (model.encode(t, both_strands=True) for t in (tokens, model.reverse_complement(tokens)))
    is_equivariant = model.spec.strands == "equivariant"
    assert is_equivariant == (model.encode(tokens).hidden_rc is not None)
    tolerance = REORDERED if is_equivariant else 0.0
    assert relative_error(here.hidden_rc, there.hidden.flip(1)) <= tolerance
    assert relative_error(here.hidden, there.hidden_rc.flip(1)) <= tolerance


@torch.no_grad()
def test_equivariant_logits_follow_the_strand(model):
    if model.spec.strands != "equivariant":
        pytest.skip(f"strands: {model.spec.strands}")
    tokens = random_tokens(model, tokens=63)
    here, there = model(tokens).logits, model(model.reverse_complement(tokens)).logits
    complement = torch.as_tensor(model.tokenizer.complement).long()
    assert relative_error(here[..., : len(complement)], there.flip(1)[..., complement]) < REORDERED


@torch.no_grad()
def test_encoding_both_strands_leaves_mode_and_first_strand_alone(model):
    if model.tokenizer.complement is None or model.backbone.rule.fixed_bp is not None:
        pytest.skip("needs one token per base and one state per token")
    tokens = random_tokens(model)
    assert torch.equal(model.encode(tokens, both_strands=True).hidden, model.encode(tokens).hidden)
    assert not model.training


def test_activation_checkpointing_keeps_names_outputs_and_gradients(model):
    backbone = layered(model).train()
    tokens = random_tokens(model)
    results = []
    for checkpointing in (False, True):
        backbone.checkpointing = checkpointing
        model.zero_grad()
        calls: list[int] = []
        # counted on entry: torch leaves a block early once everything its gradient needs is there again
        hooks = [block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1)) for block in backbone.blocks]
        loss = model(tokens).logits.float().square().mean()
        loss.backward()
        for hook in hooks:
            hook.remove()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        results.append((loss.detach(), gradients, list(model.state_dict()), len(calls)))
    plain, recomputed = results
    assert torch.equal(plain[0], recomputed[0])
    assert plain[2] == recomputed[2]
    assert recomputed[3] == 2 * plain[3] == 2 * depth_of(backbone), "blocks are not computed again"
    assert plain[1].keys() == recomputed[1].keys()
    for name, gradient in plain[1].items():
        assert relative_error(recomputed[1][name], gradient) < REORDERED, name


@torch.no_grad()
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_stays_near_float32(model, how):
    tokens = random_tokens(model, tokens=100)
    expected = model.encode(tokens).hidden
    if how == "weights":
        got = model.bfloat16().encode(tokens).hidden
    else:
        with torch.autocast("cpu", torch.bfloat16):
            got = model.encode(tokens).hidden
    assert got.isfinite().all()
    assert relative_error(got.float(), expected) < BFLOAT16


def test_bfloat16_training_step_has_finite_gradients(model):
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(random_tokens(model)).logits.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_backbone_and_head_trace_in_one_graph(model):
    tokens = random_tokens(model, tokens=5)
    torch.compiler.reset()
    compiled = torch.compile(lambda t: model(t).logits, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert relative_error(compiled(tokens), model(tokens).logits) < REORDERED
    model.train()
    compiled(tokens).float().square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=IDS)
def test_backbone_is_built_on_the_meta_device(name, variant):
    family = get_family(name)
    config = family.config.from_json(family.tiny[variant])
    with torch.device("meta"):
        backbone = family.backbone(config)
        head = None if family.lm_head is None else family.lm_head(config, backbone)
    real = tiny_model(name, variant)
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())
    assert shapes(backbone) == shapes(real.backbone)
    assert head is None or shapes(head) == shapes(real.head)
    backbone.to_empty(device="cpu").init_buffers(torch.device("cpu"))
    assert not [key for key, tensor in [*backbone.named_parameters(), *backbone.named_buffers()] if tensor.is_meta]


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_chunks_with_a_carried_state_equal_one_pass(model, chunk_tokens):
    if not is_stateful(model):
        pytest.skip("this backbone is not a StatefulBackbone")
    tokens = random_tokens(model, tokens=100)
    backbone = model.backbone
    state = backbone.init_state(tokens.shape[0])
    pieces: list[Tensor] = []
    for piece in tokens.split(chunk_tokens, 1):
        encoded, state = backbone.forward_chunk(piece, state)
        pieces.append(encoded.hidden)
    assert relative_error(torch.cat(pieces, 1), backbone(tokens).hidden) < REORDERED


def test_causal_models_do_not_see_the_future(model):
    if model.backbone.rule.padding != "causal":
        pytest.skip("not a causal model")
    tokens = random_tokens(model, tokens=40)
    changed = torch.cat([tokens[:, :20], random_tokens(model, tokens=20, seed=1)], 1)
    assert relative_error(model.encode(changed).hidden[:, :20], model.encode(tokens).hidden[:, :20]) < REORDERED


def test_fresh_weights_follow_the_seed(model):
    again = tiny_model(model.spec.family, variant_of(model))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert not any(p.is_meta for p in model.parameters())


def variant_of(model: Model) -> str:
    family = get_family(model.spec.family)
    return next(name for name, values in family.tiny.items() if family.config.from_json(values) == model.spec.config)
