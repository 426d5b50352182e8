"""Tensors into a module, strictly, with shared parameters kept shared."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chargaff.errors import CheckpointError

_SHOWN = 5


def assign(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: Any = None,
) -> None:
    """Gives every parameter and persistent buffer its tensor, copied. Modules on the meta device become real.

    A parameter that the module holds under several names needs one of them; others may be there if they are equal.

    Args:
        module: changed in place; parameters stay the same objects, so ties and attributes survive.
        tensors: name -> tensor, for the names of `module.state_dict()`.
        where: file or checkpoint, for messages.
        device: where the module shall live.
        dtype: of floating-point tensors, None keeps the stored one; parameters marked `keep_float32` are float32.
        config: its fields that speak of ties are named when tied tensors differ.

    Raises:
        CheckpointError: missing or unexpected names, other shapes or kinds of number, or tied tensors that differ.
    """
    targets = module.state_dict(keep_vars=True)
    groups = shared_names(module)
    _require_match(targets, groups, tensors, where)
    for names in groups:
        given = [name for name in names if name in tensors]
        _require_equal(tensors, given, where, config)
        target, source = targets[names[0]], tensors[given[0]]
        value = source.to(device=device, dtype=_dtype_of(target, source, dtype), copy=True).contiguous()
        replace_tensor(target, value)


def shared_names(module: nn.Module) -> list[list[str]]:
    """Names of the module's state, those of one parameter or buffer together, in order of first appearance."""
    groups: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def replace_tensor(target: Tensor, value: Tensor) -> None:
    """Puts `value` into the object `target`, wherever it is registered; its attributes stay."""
    if isinstance(target, nn.Parameter):
        fresh: Tensor = nn.Parameter(value, requires_grad=target.requires_grad)
        fresh.__dict__.update(target.__dict__)
    else:
        fresh = value
        fresh.__dict__.update(target.__dict__)
    torch.utils.swap_tensors(target, fresh)  # type: ignore[no-untyped-call]


def _dtype_of(target: Tensor, source: Tensor, wanted: torch.dtype | None) -> torch.dtype:
    if not target.is_floating_point():
        return target.dtype
    return torch.float32 if getattr(target, "keep_float32", False) else wanted or source.dtype


def _require_match(
    targets: Mapping[str, Tensor], groups: Iterable[list[str]], tensors: Mapping[str, Tensor], where: str
) -> None:
    problems = {
        "missing": [names[0] for names in groups if not any(name in tensors for name in names)],
        "unexpected": [name for name in tensors if name not in targets],
        "of another shape": [
            f"{name} {tuple(tensor.shape)}, expected {tuple(targets[name].shape)}"
            for name, tensor in tensors.items()
            if name in targets and tensor.shape != targets[name].shape
        ],
        "of another kind": [
            f"{name} {tensor.dtype}, expected {targets[name].dtype}"
            for name, tensor in tensors.items()
            if name in targets and tensor.is_floating_point() != targets[name].is_floating_point()
        ],
    }
    parts = [f"{len(names)} {kind} ({_first(names)})" for kind, names in problems.items() if names]
    if parts:
        raise CheckpointError(f"{where}: the tensors do not match the model: {'; '.join(parts)}")


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ..."


def _require_equal(tensors: Mapping[str, Tensor], names: list[str], where: str, config: Any) -> None:
    for other in names[1:]:
        if not torch.equal(tensors[names[0]], tensors[other]):
            raise CheckpointError(
                f"{where}: {names[0]} and {other} differ, but the model holds them as one tensor{_tie_hint(config)}"
            )


def _tie_hint(config: Any) -> str:
    """Config fields named after ties, with their values."""
    if not dataclasses.is_dataclass(config):
        return ""
    fields = [field.name for field in dataclasses.fields(config) if "tie" in field.name.split("_")]
    values = ", ".join(f"{name}={getattr(config, name)}" for name in fields)
    return f"; was it trained with other settings than {values}?" if values else ""
