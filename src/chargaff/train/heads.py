"""Putting a task's head on a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import nn

from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub.heads import build_head
from chargaff.model import Model
from chargaff.tasks.protocol import Task


@runtime_checkable
class StartsHead(Protocol):
    """A task that knows better first weights than chance."""

    def start_head(self, head: nn.Module) -> None: ...


def attach_head(model: Model, task: Task, labels: tuple[str, ...] = ()) -> None:
    """Gives the model the head that the task needs, with fresh weights from torch's global generator.

    A head that fits is kept, weights and all; the model's description follows.

    Args:
        labels: names of the head's outputs; () keeps what the model says of a head that stays.

    Raises:
        ConfigError: the model cannot do this task, or there is not one label per output.
    """
    wanted = task.head(model)
    if wanted is None:
        if labels and labels != model.spec.labels:
            model.spec = replace(model.spec, labels=labels, thresholds={})
        return
    kind, options = wanted
    if labels and len(labels) != options.get("num_outputs"):
        raise ConfigError(f"task: {len(labels)} labels for {options.get('num_outputs')} outputs")
    spec = model.spec
    family = get_family(spec.family)
    head, complete = build_head(family, kind, spec.config, model.backbone, options)
    assert head is not None
    if kind in family.extra_heads:
        family.init(head, spec.config)
    if isinstance(task, StartsHead):
        task.start_head(head)
    model.head = head.to(model.device)
    parent = spec.parent or spec.name
    model.spec = replace(spec, head=kind, head_options=complete, labels=labels, thresholds={}, parent=parent, sha256="")
