"""op.selective_scan, op.bimamba, op.window_mean."""

import torch
from case import Case
from torch import Tensor

from chargaff.families.configs import parse_config
from chargaff.hub.load import assign
from chargaff.nn.mamba import BiMamba, SsmConfig
from chargaff.nn.pooling import window_mean
from chargaff.ops.selective_scan import selective_scan


def op_selective_scan(case: Case) -> None:
    shapes = {"batch": ("u", 0), "dim": ("u", 1), "length": ("u", 2), "dstate": ("A", 1)}
    inputs = {name: case.input(name).requires_grad_() for name in case.config["given"]}
    for key, (name, axis) in shapes.items():
        case.require(case.config.get(key, inputs[name].shape[axis]) == inputs[name].shape[axis], f"{key} of {name}")
    last = {name: _channels_last(inputs, name) for name in ("u", "delta", "B", "C", "z")}
    out, state = selective_scan(
        *(last[name] for name in ("u", "delta")),
        inputs["A"],
        last["B"],
        last["C"],
        inputs.get("D"),
        last["z"],
        inputs.get("delta_bias"),
        softplus=case.config["delta_softplus"],
        return_state=True,
    )
    case.output("out", out.transpose(1, 2))
    case.output("last_state", state)
    loss = (out.transpose(1, 2) * case.input("cotangent")).sum()
    case.output("loss", loss)
    loss.backward()
    for name in case.group("grad."):
        case.gradient(name, inputs[name.removeprefix("input.")].grad)


def _channels_last(inputs: dict[str, Tensor], name: str) -> Tensor | None:
    return inputs[name].transpose(1, 2) if name in inputs else None


def op_bimamba(case: Case) -> None:
    config = dict(case.config)
    width = config.pop("d_model")
    options = {key: config.pop(f"bidirectional{suffix}") for key, suffix in _OPTIONS.items()}
    mixer = BiMamba(width, parse_config(SsmConfig, config, strict=True), **options)
    assign(mixer, case.group("param."), where=case.label)
    mixer.to(case.device)
    x = case.input("x").requires_grad_()
    y = mixer(x)
    case.output("y", y)
    loss = (y * case.input("cotangent")).sum()
    case.output("loss", loss)
    loss.backward()
    parameters = dict(mixer.named_parameters(remove_duplicate=False))
    for name in case.group("grad."):
        case.gradient(name, x.grad if name == "input.x" else parameters[name].grad)
    forward = mixer.mamba_fwd
    h, z = forward.in_proj(x).chunk(2, -1)
    case.output("y_fwd_only", forward.out_proj(forward.scan(h, z, reverse=False)))


_OPTIONS = {"bidirectional": "", "strategy": "_strategy", "tie": "_weight_tie"}


def op_window_mean(case: Case) -> None:
    tokens = case.config["window_bp"] // case.config["bp_per_token"]
    index = case.input("variant_idx")
    means = [window_mean(case.input(name), index, tokens) for name in ("ref", "alt")]
    case.output("concat_avg_ws", torch.cat(means, -1))


KINDS = {
    "op.selective_scan": op_selective_scan,
    "op.bimamba": op_bimamba,
    "op.window_mean": op_window_mean,
}
