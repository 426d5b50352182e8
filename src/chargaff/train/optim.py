"""Parameter groups and optimizers (caduceus sheet 3.3, hyenadna sheet 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from chargaff.errors import ConfigError
from chargaff.model import Model
from chargaff.train.config import OptimSpec


def parameter_groups(model: Model, spec: OptimSpec) -> list[dict[str, Any]]:
    """Trainable parameters by weight decay and learning-rate scale, in the order of `named_parameters`.

    Not decayed, in the backbone and in a head that came with it: names that end in "bias", parameters with a true
    attribute `no_weight_decay`, everything of an `nn.Embedding` (thus also a tied head), weights of norms that have a
    bias. RMSNorm weights and a new head's bias follow the spec. A parameter whose attribute `optim` holds an "lr" or
    "weight_decay" of its own has those, unless it is one of the above. Each group also holds "names", "lr_scale",
    "own_lr" (None: that of the spec) and "is_matrix" (with "muon": whether it is for Muon).

    Raises:
        ConfigError: nothing to train.
    """
    exempt = set[int]() if spec.decay_all else _exempt(model, spec)
    matrices = _matrices(model) if spec.kind == "muon" else set[int]()
    groups: dict[tuple[float, float, float | None, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = id(parameter) in matrices
        own = {} if id(parameter) in exempt else getattr(parameter, "optim", {})
        decay = 0.0 if id(parameter) in exempt else own.get("weight_decay", spec.weight_decay)
        scale = spec.layer_decay ** _depth_from_top(model, name) if spec.layer_decay < 1 else 1.0
        own_lr = own.get("lr", spec.matrix_lr if is_matrix else None)
        facts = {"weight_decay": decay, "lr_scale": scale, "own_lr": own_lr, "is_matrix": is_matrix}
        group = groups.setdefault((decay, scale, own_lr, is_matrix), {"params": [], "names": [], **facts})
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ConfigError("train.freeze_backbone: no parameter is left to train; this model has no head of its own")
    return list(groups.values())


def make_optimizer(model: Model, spec: OptimSpec) -> Optimizer:
    """The optimizer over `parameter_groups`; learning rates are set before each step by `set_learning_rate`."""
    groups = parameter_groups(model, spec)
    if spec.kind == "muon":
        return MuonAdamW(groups, spec)
    if spec.kind in ("adamw", "adam"):
        make = torch.optim.AdamW if spec.kind == "adamw" else torch.optim.Adam
        return make(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay)
    if spec.kind == "rmsprop":
        return torch.optim.RMSprop(
            groups, lr=spec.lr, eps=spec.eps, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
    return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)


class MuonAdamW(Optimizer):
    """Muon for the weight matrices of the blocks, AdamW for all else (Jordan et al. 2024; arXiv:2502.16982).

    Muon makes the momentum of a matrix orthogonal before it is applied. Its steps are scaled to the size of AdamW's, so
    that learning rates and weight decay mean the same for both.
    """

    def __init__(self, groups: list[dict[str, Any]], spec: OptimSpec) -> None:
        super().__init__(groups, {})
        self._parts: list[tuple[bool, Optimizer]] = []
        if matrices := [group for group in self.param_groups if group["is_matrix"]]:
            muon = torch.optim.Muon(matrices, lr=spec.lr, momentum=spec.betas[1], adjust_lr_fn="match_rms_adamw")
            self._parts.append((True, muon))
        if others := [group for group in self.param_groups if not group["is_matrix"]]:
            self._parts.append((False, torch.optim.AdamW(others, lr=spec.lr, betas=spec.betas, eps=spec.eps)))
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for _, part in self._parts:
            part.step()

    def _share(self) -> None:
        """Both parts work on this optimizer's groups and state, which alone are saved, loaded and scheduled."""
        for is_matrix, part in self._parts:
            part.param_groups = [group for group in self.param_groups if group["is_matrix"] == is_matrix]
            part.state = self.state


def set_learning_rate(optimizer: Optimizer, lr: float, rate_from: Callable[[float], float] | None = None) -> None:
    """Sets the learning rate of a step.

    Args:
        lr: of the groups without one of their own.
        rate_from: highest learning rate -> that of the step; for the groups that have one of their own.
    """
    for group in optimizer.param_groups:
        own = group["own_lr"]
        group["lr"] = (lr if own is None or rate_from is None else rate_from(own)) * group["lr_scale"]


def _matrices(model: Model) -> set[int]:
    """Identities of the weights of linear layers in the blocks."""
    blocks = getattr(model.backbone, "blocks", None)
    if blocks is None:
        raise ConfigError(
            f"train.optim.kind: {model.spec.family} is not made of blocks, which 'muon' needs; use 'adamw'"
        )
    return {id(module.weight) for module in blocks.modules() if isinstance(module, nn.Linear)}


def _exempt(model: Model, spec: OptimSpec) -> set[int]:
    """Identities of the parameters that are not decayed."""
    exempt = set[int]()
    for module_name, module in model.named_modules():
        is_new_head = module_name.startswith("head") and model.spec.head != "lm"
        for name, parameter in module.named_parameters(recurse=False):
            if is_new_head:
                is_exempt = name.endswith("bias") and not spec.decay_head_bias
            else:
                is_exempt = name.endswith("bias") or _is_exempt_weight(module, parameter, spec)
            if is_exempt or isinstance(module, nn.Embedding) or getattr(parameter, "no_weight_decay", False):
                exempt.add(id(parameter))
    return exempt


def _is_exempt_weight(module: nn.Module, parameter: nn.Parameter, spec: OptimSpec) -> bool:
    """Whether it is the gain of a norm: a vector called weight. Norms without a bias are RMS norms."""
    if parameter is not getattr(module, "weight", None) or parameter.ndim != 1:
        return False
    return getattr(module, "bias", None) is not None or not spec.decay_rms_norm


def _depth_from_top(model: Model, name: str) -> int:
    """0 for the head and final norm, 1 for the last block, ..., number of blocks + 1 for the embedding."""
    blocks = getattr(model.backbone, "blocks", None)
    if blocks is None:
        raise ConfigError(f"train.optim.layer_decay: {model.spec.family} is not made of blocks")
    number = {id(parameter): index for index, block in enumerate(blocks) for parameter in block.parameters()}
    embeddings = {id(parameter) for parameter in _embedding_parameters(model.backbone)}
    parameter = model.get_parameter(name)
    if id(parameter) in embeddings:
        return len(blocks) + 1
    return len(blocks) - number[id(parameter)] if id(parameter) in number else 0


def _embedding_parameters(backbone: nn.Module) -> Iterator[nn.Parameter]:
    for module in backbone.modules():
        if isinstance(module, nn.Embedding):
            yield from module.parameters()
