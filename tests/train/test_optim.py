"""Weight decay reaches the parameters it reached in the published runs."""

import pytest
import torch

from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.tasks.sequence import SequenceTask
from chargaff.train.config import OptimSpec
from chargaff.train.heads import attach_head
from chargaff.train.optim import make_optimizer, parameter_groups, set_learning_rate


def model_of(family: str = "caduceus", variant: str = "ps", head: str = "lm", **options):
    return create(family, get_family(family).tiny[variant], head=head, seed=0, **options)


def decayed(model, spec: OptimSpec) -> dict[str, bool]:
    return {name: group["weight_decay"] > 0 for group in parameter_groups(model, spec) for name in group["names"]}


@pytest.mark.parametrize("variant", ["ph", "ps", "ps-unfused", "ph-untied"])
def test_groups_of_pretraining(variant):
    model = model_of(variant=variant)
    found = decayed(model, OptimSpec())
    assert set(found) == {name for name, _ in model.named_parameters()}
    is_rms = model.spec.config.rms_norm
    for name, is_decayed in found.items():
        last, owner = name.rsplit(".", 1)[-1], name.rsplit(".", 2)[-2]
        exempt = last in ("bias", "A_log", "D") or "embedding" in name or (not is_rms and "norm" in name)
        assert is_decayed != exempt, name
        if owner in ("in_proj", "out_proj", "x_proj", "dt_proj", "conv1d") and last == "weight":
            assert is_decayed
    assert any("norm" in name for name in found)


def test_every_parameter_is_in_one_group_and_tied_ones_once():
    model = model_of()
    groups = parameter_groups(model, OptimSpec())
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted({id(parameter) for parameter in model.parameters()})


def test_rms_norm_can_be_spared():
    assert not any(
        is_decayed
        for name, is_decayed in decayed(model_of(), OptimSpec(decay_rms_norm=False)).items()
        if "norm" in name
    )


def test_new_head_is_decayed_weight_and_bias():
    model = model_of(head="none")
    attach_head(model, SequenceTask(model.tokenizer, 3))
    found = decayed(model, OptimSpec())
    assert found["head.linear.weight"]
    assert found["head.linear.bias"]
    assert not decayed(model, OptimSpec(decay_head_bias=False))["head.linear.bias"]


def test_batch_norm_and_embedding_of_the_cnn_are_spared():
    model = model_of("cnn", "short", head="sequence", num_outputs=2)
    found = decayed(model, OptimSpec())
    for name, is_decayed in found.items():
        if name.startswith("backbone.cnn_model"):
            assert is_decayed == (model.get_parameter(name).ndim == 3), name
    assert not found["backbone.embeddings.weight"]


def test_frozen_backbone_leaves_the_head_and_nothing_left_is_an_error():
    model = model_of(head="none")
    attach_head(model, SequenceTask(model.tokenizer, 3))
    model.backbone.requires_grad_(False)
    assert set(decayed(model, OptimSpec())) == {"head.linear.weight", "head.linear.bias"}
    whole = model_of()
    whole.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"train\.freeze_backbone"):
        parameter_groups(whole, OptimSpec())


def test_layer_decay_scales_rates_from_the_top_down():
    model = model_of(head="none")
    attach_head(model, SequenceTask(model.tokenizer, 3))
    spec = OptimSpec(layer_decay=0.5, lr=1.0)
    optimizer = make_optimizer(model, spec)
    set_learning_rate(optimizer, 0.8)
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    blocks = len(model.backbone.blocks)
    assert rates["head.linear.weight"] == 0.8
    for block in range(blocks):
        assert rates[next(n for n in rates if n.startswith(f"backbone.layers.{block}."))] == 0.8 * 0.5 ** (
            blocks - block
        )
    assert rates[next(n for n in rates if "embedding" in n)] == 0.8 * 0.5 ** (blocks + 1)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "rmsprop", "muon"])
def test_every_optimizer_takes_a_step(kind):
    model = model_of()
    optimizer = make_optimizer(model, OptimSpec(kind=kind, momentum=0.5))
    before = [parameter.clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    spec = OptimSpec(kind="muon", matrix_lr=3e-3, weight_decay=0.1)
    model, alone = model_of(), model_of()
    optimizer = make_optimizer(model, spec)
    is_matrix = {name: group["is_matrix"] for group in optimizer.param_groups for name in group["names"]}
    for name in is_matrix:
        owner, last = name.split(".")[-2:]
        assert is_matrix[name] == (last == "weight" and owner in ("in_proj", "x_proj", "dt_proj", "out_proj")), name
    twins = dict(alone.named_parameters())
    muon = torch.optim.Muon(
        [twins[name] for name in is_matrix if is_matrix[name]],
        lr=1.5e-3,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [twins[name] for name in group["names"]], "weight_decay": group["weight_decay"]}
            for group in optimizer.param_groups
            if not group["is_matrix"]
        ],
        lr=0.01,
        betas=spec.betas,
        eps=spec.eps,
    )
    for step in range(3):
        torch.manual_seed(step)
        for name, parameter in model.named_parameters():
            twins[name].grad = torch.randn_like(parameter)
            parameter.grad = twins[name].grad.clone()
        set_learning_rate(optimizer, 0.01, lambda lr: lr / 2)
        for each in (optimizer, muon, adamw):
            each.step()
        optimizer.load_state_dict(optimizer.state_dict())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, twins[name], rtol=0, atol=0)


def test_muon_with_a_frozen_backbone_leaves_the_head_to_adamw():
    model = model_of(head="none")
    attach_head(model, SequenceTask(model.tokenizer, 3))
    model.backbone.requires_grad_(False)
    optimizer = make_optimizer(model, OptimSpec(kind="muon"))
    before = model.head.linear.weight.clone()
    for parameter in model.head.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    assert not torch.equal(before, model.head.linear.weight)


def test_muon_needs_blocks():
    with pytest.raises(ConfigError, match=r"train\.optim\.kind: cnn is not made of blocks.*adamw"):
        make_optimizer(model_of("cnn", "short", head="sequence", num_outputs=2), OptimSpec(kind="muon"))
