"""Models from checkpoints, tensors or nothing."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chargaff.errors import BackendError, CheckpointError, ConfigError
from chargaff.families import get_family
from chargaff.families.protocol import Family
from chargaff.hub.assign import assign, replace_tensor
from chargaff.hub.catalog import list_checkpoints
from chargaff.hub.describe import Description, describe
from chargaff.hub.download import sha256_of
from chargaff.hub.files import LocalFiles, resolve
from chargaff.hub.heads import (
    build_head,
    choose_head,
    fresh_head,
    options_from,
    own_heads,
    stored_head,
    without_other_heads,
)
from chargaff.hub.readers import read_weights, shards_of
from chargaff.model import Model, ModelSpec
from chargaff.nn.heads import SequenceHead, TokenHead
from chargaff.tokenizers.protocol import Tokenizer

__all__ = ["assign", "create", "from_tensors", "load"]

_LOG = logging.getLogger(__name__)


def load(
    name_or_path: str | Path,
    *,
    head: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    offline: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Model:
    """A model with its weights, in evaluation mode.

    Args:
        name_or_path: checkpoint name, hub id "owner/repository[@revision]", folder, or weight file.
        head: "lm", "sequence", "token", "none", or one of the family's own; None takes what the checkpoint has.
        device: "auto" is the GPU where there is one.
        dtype: of floating-point weights, None as stored; the float32 islands of a model stay float32.
        offline: use only what is on this machine.
        config: config keys that replace the published ones.

    Raises:
        ConfigError: unknown name, head, dtype or config key.
        CheckpointError: weights missing, out of reach, damaged, or not those of the model.
        BackendError: the device is not there.
    """
    target, number = _device(device), _dtype(dtype)
    files = resolve(name_or_path, offline=offline)
    description = describe(files, config or {})
    model = _from_state(
        description.spec,
        _converted(read_weights(files.weights), description, files),
        wanted=head,
        where=f"{files.name} ({files.weights.name})",
        device=target,
        dtype=number,
        tokenizer=description.tokenizer,
    )
    model.spec = _identified(replace(model.spec, sha256=_checked_sum(files, description.sums)))
    _show_licence(model.spec.name, model.spec.licence, model.spec.paper)
    return model.eval()


def from_tensors(
    family: str,
    config: Any,
    tensors: Mapping[str, Tensor],
    *,
    layout: str = "hub",
    head: str | None = None,
    head_options: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    name: str = "",
) -> Model:
    """A model from tensors under published names; what `load` does after reading the files.

    Args:
        config: instance of the family's config class, or its published keys.
        layout: which published names these are.
        head_options: num_outputs, pooling, bias, as far as the tensors do not tell.

    Raises:
        ConfigError: unknown family, layout, head or config key.
        CheckpointError: the tensors are not those of the model.
    """
    kind = get_family(family)
    parsed = _parsed(kind, config)
    if layout not in kind.layouts:
        raise ConfigError(f"layout: expected one of {', '.join(kind.layouts)}, got {layout!r}")
    spec = ModelSpec(family, parsed, "", name=name, head_options=head_options or {}, strands=kind.strands(parsed))
    state = kind.layouts[layout].read(dict(tensors), parsed)
    where = name or f"tensors of a {family} model"
    return _from_state(spec, state, wanted=head, where=where, device=_device(device), dtype=_dtype(dtype))


def create(
    family: str,
    config: Any,
    *,
    head: str = "lm",
    num_outputs: int | None = None,
    pooling: str = "mean",
    bias: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    name: str = "",
) -> Model:
    """A model with fresh weights, which depend on config, head and seed alone; torch's generators stay as they are.

    Args:
        config: instance of the family's config class, or published keys (those of a checkpoint row, for example).
        head: "lm", "none", "sequence", "token", or one of the family's own.
        num_outputs: of heads other than "lm".
        pooling, bias: of sequence heads (bias also of token heads).

    Raises:
        ConfigError: unknown family, head or config key, or `num_outputs` is missing.
    """
    kind = get_family(family)
    parsed, target = _parsed(kind, config), _device(device)
    given = {} if num_outputs is None else {"num_outputs": num_outputs, "pooling": pooling, "bias": bias}
    if head in kind.extra_heads or head == "token":
        given.pop("pooling", None)
    if head in kind.extra_heads:
        given.pop("bias", None)
    with torch.device("meta"):
        backbone = kind.backbone(parsed)
        module, options = build_head(kind, head, parsed, backbone, given)
    spec = ModelSpec(
        family, parsed, head, name=name, head_options=options, pooling=pooling, strands=kind.strands(parsed)
    )
    model = Model(spec, backbone, module, kind.tokenizer(parsed))
    if hasattr(type(model.tokenizer), "FILES"):
        _warn_no_vocabulary(family)
    _fill_fresh(model, kind, seed)
    _converted_to(model, _dtype(dtype)).backbone.init_buffers(torch.device("cpu"))  # type: ignore[operator]
    return model.to(target)


def _parsed(family: Family, config: Any) -> Any:
    """An instance of the family's config class."""
    if isinstance(config, family.config):
        return config
    if isinstance(config, Mapping):
        return family.config.from_json(config, strict=True)  # type: ignore[attr-defined]
    raise ConfigError(f"model.config: expected {family.config.__name__} or its keys, got {type(config).__name__}")


def _converted(state: Mapping[str, Tensor], description: Description, files: LocalFiles) -> Mapping[str, Tensor]:
    """Under our names."""
    if description.layout is None:
        return state
    family = get_family(description.spec.family)
    try:
        return family.layouts[description.layout].read(dict(state), description.spec.config)
    except CheckpointError as error:
        raise CheckpointError(f"{files.name} ({files.weights.name}): {error}") from error


def _from_state(
    spec: ModelSpec,
    state: Mapping[str, Tensor],
    *,
    wanted: str | None,
    where: str,
    device: torch.device,
    dtype: torch.dtype | None,
    tokenizer: Tokenizer | None = None,
) -> Model:
    """Builds on the meta device, chooses the head, and assigns."""
    family = get_family(spec.family)
    if "head.linear.weight" in state:  # the common heads were used in place of the family's own
        own = {kind: build for kind, build in family.extra_heads.items() if kind not in ("sequence", "token")}
        family = replace(family, extra_heads=own)
    with torch.device("meta"):
        backbone = family.backbone(spec.config)
        held = own_heads(family, spec.config, backbone, state)
        stored = spec.head or stored_head(family, spec.config, backbone, state)
        kind = choose_head(wanted, stored, family, state, where, held)
        given = {**options_from(kind, family, spec.config, backbone, state), **spec.head_options}
        head, options = build_head(family, kind, spec.config, backbone, given if kind not in ("lm", "none") else {})
    model = Model(
        replace(spec, head=kind, head_options=options),
        backbone,
        head,
        tokenizer or family.tokenizer(spec.config),
    )
    if kind == stored:
        state = without_other_heads(state, kind, family, spec.config, backbone, held)
    else:
        model.spec = replace(model.spec, labels=(), thresholds={})
        kept = set() if head is None else {f"head.{name}" for name in head.state_dict()}
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.") or name in kept}
        if kind in family.fresh_heads and kind not in held:
            _warn_fresh_head(where, kind)
            state |= fresh_head(family, kind, spec.config, backbone, options["num_outputs"])
    assign(model, state, where=where, device=device, dtype=dtype, config=spec.config)
    backbone.init_buffers(device)  # type: ignore[operator]
    return model


def _fill_fresh(model: Model, family: Family, seed: int) -> None:
    """Every tensor from the seed, on the CPU, so that the device does not matter."""
    for tensor in dict.fromkeys(model.state_dict(keep_vars=True).values()):
        value = torch.empty_like(tensor, device="cpu")
        replace_tensor(tensor, value.fill_(torch.nan) if value.is_floating_point() else value.zero_())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        family.init(model.backbone, model.spec.config)
        if isinstance(model.head, SequenceHead | TokenHead):
            model.head.linear.reset_parameters()
        elif model.head is not None:
            family.init(model.head, model.spec.config)
    left = [name for name, tensor in model.state_dict().items() if tensor.isnan().any()]
    assert not left, f"the family's init leaves {left} as they were"


def _converted_to(model: Model, dtype: torch.dtype | None) -> Model:
    """Floating-point tensors in `dtype`, except the float32 islands."""
    if dtype is not None:
        for tensor in dict.fromkeys(model.state_dict(keep_vars=True).values()):
            if tensor.is_floating_point() and tensor.dtype != dtype and not getattr(tensor, "keep_float32", False):
                replace_tensor(tensor, tensor.detach().to(dtype))
    return model


def _checked_sum(files: LocalFiles, recorded: Mapping[str, str]) -> str:
    """SHA-256 of the weight file (of a sharded one: of the list of its files' sums), compared with `recorded`."""
    paths = shards_of(files.weights) if files.weights.name.endswith(".index.json") else (files.weights,)
    sums = {path.name: sha256_of(path) for path in paths}
    for name, found in sums.items():
        if recorded and recorded.get(name) != found:
            raise CheckpointError(
                f"{files.folder / name}: sha256 is {found}, but model.json says {recorded.get(name)}: the weights were "
                "altered after saving; save the model again"
            )
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("\n".join(sums.values()).encode()).hexdigest()


def _identified(spec: ModelSpec) -> ModelSpec:
    """With the licence and paper of a published checkpoint, if the weight file is a copy of one."""
    row = next((row for row in list_checkpoints() if spec.sha256 in row.files.values()), None)
    if row is None or spec.licence:
        return spec
    return replace(spec, licence=row.licence, paper=row.paper, notes={**spec.notes, "copy_of": row.name})


@cache
def _warn_no_vocabulary(family: str) -> None:
    """Once for each family of a process."""
    _LOG.warning("%s: fresh weights come without a vocabulary file: single letters are tokens until one is set", family)


@cache
def _warn_fresh_head(where: str, kind: str) -> None:
    """Once for each model of a process."""
    _LOG.warning("%s: holds no %r head; its weights are fresh ones, from a fixed seed", where, kind)


@cache
def _show_licence(name: str, licence: str, paper: str) -> None:
    """Once for each model of a process."""
    if licence:
        _LOG.info("%s: weights under %s%s", name, licence, f" ({paper})" if paper else "")


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:<number>, got {str(device)!r}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"device {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA devices; use 'cpu'"
        )
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in known:
        raise ConfigError(f"dtype: expected one of {', '.join(known)}, got {dtype!r}")
    return known[dtype]
