"""track_prediction, segmentation on Enformer and Borzoi, op.position_features."""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from case import Case
from kinds import nt
from models import compare_gradients, open_model
from torch import Tensor

from chargaff.families import get_family
from chargaff.families.borzoi.positions import position_features as borzoi_features
from chargaff.families.enformer.positions import position_features as enformer_features
from chargaff.model import Model
from chargaff.nn.relative_attention import relative_shift
from chargaff.tasks.tracks import pearson_per_row, poisson_loss

LETTERS = {10: "A", 11: "T", 12: "C", 13: "G", 14: "N"}
"""1-mer token ids of the JAX programs."""


def LOSS(expected: Tensor) -> float:  # noqa: N802 (a constant tolerance)
    return 1e-5


def track_prediction(case: Case) -> None:
    family, layout = _family(case), _layout(case)
    model = _load(case, family, layout, "tracks")
    if layout == "jax":
        _jax_outputs(case, model)
    elif family == "enformer":
        _enformer(case, model)
    else:
        _borzoi(case, model)


def segmentation(case: Case) -> None:
    family, layout = _family(case), _layout(case)
    if family == nt.FAMILY:
        _segment_nt(case, layout)
        return
    _jax_outputs(case, _load(case, family, layout, "tracks"))
    model = _load(case, family, layout, "segmentation")
    for output in _both_ways(case, model):
        assert output.logits is not None
        case.output("logits", output.logits)
        case.output("probabilities", output.logits.softmax(-1)[..., 1])
    labels = case.optional("labels")
    if labels is not None:
        loss = F.cross_entropy(output.logits.flatten(0, -2), labels.flatten())
        case.output("loss", loss, LOSS)


def _segment_nt(case: Case, layout: str) -> None:
    tensors = case.group("param.")
    published = {**case.config, "unet_levels": _levels(tensors)}
    config = replace(nt.config_of(published, tensors, layout), pads=layout)
    model = open_model(case, nt.FAMILY, config, layout, "segmentation", pads=layout)
    _compare_segment_nt(case, layout, model)


def _compare_segment_nt(case: Case, layout: str, model: Model) -> None:
    """As the originals compute it: padding goes into the U-Net like anything else."""
    if layout == "jax":
        ids, mask = case.input("tokens"), nt.jax_mask(case)
    else:
        given = case.optional("attention_mask")
        ids, mask = case.input("input_ids"), None if given is None else given.bool()
    depth = len(model.backbone.blocks)
    encoded = model.encode(ids, mask, taps=[f"layer.{k}" for k in range(depth)])
    for k in range(depth + 1):
        state = encoded.hidden if k == depth else encoded.taps[f"layer.{k}"]
        case.output(f"hidden_states_{k}", state)
        case.output(f"embeddings_{k}", state)
    assert model.head is not None
    logits = model.head(encoded)
    case.output("logits", logits)
    case.output("probabilities", logits.softmax(-1)[..., 1])
    labels = case.optional("labels")
    if labels is not None:
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        case.output("loss", loss, LOSS)
        compare_gradients(case, model, loss)


def position_features(case: Case) -> None:
    length, columns = int(case.config["seq_len"]), int(case.config["feature_size"])
    stored = case.optional("seq_len")
    case.require(stored is None or int(stored) == length, "input.seq_len repeats the config")
    wanted = case.optional("rows")

    def rows(features: Tensor) -> Tensor:
        return features if wanted is None else features[wanted.cpu()]

    if case.has("output.column_sums_first_half") or case.family == "borzoi":
        features = borzoi_features(length, columns)
        case.output("features", rows(features), lambda b: 1e-30)
        case.output("column_sums_first_half", features[:, : columns // 2].sum(0), lambda b: 1e-30)
        return
    group = torch.arange(columns) % (columns // 2) // (columns // 6)
    allowed = torch.where(group == 2, 5e-3, 1e-6)  # gamma columns carry the noise of a float32 log-gamma
    for name, by_feature in (("default", False), ("jax", False), ("tf_gamma", True)):
        features = enformer_features(length, columns, by_feature=by_feature)
        case.output(f"features_{name}", rows(features), lambda b: allowed)
    shifted = case.optional("relative_shift")
    if shifted is not None:
        case.output("relative_shift", relative_shift(shifted), lambda b: 1e-6)


def _enformer(case: Case, model: Model) -> None:
    names = ("stem", "conv_tower", "transformer")
    taps = ("stem", "conv_tower")
    head: Any = model.head
    for output in _both_ways(case, model, taps):
        states = {**output.encoded.taps, "transformer": output.encoded.hidden}
        for name in names:
            case.output(name, states[name] if name == "transformer" else states[name].transpose(1, 2))
        case.output("embeddings", head.embed(output.encoded))
        for name, place in head.slices.items():
            case.output(name, output.logits[..., place])
        for name, place in head.slices.items():
            target = case.optional(f"target_{name}")
            if target is None:
                continue
            predicted = output.logits[..., place]
            loss = poisson_loss(predicted, target)
            case.output(f"poisson_loss_{name}", loss, LOSS)
            case.output(f"pearson_{name}", pearson_per_row(predicted, target))
            if torch.is_grad_enabled():
                compare_gradients(case, model, loss)


def _borzoi(case: Case, model: Model) -> None:
    head: Any = model.head
    for output in _both_ways(case, model, ("cropped",)):
        case.output("embs_after_crop", output.encoded.taps["cropped"].transpose(1, 2))
        case.output("embedding", output.encoded.hidden.transpose(1, 2))
        tracks = {name: output.logits[..., place].transpose(1, 2) for name, place in head.slices.items()}
        for name, values in tracks.items():
            case.output(name, values)
        target = case.optional("target")
        if target is not None:
            loss = (tracks["human"] - target * torch.log(tracks["human"] + 1e-6)).mean()
            case.output("loss", loss, LOSS)
            if torch.is_grad_enabled():
                compare_gradients(case, model, loss)


def _jax_outputs(case: Case, model: Model) -> None:
    head: Any = model.head
    for output in _both_ways(case, model):
        case.output("embedding_transformer_tower", output.encoded.hidden)
        case.output("embedding", head.embed(output.encoded))
        for name, place in head.slices.items():
            case.output(f"{name}_head", output.logits[..., place])


def _both_ways(case: Case, model: Model, taps: Collection[str] = ()) -> Any:
    """Outputs from the channels, with gradients, and from tokens, by the path of inference."""
    channels = case.input("one_hot").float()
    if channels.shape[1] == 4 and channels.shape[2] != 4:
        channels = channels.transpose(1, 2)
    given = case.optional("tokens")
    fed: Tensor = channels
    if given is not None:
        letters = {number: model.tokenizer.vocab.index(letter) for number, letter in LETTERS.items()}
        fed = torch.tensor([letters[i] for i in given.flatten().tolist()], device=case.device).reshape(given.shape)
        rows = torch.tensor([["ACGT".find(LETTERS[i]) == c for c in range(4)] for i in given.flatten().tolist()])
        case.require(torch.equal(rows.float().reshape(channels.shape), channels.cpu()), "tokens and one_hot differ")
    with torch.no_grad():
        yield model(fed, taps=taps)
    yield model(channels, taps=taps)


def _layout(case: Case) -> str:
    return "jax" if any("/" in name for name in case.group("param.")) else "hub"


def _family(case: Case) -> str:
    """Our family, from the names of the parameters."""
    names = case.group("param.")

    def has(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    if has("encoder.layer.", "attention_layer_"):
        return nt.FAMILY
    return "borzoi" if has("Borzoi/", "conv_dna.", "_unet_conv") else "enformer"


def _levels(tensors: Collection[str]) -> int | None:
    """Halvings of a stored U-Net; None if there is none."""
    found = {match[1] for name in tensors if (match := re.search(r"downsample_blocks?[._](\d+)", name))}
    return len(found) or None


def _load(case: Case, family: str, layout: str, head: str) -> Model:
    tensors = case.group("param.")
    config = dict(case.config)
    for organism in ("human", "mouse"):
        if layout == "jax" and not any(name.endswith(f"{organism}_head/w") for name in tensors):
            config.pop(f"num_{organism}_output_heads", None)
    levels = _levels(tensors)
    if levels is not None:
        config["unet_levels"] = levels
    parsed = get_family(family).config.from_json(config)
    return open_model(case, family, parsed, layout, head)


KINDS = {
    "track_prediction": track_prediction,
    "enformer/segmentation": segmentation,
    "borzoi/segmentation": segmentation,
    "segment/segmentation": segmentation,
    "op.position_features": position_features,
}
