"""masked_lm, causal_lm, hub_folder."""

import torch
import torch.nn.functional as F
from case import Case
from kinds import hyenadna, xlstm
from models import compare_gradients, family_of, load_model, reference_states
from safetensors.torch import load_file
from torch import Tensor

import chargaff
from chargaff.model import Model, Output

PAD = 4


def masked_lm(case: Case) -> None:
    if case.family in OWN:
        OWN[case.family](case)
        return
    model = load_model(case, family_of(case), "lm")
    ids = case.input("input_ids")
    output = _compare_states(case, model, ids)
    assert output.logits is not None
    _check_inputs(case, model, ids)
    if case.has("input.labels"):
        labels, weights = case.input("labels"), case.optional("loss_weights")
        loss = _masked_loss(output.logits, labels, weights)
        case.output("loss", loss)
        compare_gradients(case, model, loss)


def causal_lm(case: Case) -> None:
    if case.family in OWN:
        OWN[case.family](case)
        return
    model = load_model(case, family_of(case), "lm")
    ids = case.input("input_ids")
    output = _compare_states(case, model, ids)
    assert output.logits is not None
    if case.has("input.targets"):
        targets = case.input("targets")
        loss = F.cross_entropy(output.logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
        case.output("loss", loss)
        compare_gradients(case, model, loss)
    if case.has("output.step_logits"):
        _compare_steps(case, model, ids)


def llama(case: Case) -> None:
    """masked_lm and causal_lm of this family."""
    model = load_model(case, "llama", "lm")
    ids, labels = case.input("input_ids"), case.input("labels")
    depth = len(model.backbone.blocks)
    output = model(ids, taps=[f"layer.{k}" for k in range(depth + 1)])
    assert output.logits is not None
    case.output("logits", output.logits)
    case.output("hidden", output.encoded.hidden)
    case.output("embedding", output.encoded.taps["layer.0"])
    for k in range(1, depth + 1):
        case.output(f"block.{k}.hidden", output.encoded.taps[f"layer.{k}"])
    if case.has("input.raw_ids"):
        raw = case.input("raw_ids")
        case.require(bool((labels == raw)[labels != PAD].all()), "labels are not the ids before masking")
    loss = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), ignore_index=PAD)
    case.output("loss", loss)
    compare_gradients(case, model, loss)
    if case.has("input.prompt_ids"):
        length = case.tensors["output.greedy_ids"].shape[1]
        case.output("greedy_ids", xlstm._greedy(model, case.input("prompt_ids"), length))


def hub_folder(case: Case) -> None:
    folder = case.path.with_suffix("") if case.path.stem != "expected" else case.path.parent
    model = chargaff.load(folder, device=case.device)
    case.require(model.tokenizer.decode(model.tokenizer.encode(_bases("ACGTN"), special=False)) == "ACGTN", "tokenizer")
    stored = case.group("param.")
    if stored:
        exported = _export(case, model)
        case.require(set(exported) == set(stored), f"exported names differ: {sorted(set(exported) ^ set(stored))[:5]}")
        for name, tensor in stored.items():
            same = exported[name].dtype == tensor.dtype and torch.equal(exported[name], tensor)
            case.require(same, f"exported {name} differs")
    _compare_states(case, model, case.input("input_ids"))


def _export(case: Case, model: Model) -> dict[str, Tensor]:
    import tempfile
    from pathlib import Path

    from chargaff.hub.save import export

    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "exported", layout="hub")
        return load_file(Path(folder) / "exported" / "model.safetensors")


def _bases(text: str):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.frombuffer(text.encode(), np.uint8)


def _compare_states(case: Case, model: Model, ids: Tensor) -> Output:
    depth = len(model.backbone.blocks)
    taps = [f"layer.{k}" for k in range(depth + 1)] + [f"layer.{k}.branch" for k in range(1, depth + 1)]
    output = model(ids, taps=taps)
    assert output.logits is not None
    case.output("logits", output.logits)
    for name, tensor in reference_states(model, output.encoded).items():
        case.output(name, tensor)
    with torch.no_grad():  # the inference path computes in blocks and must agree too
        plain = model(ids)
        assert plain.logits is not None
        case.output("logits", plain.logits)
    return output


def _masked_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD)
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    weight = weights.flatten().masked_fill(labels.flatten() == PAD, 0)
    return (each * weight).sum() / weight.sum()


def _check_inputs(case: Case, model: Model, ids: Tensor) -> None:
    """Inputs that state relations, and the outputs for the reverse complement."""
    if case.has("input.attention_mask"):
        case.input("attention_mask")  # these families scan over every position
    if case.has("input.raw_ids"):
        labels, raw = case.input("labels"), case.input("raw_ids")
        case.require(bool((labels == raw)[labels != PAD].all()), "labels are not the ids before masking")
    if case.has("input.complement_map"):
        table = case.input("complement_map")
        ours = torch.as_tensor(model.spec.config.complement, device=ids.device)
        case.require(torch.equal(table, ours), "complement map differs from the model's")
    if not case.has("input.rc_input_ids"):
        return
    table = torch.as_tensor(model.spec.config.complement, device=ids.device)
    rc_ids = case.input("rc_input_ids")
    case.require(torch.equal(rc_ids, table[ids].flip(1)), "rc_input_ids is not the reverse complement")
    output = model(rc_ids)
    states = reference_states(model, output.encoded)["last_hidden_state"]
    assert output.logits is not None
    case.output("rc_logits", output.logits)
    case.output("rc_last_hidden_state", states)
    if model.spec.config.rcps:
        forward = model(ids)
        assert forward.logits is not None
        relation = (forward.logits - output.logits.flip(1)[..., table]).abs().max().item()
        case.require(relation <= 1e-5, f"logits are not equivariant: {relation}")
        hidden = reference_states(model, forward.encoded)["last_hidden_state"]
        relation = (hidden - states.flip(1, 2)).abs().max().item()
        case.require(relation <= 1e-5, f"states are not equivariant: {relation}")


def _compare_steps(case: Case, model: Model, ids: Tensor) -> None:
    """A prefill of 7 tokens, then one at a time."""
    state = model.backbone.init_state(ids.shape[0])
    logits = []
    with torch.no_grad():
        for piece in (ids[:, :7], *ids[:, 7:].split(1, 1)):
            encoded, state = model.backbone.forward_chunk(piece, state)
            assert model.head is not None
            logits.append(model.head(encoded))
    case.output("step_logits", torch.cat(logits, 1))
    for index, layer in enumerate(state):
        case.output(f"final_conv_state.{index}", layer.conv.transpose(1, 2))
        case.output(f"final_ssm_state.{index}", layer.ssm)


OWN = {"xlstm": xlstm.language_model, "hyenadna": hyenadna.language_model, "llama": llama}
"""Families whose sheets name other outputs."""

KINDS = {"masked_lm": masked_lm, "causal_lm": causal_lm, "hub_folder": hub_folder}
