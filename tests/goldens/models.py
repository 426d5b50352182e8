"""Models from golden files, through the package's own loading code."""

from typing import Any

import torch
from case import Case, TodoError
from torch import Tensor

from chargaff.families import get_family, list_families
from chargaff.hub.load import from_tensors
from chargaff.model import Model
from chargaff.nn.encoded import Encoded


def family_of(case: Case) -> str:
    """Our family for a case: the caduceus sheet also covers the causal baseline and the CNN."""
    if case.family == "caduceus":
        return {"causal_lm": "mamba", "cnn_classifier": "cnn"}.get(case.kind, "caduceus")
    if case.family in list_families():
        return case.family
    raise TodoError(f"family {case.family}")


def load_model(case: Case, family: str, head: str, **head_options: Any) -> Model:
    """The model of `param.*`, converted and assigned as a published file would be."""
    config = get_family(family).config.from_json(case.config)
    model = from_tensors(family, config, case.group("param."), head=head, head_options=head_options, device=case.device)
    return model.eval()


def compare_gradients(case: Case, model: Model, loss: Tensor) -> None:
    """Compares grad.* under their published names with the gradients of `loss`."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    stored = case.group("grad.")
    family = get_family(model.spec.family)
    numbered = {name: torch.tensor(number) for number, name in enumerate(stored)}
    ours = {int(tag): name for name, tag in family.layouts["hub"].read(numbered, model.spec.config).items()}
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
