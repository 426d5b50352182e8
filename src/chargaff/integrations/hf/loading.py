"""Models of ours for transformers' classes: weights, heads, places."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import is_offline_mode

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families import get_family
from chargaff.hub.heads import build_head
from chargaff.hub.load import create, load
from chargaff.integrations.hf.config import ChargaffConfig
from chargaff.integrations.hf.find import Found, find
from chargaff.model import Model

_LOG = logging.getLogger(__name__)
_CLASSIFIERS = ("sequence", "token")


def load_model(
    name: str | Path,
    config: ChargaffConfig,
    head: str,
    hub: Mapping[str, Any],
    *,
    device: Any = None,
    dtype: torch.dtype | str | None = None,
    replaces_head: bool = False,
) -> Model:
    """The weights of a folder or hub id with a head of the wanted kind.

    A classifier that the files do not hold gets fresh weights from torch's global generator, with a warning; so does
    one of another size, if `replaces_head`.

    Args:
        config: keys that differ from the files' replace them; its labels decide the size of a fresh classifier. The
            labels of a stored one are written into it.
        head: "none", "lm", "sequence" or "token".
        hub: HUB_OPTIONS.
        device: as `device_map` of from_pretrained, where it names one device.

    Raises:
        CheckpointError, ConfigError: as `chargaff.load`, or a classifier of another size.
    """
    found = find(name, hub)
    if found is None:
        raise CheckpointError(f"{name}: no config.json there, or none that a family of chargaff recognises")
    model = load(
        place_of(name, hub, found),
        head=None if head in _CLASSIFIERS else head,
        device=one_device(device),
        dtype=None if dtype in (None, "auto") else _dtype(dtype),
        offline=bool(hub.get("local_files_only")) or is_offline_mode(),
        config=_changed(config, found) or None,
    )
    if head not in _CLASSIFIERS:
        return model
    if model.spec.head != head:
        _LOG.warning("%s: holds no %s classifier; its weights are new, train it before use", name, head)
        return with_fresh_head(model, head, config)
    stored = int(model.spec.head_options["num_outputs"])
    if config.has_stated_labels and config.num_labels != stored:
        if not replaces_head:
            raise CheckpointError(
                f"{name}: its classifier has {stored} outputs, {config.num_labels} are asked for; pass "
                "ignore_mismatched_sizes=True for a new one"
            )
        return with_fresh_head(model, head, config)
    if config.num_labels != stored:
        config.num_labels = stored
    model.spec = replace(model.spec, labels=config.labels)
    return model


def fresh_model(config: ChargaffConfig, head: str) -> Model:
    """A model with fresh weights from torch's global generator, in torch's default dtype."""
    dtype = torch.get_default_dtype()
    seed = int(torch.randint(2**31, ()))
    torch.set_default_dtype(torch.float32)  # what must stay float32 does; the rest is converted
    try:
        kind = "none" if head in _CLASSIFIERS else head
        model = create(config.family, config.parsed(), head=kind, seed=seed, dtype=dtype)
    finally:
        torch.set_default_dtype(dtype)
    return with_fresh_head(model, head, config) if head in _CLASSIFIERS else model


def with_fresh_head(model: Model, head: str, config: ChargaffConfig) -> Model:
    """The model with a new classifier like that of the family's published class."""
    spec = model.spec
    family = get_family(spec.family)
    options: dict[str, Any] = {"num_outputs": config.num_labels}
    if head not in family.extra_heads:
        options |= family.published_head
        if head == "token":
            options.pop("pooling", None)
    module, complete = build_head(family, head, spec.config, model.backbone, options)
    assert module is not None
    if head in family.extra_heads:
        family.init(module, spec.config)
    like = next(parameter for parameter in model.backbone.parameters() if parameter.is_floating_point())
    parent = spec.parent or spec.name
    spec = replace(
        spec, head=head, head_options=complete, labels=config.labels, thresholds={}, parent=parent, sha256=""
    )
    return Model(spec, model.backbone, module.to(like.device, like.dtype), model.tokenizer)


def place_of(name: str | Path, hub: Mapping[str, Any], found: Found) -> str | Path:
    """What `chargaff.load` calls it.

    Raises:
        ConfigError: options that only concern another way of downloading.
    """
    path = Path(name)
    if path.exists():
        assert found.folder is not None
        return found.folder
    useless = [key for key in ("cache_dir", "proxies", "subfolder", "token") if hub.get(key)]
    if useless:
        raise ConfigError(
            f"{', '.join(useless)}: not for models of chargaff; files come through huggingface_hub's cache: set "
            "HF_HUB_CACHE, log in with `hf auth login`, or download the repository and give its folder"
        )
    revision = str(hub.get("revision") or "")
    return f"hub:{name}@{revision}" if revision not in ("", "main") else f"hub:{name}"


def one_device(device_map: Any) -> str:
    """The device that a `device_map` names.

    Raises:
        ConfigError: it spreads the model over several.
    """
    if device_map is None:
        return "cpu"
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        device_map = device_map[""]
    if isinstance(device_map, int) and not isinstance(device_map, bool):
        return f"cuda:{device_map}"
    if isinstance(device_map, str | torch.device):
        return str(device_map)
    raise ConfigError(f"device_map: models of chargaff live on one device, such as 'cuda:0'; got {device_map!r}")


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str | None:
    return dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype


def _changed(config: ChargaffConfig, found: Found) -> dict[str, Any]:
    """Keys of the config that are not as the files have them."""
    before = found.config().family_config
    return {key: value for key, value in config.family_config.items() if key not in before or before[key] != value}
