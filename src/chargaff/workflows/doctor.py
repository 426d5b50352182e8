"""What this machine and this installation can do, and whether a model keeps its strand contract."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from chargaff import __version__
from chargaff.families.protocol import Backbone
from chargaff.hub.load import load
from chargaff.model import Model, evaluating
from chargaff.ops.dispatch import FORCED, list_backends
from chargaff.seq.alphabet import reverse_complement
from chargaff.workflows.cost import format_bytes, free_memory_bytes, measure_gemm_rate

PACKAGES = ("torch", "numpy", "numba", "lightning", "pyarrow", "pysam", "zarr", "safetensors", "huggingface_hub")
TOLERANCE = 1e-4
"""Largest relative error that still counts as equal: float32 sums in another order, through some tens of layers."""


@dataclass(frozen=True, slots=True)
class StrandCheck:
    """One property, measured on a random sequence and its reverse complement."""

    what: str
    error: float
    """Root mean square of the difference over that of the value."""
    is_promised: bool
    """Whether the model's strand contract includes it."""

    @property
    def is_broken(self) -> bool:
        return self.is_promised and not self.error <= TOLERANCE


def describe_machine() -> dict[str, Any]:
    """Versions, devices and threads."""
    devices = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads of torch, {os.cpu_count()} processors"}
    devices["cpu"] += f", {format_bytes(free_memory_bytes(torch.device('cpu')))} free"
    devices["cpu"] += f", {measure_gemm_rate(torch.device('cpu'), torch.float32) / 1e9:,.0f} GFLOP/s in float32"
    for number in range(torch.cuda.device_count()):
        free = format_bytes(free_memory_bytes(torch.device("cuda", number)))
        devices[f"cuda:{number}"] = f"{torch.cuda.get_device_name(number)}, {free} free"
    return {
        "chargaff": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: metadata.version(name) if find_spec(name) else "not installed" for name in PACKAGES},
        "devices": devices,
    }


def describe_backends() -> list[dict[str, str]]:
    """For each op and device the backends in order of preference; `refusal` is "" for those that would run."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [
        {"device": device, "op": op, "backend": backend, "refusal": _refusal(backend, reason)}
        for device in devices
        for op, backend, reason in list_backends(device)
    ]


def check_strands(
    model: Model | str, *, length_bp: int = 1000, seed: int = 0, device: str = "auto"
) -> list[StrandCheck]:
    """How well the outputs for a random sequence and for its reverse complement agree.

    Args:
        model: a loaded model, or the name or path of one.
        length_bp: of the sequence, unless the model takes one length only.

    Returns:
        One entry a property; those that the contract of the model's spec promises are marked.
    """
    if not isinstance(model, Model):
        model = load(model, device=device)
    rule = cast(Backbone, model.backbone).rule
    step = rule.multiple_of * getattr(model.head, "multiple_of", 1)
    length_bp = rule.fixed_bp or max(min(length_bp, rule.max_tokens or length_bp) // step, 1) * step
    bases = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, length_bp)]
    pair = [
        torch.from_numpy(model.tokenizer.encode(strand, special=rule.needs_special)).to(model.device).unsqueeze(0)
        for strand in (bases, reverse_complement(bases))
    ]
    with evaluating(model), torch.inference_mode():
        checks = _check_states(model, *pair)
        if model.head is not None:
            checks += _check_head(model, *pair)
    return checks


def _check_states(model: Model, forward: Tensor, reverse: Tensor) -> list[StrandCheck]:
    is_equivariant = model.spec.strands == "equivariant"
    one, other = model.encode(forward), model.encode(reverse)
    if model.tokenizer.complement is None:  # the strands have different tokens: only means can be compared
        first, second = one.hidden.mean(1), other.hidden.mean(1)
        return [
            _compare("mean, forward strand only", first, second, is_equivariant),
            _compare("mean of both strands (embed --strands both)", (first + second) / 2, (second + first) / 2, True),
        ]
    checks = []
    if one.hidden_rc is not None and other.hidden_rc is not None:
        checks.append(
            _compare("states of one strand = the other strand's view", one.hidden, other.hidden_rc.flip(1), True)
        )
    else:
        checks.append(_compare("states, forward strand only", one.hidden, other.hidden.flip(1), is_equivariant))
    read_twice = [model.encode(tokens, both_strands=True) for tokens in (forward, reverse)]
    means = [
        (states.hidden.mean(1) + states.hidden_rc.mean(1)) / 2 for states in read_twice if states.hidden_rc is not None
    ]
    checks.append(_compare("mean of both strands (embed --strands both)", means[0], means[1], True))
    return checks


def _check_head(model: Model, forward: Tensor, reverse: Tensor) -> list[StrandCheck]:
    is_equivariant = model.spec.strands == "equivariant"
    uses_both = model.spec.strands in ("conjoined", "averaged")
    if model.tokenizer.complement is None and model.spec.head not in ("sequence", "pooler"):
        return []  # an output a token
    one, other = (cast(Tensor, model(tokens, both_strands=uses_both).logits) for tokens in (forward, reverse))
    if model.spec.head != "lm":
        if one.dim() == 3:
            other = other.flip(1)
        other = other[..., model.spec.head_options.get("opposite") or slice(None)]
        is_promised = (is_equivariant or uses_both) and not model.spec.head_options.get("oriented", False)
        return [_compare(f"outputs of the {model.spec.head} head", one, other, is_promised)]
    assert model.tokenizer.complement is not None
    columns = torch.arange(one.shape[-1], device=one.device)
    table = torch.as_tensor(model.tokenizer.complement, device=one.device).long()
    columns[: len(table)] = table
    return [_compare("logits of the language model", one, other.flip(1)[..., columns], is_equivariant)]


def _compare(what: str, value: Tensor, other: Tensor, is_promised: bool) -> StrandCheck:
    difference = (value.double() - other.double()).square().mean().sqrt()
    scale = value.double().square().mean().sqrt().clamp_min(1e-300)
    return StrandCheck(what, float(difference / scale), is_promised)


def _refusal(backend: str, reason: str | None) -> str:
    if reason is None and FORCED not in ("auto", backend):
        return f"CHARGAFF_BACKEND={FORCED}"
    return reason or ""
