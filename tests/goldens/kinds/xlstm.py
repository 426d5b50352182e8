"""Everything of the xlstm sheet: its models, its cells and parts, its tokenizers, its optimizer groups."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from case import Case, MismatchError, Tolerance
from models import load_model
from safetensors.torch import load_file
from torch import Tensor

import chargaff
from chargaff.families.xlstm import layouts
from chargaff.families.xlstm.cells import ROTARY_THETA
from chargaff.families.xlstm.layers import Convolution, FeedForward, HeadNorm, Headwise, Norm, Positions
from chargaff.hub.assign import assign
from chargaff.hub.load import create
from chargaff.hub.save import export
from chargaff.model import Model
from chargaff.nn.rotary import rotary_angles, rotate_pairs
from chargaff.ops.mlstm import mlstm
from chargaff.ops.slstm import SlstmState, slstm
from chargaff.tokenizers.char import CharTokenizer
from chargaff.train.config import OptimSpec
from chargaff.train.optim import parameter_groups
from chargaff.train.schedules import cosine_schedule

PAD = 4


def _within(share: float) -> Tolerance:
    """That share of the largest expected value; nothing else than zero where that is zero."""
    return lambda expected: max(share * expected.abs().max().item(), 1e-30)


def tolerances(model: Model) -> tuple[Tolerance, Tolerance, Tolerance]:
    """Of logits and final states, of states between blocks, and of gradients."""
    config = model.spec.config
    if len(config.slstm_blocks) < config.n_layer:
        return (lambda _: 1e-4), (lambda _: 5e-4), _within(1e-3)
    return (lambda _: 2e-5), (lambda _: 5e-5), _within(2e-5)


def language_model(case: Case) -> None:
    """masked_lm and causal_lm of this family."""
    model = load_model(case, "xlstm", "lm")
    ids = case.input("input_ids")
    logits = states(case, model, ids)
    final, _, slope = tolerances(model)
    if case.has("input.labels"):
        labels = case.input("labels")
        if case.has("input.raw_ids"):
            raw = case.input("raw_ids")
            case.require(bool((labels == raw)[labels != PAD].all()), "labels are not the ids before masking")
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD)
        case.output("loss", loss, final)
        gradients(case, model, loss, slope)
    if case.has("output.logits_of_rc_input"):
        table = torch.tensor([0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11], device=ids.device)
        other = model(table[ids].flip(1))
        case.output("logits_of_rc_input", other.logits, final)
        case.output("hidden_of_rc_input", _halves(other.encoded.hidden, other.encoded.hidden_rc), final)
    if case.has("input.prompt_ids"):
        length = case.tensors["output.greedy_ids"].shape[1]
        case.output("greedy_ids", _greedy(model, case.input("prompt_ids"), length), final)


def states(case: Case, model: Model, ids: Tensor) -> Tensor:
    """Compares every stored state of `ids`, computed with and without gradients, and returns the logits."""
    final, between, _ = tolerances(model)
    depth = len(model.backbone.blocks)
    output = model(ids, taps=[f"layer.{k}" for k in range(depth + 1)])
    assert output.logits is not None
    with torch.no_grad():
        lean = model(ids, taps=[f"layer.{k}" for k in range(1, depth + 1)])
    for found in (output, lean):
        case.output("logits", found.logits, final)
        case.output("hidden", _halves(found.encoded.hidden, found.encoded.hidden_rc), final)
        for k in range(1, depth + 1):
            case.output(f"block.{k}.hidden", found.encoded.taps[f"layer.{k}"], between)
    # KINDS.md says before positions, but the stored tensor holds their sum: the reference adds them in place
    case.output("embedding", output.encoded.taps["layer.0"], between)
    return output.logits


def gradients(case: Case, model: Model, loss: Tensor, tolerance: Tolerance) -> None:
    """Gradients of the stored tensors: those of the model, pulled back through the layout that was read."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    stored = {
        name: tensor.clone().requires_grad_(tensor.is_floating_point()) for name, tensor in case.group("param.").items()
    }
    ours = layouts.read(dict(stored), model.spec.config)
    parameters = dict(model.named_parameters())
    wanted = [name for name in ours if name in parameters and parameters[name].grad is not None]
    slopes = [parameters[name].grad.cpu() for name in wanted]
    torch.autograd.backward([ours[name] for name in wanted], slopes)
    for name in case.group("grad."):
        case.gradient(name, stored[name].grad, tolerance)


def _halves(forward: Tensor, other: Tensor | None) -> Tensor:
    return forward if other is None else torch.cat([forward, other.flip(-1)], -1)


def _greedy(model: Model, prompt: Tensor, length: int) -> Tensor:
    """The most likely continuation, with the carried state, or from the whole prefix where there is none."""
    carries = hasattr(model.backbone, "init_state")
    state = model.backbone.init_state(prompt.shape[0]) if carries else None
    ids, piece = prompt, prompt
    assert model.head is not None
    with torch.no_grad():
        while ids.shape[1] < length:
            if carries:
                encoded, state = model.backbone.forward_chunk(piece, state)
            else:
                encoded = model.encode(ids)
            piece = model.head(encoded)[:, -1:].argmax(-1)
            ids = torch.cat([ids, piece], 1)
    return ids


def hub_folder(case: Case) -> None:
    """A released folder, loaded by path, and again after it was written in the published layout."""
    folder = case.path.parent if case.path.stem == "expected" else case.path.with_suffix("")
    model = chargaff.load(folder, device=case.device)
    ids = case.input("input_ids")
    states(case, model, ids)
    with tempfile.TemporaryDirectory() as there:
        export(model, Path(there) / "exported")
        written = load_file(Path(there) / "exported" / "model.safetensors")
        states(case, chargaff.load(Path(there) / "exported", device=case.device), ids)
    stored = case.group("param.")
    case.require(not stored or set(written) == set(stored), f"exported names: {sorted(set(written) ^ set(stored))[:5]}")
    for name, tensor in stored.items():
        case.require(torch.equal(written[name], tensor), f"exported {name} differs")


def downstream(case: Case) -> None:
    """downstream_classifier of this family."""
    model = load_model(case, "xlstm", "sequence", pooling="mean", bias=True)
    final, _, slope = tolerances(model)
    ids, ids_rc = case.input("input_ids"), case.input("input_ids_rc")
    case.require(ids_rc.shape == ids.shape, "the strands differ in shape")
    conjoin = case.meta["conjoin"]
    assert model.head is not None
    trained = model.head(model.train().encode(ids))
    encoded = model.eval().encode(ids)
    hidden, logits = encoded.hidden, model.head(encoded)
    if conjoin == "ph":
        other = model.encode(ids_rc)
        hidden, logits = torch.stack([hidden, other.hidden], -1), (logits + model.head(other)) / 2
    elif conjoin == "ps":
        assert encoded.hidden_rc is not None
        hidden = torch.stack([hidden, encoded.hidden_rc.flip(1)], -1)
    case.output("hidden", hidden, final)
    stored = case.tensors["output.logits_eval"].shape
    case.output("logits_eval", logits.reshape(stored), final)
    case.output("logits_train", trained.reshape(case.tensors["output.logits_train"].shape), final)
    loss = F.cross_entropy(trained, case.input("labels").flatten())
    case.output("loss_train", loss, final)
    gradients(case, model, loss, slope)


def op_mlstm_cell(case: Case) -> None:
    for group in sorted({name.split(".")[1] for name in case.tensors if name.startswith("input.")}):
        _mlstm_group(case, group)


def _mlstm_group(case: Case, group: str) -> None:
    names = ("q", "k", "v", "igate_preact", "fgate_preact")
    raw = {name: case.input(f"{group}.{name}") for name in names}
    width = raw["q"].shape[-1]
    case.require(width == case.config["head_dim"], "head_dim")
    forms: dict[str, dict[str, Any]] = {
        "h_parallel": {"form": "parallel"},
        "h_recurrent": {"form": "recurrent"},
        "h_native_bidirectional": {"bidirectional": True},
    }
    forms |= {f"h_chunkwise{n}": {"form": "recurrent", "chunk_tokens": n} for n in case.config["chunk_sizes"]}
    for name, options in forms.items():
        exact = case.tensors.get(f"output.{group}.{name}_f64", case.tensors[f"output.{group}.{name}"])
        allowed = 2e-4 if group == "mild" else 1e-3 * exact.abs().max().item()
        h, *_ = _mlstm(raw, torch.float32, return_state=False, **options)
        for twin in (name, f"{name}_f64"):
            case.output(f"{group}.{twin}", h, lambda _, allowed=allowed: allowed)
    _, C, n, m = _mlstm(raw, torch.float32, return_state=True, form="recurrent")
    for name, tensor in (("C", C), ("n", n), ("m", m)):
        case.output(f"{group}.{name}_last_f64", tensor, _within(1e-3))
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in raw.items()}
    h, *_ = _mlstm(leaves, torch.float32, return_state=False, form="parallel")
    (h * case.input(f"{group}.grad_h")).sum().backward()
    for name in names:
        case.gradient(f"{group}.{name}", leaves[name].grad, _within(1e-3))


def _mlstm(raw: dict[str, Tensor], dtype: torch.dtype, *, return_state: bool, **options: Any) -> tuple[Tensor, ...]:
    """h [B, H, S, P] and with `return_state` C, n, m, of inputs in the layout of the file."""
    q, k, v, igate, fgate = (x.to(dtype).transpose(1, 2) for x in raw.values())
    result = mlstm(q, k, v, igate[..., 0], fgate[..., 0], return_state=return_state, **options)
    if return_state:
        return result[0].transpose(1, 2), *result[1]
    return (result.transpose(1, 2),)


def op_slstm_cell(case: Case) -> None:
    heads, width = case.config["num_heads"], case.config["hidden_size"]
    kernel, bias = (case.tensors[f"param.cuda._{name}_"].to(case.device) for name in ("recurrent_kernel", "bias"))
    vanilla = [case.tensors[f"param.vanilla._{name}_"].to(case.device) for name in ("recurrent_kernel", "bias")]
    case.require(torch.equal(layouts.kernel_from_vanilla(vanilla[0]), kernel), "recurrent kernel in the two layouts")
    case.require(torch.equal(layouts.bias_from_vanilla(vanilla[1], heads), bias), "bias in the two layouts")
    kernel.requires_grad_(), bias.requires_grad_()
    gates = case.input("gates").requires_grad_()
    split = gates.unflatten(2, (4, heads, width // heads)).unbind(2)
    weights = (kernel.unflatten(2, (4, -1)), bias.view(heads, 4, -1))
    y, state = slstm(*split, *weights, return_state=True)
    final, slope = (lambda _: 2e-5), _within(2e-5)
    case.output("y", y.transpose(1, 2), final)
    case.output("last_state", torch.stack([x.flatten(1) for x in state]), final)
    half = gates.shape[1] // 2
    first, carried = slstm(*(x[:, :half] for x in split), *weights, return_state=True)
    second = slstm(*(x[:, half:] for x in split), *weights, initial_state=SlstmState(*carried))
    case.output("y_resumed", torch.cat([first, second], 1).transpose(1, 2), final)
    (y.transpose(1, 2) * case.input("grad_y")).sum().backward()
    found = {"gates": gates, "cuda._recurrent_kernel_": kernel, "cuda._bias_": bias}
    for name in case.group("grad."):
        case.gradient(name, found[name].grad, slope)


def op_components(case: Case) -> None:
    """Each block through the module of the model."""
    tolerance: Tolerance = lambda _: 2e-5  # noqa: E731
    params = case.group("param.")
    blocks = sorted({name.split(".")[1] for name in case.tensors if name.startswith("output.")})
    for block in blocks:
        own = {name.removeprefix(f"{block}."): x for name, x in params.items() if name.startswith(f"{block}.")}
        if block == "rope":
            _rotary(case, tolerance)
            continue
        with torch.device("meta"):
            module = _component(block, own)
        held = {f"conv.{name}" if block.startswith("conv") else name: x for name, x in own.items()}
        assign(module, held, where=f"{case.label} {block}", device=case.device)
        if isinstance(module, Positions):
            case.output(f"{block}.y", module(case.tensors[f"output.{block}.y"].shape[0], 0), tolerance)
            continue
        x = case.input(f"{block}.x")
        if isinstance(module, HeadNorm):
            y = module(x.transpose(1, 2)).unflatten(2, (x.shape[1], -1)).transpose(1, 2)
        else:
            y = module(x, None, activation=None)[0] if isinstance(module, Convolution) else module(x)
        case.output(f"{block}.y", y, tolerance)


def _component(block: str, own: dict[str, Tensor]) -> torch.nn.Module:
    weight = own.get("weight", torch.empty(0))
    if block == "layer_norm":
        return Norm(weight.shape[0])
    if block == "multihead_norm":
        return HeadNorm(weight.shape[0])
    if block == "headwise":
        return Headwise(weight.shape[0] * weight.shape[1], weight.shape[1], bias="bias" in own)
    if block.startswith("conv_k"):
        return Convolution(weight.shape[0], weight.shape[2], causal=block.endswith("_causal"))
    if block == "ffn":
        return FeedForward(own["proj_up.weight"].shape[1], own["proj_down.weight"].shape[1])
    if block == "abs_pos":
        return Positions(12)
    raise MismatchError(f"unknown building block {block}")


def _rotary(case: Case, tolerance: Tolerance) -> None:
    case.require(case.config["rope_theta"] == ROTARY_THETA, "rope_theta")
    q, k = case.input("rope.q"), case.input("rope.k")  # [B, S, H, P]
    angles = rotary_angles(q.shape[1], q.shape[3], ROTARY_THETA, device=q.device)
    case.output("rope.cos", angles.cos(), tolerance)
    case.output("rope.sin", angles.sin(), tolerance)
    case.output("rope.q", rotate_pairs(q, angles.unsqueeze(1)), tolerance)
    case.output("rope.k", rotate_pairs(k, angles.unsqueeze(1)), tolerance)


def tokenizer(values: dict[str, Any]) -> None:
    found = {
        "pretraining (uppercasing)": CharTokenizer.standard(),
        "downstream (case sensitive)": CharTokenizer.finetune(),
    }
    for name, one in found.items():
        for text, expected in values.get(name, {}).items():
            calls: dict[str, dict[str, Any]] = {
                "no_special": {"add_special_tokens": False},
                "special": {"add_special_tokens": True},
                "padded_to_8": {
                    "add_special_tokens": False, "padding": "max_length", "truncation": True, "max_length": 8,
                },
            }  # fmt: skip
            for call, options in calls.items():
                ids = one.encode_text(text, **options).input_ids
                if call in expected and ids != expected[call] and (text or call != "padded_to_8"):
                    raise MismatchError(f"{name}: {text!r} {call}: {ids}, expected {expected[call]}")


def optimizer(values: dict[str, Any]) -> None:
    for name, case in values.items():
        if isinstance(case, dict) and "decay" in case:
            _groups(name, case)
        elif isinstance(case, dict) and "lr_at_step" in case:
            _schedule(name, case)


def _groups(name: str, case: dict[str, Any]) -> None:
    family = "xlstm" if "s_lstm_at" in case["config"] else "llama"
    model = create(family, {key: value for key, value in case["config"].items() if not key.startswith("_")})
    found: dict[str, set[str]] = {"decay": set(), "no_decay": set()}
    for group in parameter_groups(model, OptimSpec()):
        found["decay" if group["weight_decay"] else "no_decay"].update(group["names"])
    for kind, names in found.items():
        state = {ours: torch.empty(0) for ours in names}
        published = set(layouts.write_hub(state, model.spec.config)) if family == "xlstm" else _llama_names(names)
        if published != set(case[kind]):
            raise MismatchError(f"{name} {kind}: differs in {sorted(published ^ set(case[kind]))[:5]}")


def _llama_names(names: set[str]) -> set[str]:
    """Those of the published model without its training prefix; the head is tied there."""
    return {name if name.startswith("backbone.") else f"backbone.output.{name.removeprefix('head.')}" for name in names}


def _schedule(name: str, case: dict[str, Any]) -> None:
    schedule = cosine_schedule(
        case["lr"],
        horizon_steps=case["t_initial"],
        warmup_steps=case["warmup_t"],
        warmup_lr=case["warmup_lr_init"],
        min_lr=case["lr_min"],
        after_warmup=case["warmup_prefix"],
    )
    for step, expected in case["lr_at_step"].items():
        if abs(schedule(int(step)) - expected) > 1e-9 * abs(expected):
            raise MismatchError(f"{name}: learning rate of step {step}: {schedule(int(step))!r}, expected {expected!r}")


KINDS = {
    "xlstm/masked_lm": language_model,
    "xlstm/causal_lm": language_model,
    "xlstm/downstream_classifier": downstream,
    "xlstm/hub_folder": hub_folder,
    "op.mlstm_cell": op_mlstm_cell,
    "op.slstm_cell": op_slstm_cell,
    "op.components": op_components,
    "json.tokenizer.xlstm": tokenizer,
    "json.optimizer.xlstm": optimizer,
}
