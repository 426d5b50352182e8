"""Models from golden files, through the package's own loading code."""

from typing import Any

import torch
import torch.nn.functional as F
from case import Case, TodoError
from torch import Tensor

import chargaff
from chargaff.families import get_family, list_families
from chargaff.hub.load import from_tensors
from chargaff.model import Model
from chargaff.nn.encoded import Encoded

NOT_OF_THE_MODEL = ("soft_tokens",)
"""Parameters that a file holds beside the model's."""


def family_of(case: Case) -> str:
    """Our family for a case: the caduceus sheet also covers the causal baseline and the CNN."""
    if case.family == "caduceus":
        return {"causal_lm": "mamba", "cnn_classifier": "cnn"}.get(case.kind, "caduceus")
    if case.family in list_families():
        return case.family
    raise TodoError(f"family {case.family}")


def open_model(case: Case, family: str, config: Any, layout: str, head: str, **overrides: Any) -> Model:
    """The model of `param.*` under published names, or of the case's folder.

    Args:
        overrides: config keys that the case sets though no published file has them.
    """
    if case.folder is None:
        tensors = case.group("param.")
        return from_tensors(family, config, tensors, layout=layout, head=head, device=case.device).eval()
    is_described = any((case.folder / name).exists() for name in ("config.json", "hyperparams.json"))
    given = overrides if is_described else {**config.to_json(), **overrides}
    return chargaff.load(case.folder, head=head, device=case.device, config=given)


def load_model(case: Case, family: str, head: str, **head_options: Any) -> Model:
    """The model of `param.*`, converted and assigned as a published file would be."""
    variant = {"variant": case.meta["variant"]} if "variant" in case.meta else {}
    config = get_family(family).config.from_json({**case.config, **variant})
    tensors = {name: tensor for name, tensor in case.group("param.").items() if name not in NOT_OF_THE_MODEL}
    model = from_tensors(family, config, tensors, head=head, head_options=head_options, device=case.device)
    return model.eval()


def compare_gradients(case: Case, model: Model, loss: Tensor) -> None:
    """Compares grad.* under their published names with the gradients of `loss`."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    stored = case.group("grad.")
    family = get_family(model.spec.family)
    numbered = {name: torch.tensor(number) for number, name in enumerate(stored)}
    read = family.layouts["hub"].read(numbered, model.spec.config)
    ours = {int(tag): name for name, tag in read.items() if tag.dim() == 0}  # others were rebuilt, not stored
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for number, name in enumerate(stored):
        case.gradient(name, parameters[ours[number]].grad)


def reference_states(model: Model, encoded: Encoded) -> dict[str, Tensor]:
    """States under the names and in the layout of the published code (caduceus sheet 2.5, 2.6)."""
    states = {"last_hidden_state": encoded.hidden}
    if encoded.hidden_rc is not None:
        states["last_hidden_state"] = torch.cat([encoded.hidden, encoded.hidden_rc.flip(-1)], -1)
    if "layer.0" not in encoded.taps:
        return states
    depth = len(model.backbone.blocks)
    config = model.spec.config
    swaps = getattr(config, "rcps", False) and config.fused_add_norm
    for index in range(depth):
        stream, branch = encoded.taps[f"layer.{index}"], encoded.taps[f"layer.{index + 1}.branch"]
        states[f"layer{index}.hidden"] = branch
        states[f"layer{index}.residual"] = torch.cat(stream.chunk(2, -1)[::-1], -1) if swaps else stream
        states[f"hidden_states.{index}"] = stream if index == 0 else encoded.taps[f"layer.{index}.branch"]
    if config.fused_add_norm:
        states[f"hidden_states.{depth}"] = states["last_hidden_state"]
    return states


def classifier_loss(logits: Tensor, labels: Tensor, problem: str | None) -> Tensor:
    """By problem type; if none is given, by the shape of the logits and the type of the labels."""
    if problem is None:
        if logits.shape[1] == 1:
            problem = "regression"
        else:
            problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    if problem == "regression":
        return F.mse_loss(logits.squeeze(), labels.squeeze())
    if problem == "single_label_classification":
        return F.cross_entropy(logits, labels.flatten())
    return F.binary_cross_entropy_with_logits(logits, labels)
