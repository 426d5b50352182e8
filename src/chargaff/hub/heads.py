"""Which head a checkpoint has, and building it."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families.protocol import Family
from chargaff.nn.heads import SequenceHead, TokenHead

_LINEAR = "head.linear.weight"
"""What sequence and token heads of `nn.heads` have."""


def build_head(
    family: Family, kind: str, config: Any, backbone: Any, options: Mapping[str, Any]
) -> tuple[nn.Module | None, dict[str, Any]]:
    """A head and the options that describe it completely.

    Args:
        kind: "none", "lm", one of the family's own, "sequence" or "token".
        options: num_outputs; for sequence heads also pooling, positions, bias and oriented, for token heads bias and
            opposite (see `SequenceHead`, `TokenHead`). Others are kept as facts.

    Raises:
        ConfigError: the family has no such head, or the number of outputs is not given.
    """
    if kind == "none":
        return None, {}
    if kind == "lm":
        if family.lm_head is None:
            raise ConfigError("model.head: this family has no language-model head")
        return family.lm_head(config, backbone), {}
    own = family.extra_heads.get(kind)
    if own is None and kind not in ("sequence", "token"):
        raise _unknown_head(family, kind)
    num_outputs = options.get("num_outputs")
    if kind in family.head_outputs:
        num_outputs = _fixed_outputs(family, kind, config, num_outputs)
        options = {**options, "num_outputs": num_outputs}
    if kind in family.fresh_heads and not num_outputs:
        options, num_outputs = {**options, "num_outputs": backbone.width}, backbone.width
    if not isinstance(num_outputs, int) or num_outputs < 1:
        raise ConfigError(f"model.head: a {kind!r} head needs num_outputs, a positive integer, got {num_outputs!r}")
    if own is not None:
        return own(config, backbone, num_outputs), {**options}
    bias = bool(options.get("bias", True))
    if kind == "token":
        head = TokenHead(backbone.width, num_outputs, bias=bias, opposite=options.get("opposite", ()))
        return head, {**options, "bias": bias}
    pooling, is_oriented = str(options.get("pooling", "mean")), bool(options.get("oriented", False))
    positions = options.get("positions")
    pooled = SequenceHead(
        backbone.width, num_outputs, pooling=pooling, bias=bias, is_oriented=is_oriented, positions=positions
    )
    return pooled, {**options, "pooling": pooling, "bias": bias}


def stored_head(family: Family, config: Any, backbone: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The kind of head that a converted state dict holds; a tied language-model head needs no tensor of its own."""
    names = {name for name in state if name.startswith("head.")}
    if _LINEAR in names:
        return "sequence"
    for kind in own_heads(family, config, backbone, state):
        return kind
    if family.lm_head is None:
        return "none"
    held = {id(tensor) for tensor in backbone.state_dict(keep_vars=True).values()}
    head = family.lm_head(config, backbone).state_dict(keep_vars=True)
    own = {f"head.{name}" for name, tensor in head.items() if id(tensor) not in held}
    return "lm" if not own or own & names else "none"


def own_heads(
    family: Family, config: Any, backbone: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, frozenset[str]]:
    """Kinds of the family's own heads that a converted state dict holds completely -> names of their tensors."""
    with torch.device("meta"):
        heads = {
            kind: frozenset(f"head.{name}" for name in build(config, backbone, 1).state_dict())
            for kind, build in family.extra_heads.items()
        }
    return {kind: names for kind, names in heads.items() if names and names <= state.keys()}


def without_other_heads(
    state: Mapping[str, Tensor],
    kind: str,
    family: Family,
    config: Any,
    backbone: nn.Module,
    held: Mapping[str, frozenset[str]],
) -> Mapping[str, Tensor]:
    """`state` without the tensors of known heads that a file holds beside the one of this kind.

    Args:
        held: what `own_heads` found; files without such heads stay as they are.
    """
    if not held or kind == "none":
        return state
    others = set().union(*(names for other, names in held.items() if other != kind))
    if kind != "lm" and family.lm_head is not None:
        with torch.device("meta"):
            others |= {f"head.{name}" for name in family.lm_head(config, backbone).state_dict()}
    others -= held.get(kind, frozenset())
    return {name: tensor for name, tensor in state.items() if name not in others}


def choose_head(
    wanted: str | None, stored: str, family: Family, state: Mapping[str, Tensor], where: str, held: Collection[str] = ()
) -> str:
    """The kind to build.

    Args:
        held: further kinds that the file holds.

    Raises:
        CheckpointError: the file lacks that head.
        ConfigError: there is no such kind.
    """
    if wanted is None or wanted in (stored, "none", *held):
        return wanted or stored
    if wanted == "lm" and family.lm_head is not None:
        return wanted
    if {wanted, stored} == {"sequence", "token"} and _LINEAR in state:
        return wanted  # one and the same linear layer
    if wanted in family.fresh_heads:
        return wanted
    if wanted in ("sequence", "token", *family.extra_heads):
        raise CheckpointError(
            f"{where}: holds no {wanted!r} head (it has: {stored}); fine-tune one with `chargaff finetune`, "
            "or load with head='none'"
        )
    raise _unknown_head(family, wanted)


def options_from(kind: str, family: Family, config: Any, backbone: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of a head as far as its tensors tell."""
    if kind in ("sequence", "token") and _LINEAR in state:
        return {"num_outputs": state[_LINEAR].shape[0], "bias": "head.linear.bias" in state}
    if kind not in family.extra_heads:
        return {}
    with torch.device("meta"):
        one, two = (family.extra_heads[kind](config, backbone, n).state_dict() for n in (1, 2))
    for name, tensor in one.items():  # the dimension that follows num_outputs tells it
        for axis, size in enumerate(tensor.shape):
            if two[name].shape[axis] != size and f"head.{name}" in state:
                each = two[name].shape[axis] - size
                more, rest = divmod(state[f"head.{name}"].shape[axis] - size, each)
                return {
                    "num_outputs": 1 if rest else more + 1
                }  # with a rest it is another model's, which is said later
    return {}


def fresh_head(family: Family, kind: str, config: Any, backbone: nn.Module, num_outputs: int) -> dict[str, Tensor]:
    """Tensors of a head that a file lacks: those of `family.init` with seed 0, under the names of a model's state."""
    head = family.extra_heads[kind](config, backbone, num_outputs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        family.init(head, config)
    return {f"head.{name}": tensor for name, tensor in head.state_dict().items()}


def _fixed_outputs(family: Family, kind: str, config: Any, wanted: Any) -> int:
    fixed = family.head_outputs[kind](config)
    if wanted not in (None, 0, fixed):
        raise ConfigError(f"model.head: a {kind!r} head of this config has {fixed} outputs, got num_outputs={wanted!r}")
    return fixed


def _unknown_head(family: Family, kind: str) -> ConfigError:
    kinds = dict.fromkeys(["none", *(["lm"] if family.lm_head else []), "sequence", "token", *family.extra_heads])
    return ConfigError(f"model.head: expected one of {', '.join(kinds)}, got {kind!r}")
