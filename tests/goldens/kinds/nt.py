"""Kinds of the nt sheet: models in hub and JAX layout, published folders, json.tokenizer.nt."""

import hashlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from case import Case, MismatchError
from models import classifier_loss, open_model
from safetensors.torch import load_file
from torch import Tensor

import chargaff
from chargaff.errors import InputError
from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig
from chargaff.families.nucleotide_transformer.layouts import LAYOUTS
from chargaff.hub.joblib_archive import read_tree
from chargaff.hub.save import export
from chargaff.model import Model, Output
from chargaff.tokenizers.kmer import KmerTokenizer

FAMILY = "nucleotide_transformer"
IGNORED = -100
_FC1 = re.compile(r".*(?:layer\.0\.intermediate\.dense\.weight|attention_layer_0/~/fc1/w)")
_KEY_BIAS = re.compile(r".*key(?:\.bias|/b)")
"""A softmax does not notice what is added to all keys: these gradients are zero, and rounding errors are stored."""


def masked_lm(case: Case) -> None:
    layout, model, packed = _models(case, "lm")
    if layout == "jax":
        output = _compare_jax(case, model)
        _compare_real(case, packed, jax_mask(case))
    else:
        output = _compare_hub(case, model)
        _compare_real(case, packed, case.optional("attention_mask"))
    _check_loss(case, model, output, lambda logits, labels: F.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def sequence_classification(case: Case) -> None:
    _, model, packed = _models(case, "sequence")
    output = _compare_hub(case, model)
    _compare_real(case, packed, case.optional("attention_mask"))
    _check_loss(
        case, model, output, lambda logits, labels: classifier_loss(logits, labels, case.config.get("problem_type"))
    )


def token_classification(case: Case) -> None:
    _, model, packed = _models(case, "token")
    output = _compare_hub(case, model)
    _compare_real(case, packed, case.optional("attention_mask"))
    _check_loss(case, model, output, lambda logits, labels: F.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def hub_folder(case: Case) -> None:
    folder = case.path.with_suffix("") if case.path.stem != "expected" else case.path.parent
    layout = "jax" if (folder / "hyperparams.json").exists() else "hub"
    model = chargaff.load(folder, device=case.device, config={"pads": layout})
    packed = chargaff.load(folder, device=case.device)
    case.require(model.tokenizer.decode(model.tokenizer.encode(_bytes("ACGTN"), special=False)) == "ACGTN", "tokenizer")
    stored = case.group("param.")
    if stored:
        exported = _export(model, layout)
        case.require(set(exported) == set(stored), f"exported names differ: {sorted(set(exported) ^ set(stored))[:5]}")
        for name, tensor in stored.items():
            case.require(torch.equal(exported[name], tensor), f"exported {name} differs")
    if layout == "jax":
        _compare_jax(case, model)
        _compare_real(case, packed, jax_mask(case))
    else:
        _compare_hub(case, model)
        _compare_real(case, packed, case.optional("attention_mask"))


def _models(case: Case, head: str) -> tuple[str, Model, Model]:
    """The layout, a model that computes pads as the original does, and one that spends no work on them."""
    tensors = case.group("param.")
    layout = "jax" if any("/" in name for name in tensors) else "hub"
    config = config_of(case.config, tensors, layout)
    models = [
        open_model(case, FAMILY, each, layout, head, pads=each.pads) for each in (replace(config, pads=layout), config)
    ]
    return layout, models[0], models[1]


def config_of(published: dict[str, Any], tensors: dict[str, Tensor], layout: str) -> NucleotideTransformerConfig:
    """The config, with what only the tensors tell where a case leaves it out."""
    facts: dict[str, Any] = {}
    if layout == "hub":
        fc1 = next(tensor for name, tensor in tensors.items() if _FC1.fullmatch(name))
        is_gated = fc1.shape[0] == 2 * published["intermediate_size"]
        has_bias = any(name.endswith("layer.0.intermediate.dense.bias") for name in tensors)
        facts = {"use_glu_in_ffn": is_gated, "ffn_activation": "swish" if is_gated else "gelu-no-approx"}
        facts["add_bias_fnn"] = has_bias
    elif "alphabet_size" not in published:
        name = next(name for name in tensors if re.fullmatch(r"[^/]+/~/embed/embeddings", name))
        facts = {"alphabet_size": tensors[name].shape[0]}
    return NucleotideTransformerConfig.from_json({**published, **facts})


def _compare_hub(case: Case, model: Model) -> Output:
    ids, mask = case.input("input_ids"), case.optional("attention_mask")
    depth, heads = len(model.backbone.blocks), model.backbone.num_heads
    taps = [f"layer.{k}" for k in range(depth)]
    taps += [f"attn.{k}.{head}" for k in range(1, depth + 1) for head in range(heads)]
    output = model(ids, None if mask is None else mask.bool(), taps=taps)
    assert output.logits is not None
    case.output("logits", output.logits)
    case.output("last_hidden_state", output.encoded.hidden)
    case.output("hidden", output.encoded.hidden)
    for k in range(depth):
        case.output(f"hidden_states_{k}", output.encoded.taps[f"layer.{k}"])
    case.output(f"hidden_states_{depth}", output.encoded.hidden)
    for k in range(1, depth + 1):
        case.output(f"attentions_{k}", torch.stack([output.encoded.taps[f"attn.{k}.{h}"] for h in range(heads)], 1))
    return output


def jax_mask(case: Case) -> Tensor:
    return case.input("tokens") != case.config.get("pad_token_id", 1)


def _compare_jax(case: Case, model: Model) -> Output:
    tokens, mask = case.input("tokens"), jax_mask(case)
    depth, heads = len(model.backbone.blocks), model.backbone.num_heads
    maps = {}
    for name in case.tensors:
        found = re.fullmatch(r"output\.(attention_map_layer_(\d+)_number_(\d+))", name)
        if found:  # reference quirk: number h is 0-indexed head h + 1, and the last head where there is none
            maps[found[1]] = f"attn.{found[2]}.{min(int(found[3]) + 1, heads - 1)}"
    output = model(tokens, mask, taps=[f"layer.{k}" for k in range(1, depth)] + list(maps.values()))
    assert output.logits is not None
    case.output("logits", output.logits)
    for k in range(1, depth):
        case.output(f"embeddings_{k}", output.encoded.taps[f"layer.{k}"])
    case.output(f"embeddings_{depth}", output.encoded.hidden)
    for name, tap in maps.items():
        case.output(name, output.encoded.taps[tap])
    return output


@torch.no_grad()
def _compare_real(case: Case, model: Model, mask: Tensor | None) -> None:
    """The way users run it: real positions alone, which must agree."""
    ids = case.input("input_ids" if case.has("input.input_ids") else "tokens")
    output = model(ids, None if mask is None else mask.bool())
    assert output.logits is not None
    depth = len(model.backbone.blocks)
    found = {"logits": output.logits, "hidden_states_": output.encoded.hidden, "embeddings_": output.encoded.hidden}
    for name, actual in found.items():
        full = f"{name}{depth}" if name.endswith("_") else name
        if not case.has(f"output.{full}"):
            continue
        expected = case.tensors[f"output.{full}"].to(actual.device)
        if mask is not None and actual.dim() == 3:
            actual = torch.where(mask.bool().unsqueeze(2), actual, expected)
        case.output(full, actual)


def _check_loss(case: Case, model: Model, output: Output, loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
    if not case.has("input.labels"):
        return
    assert output.logits is not None
    loss = loss_of(output.logits, case.input("labels"))
    case.output("loss", loss, lambda b: 1e-5)
    model.zero_grad(set_to_none=True)
    loss.backward()
    stored = case.group("grad.")
    layout = "jax" if any("/" in name for name in stored) else "hub"
    numbered = {name: torch.tensor(number) for number, name in enumerate(stored)}
    read = LAYOUTS[layout].read(numbered, model.spec.config)
    ours = {int(tag): name for name, tag in read.items()}
    parameters = dict(model.named_parameters())
    for number, name in enumerate(stored):
        gradient = parameters[ours[number]].grad
        found = gradient.t() if gradient is not None and name.endswith("/w") else gradient
        case.gradient(name, found, (lambda b: 1e-6) if _KEY_BIAS.fullmatch(name) else None)


def _export(model: Model, layout: str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "exported", layout=layout)
        if layout == "jax":
            return read_tree(Path(folder) / "exported" / "pytree_ckpt.joblib")
        return load_file(Path(folder) / "exported" / "model.safetensors")


def _bytes(text: str):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.frombuffer(text.encode(), np.uint8)


def tokenizer(values: dict[str, Any]) -> None:
    tokenizers = {f"{version}_{k}mer": KmerTokenizer(k, version) for version in ("v1", "v2") for k in range(1, 8)}  # type: ignore[arg-type]
    for case in values.get("cases", []):
        for name, expected in case.items():
            match = re.fullmatch(r"(jax|hub)_(v[12]_\dmer)", name)
            if match:
                _one_text(tokenizers[match[2]], case["sequence"], match[1], expected)
    for case in values.get("batches", []):
        _batch(tokenizers, case)
    single = replace(tokenizers["v2_1mer"], adds_cls=False)
    for case in values.get("single_base_1mer", []):
        _one_text(single, case["sequence"], "jax", case)
    for name, expected in values.get("vocab", {}).items():
        version, source, k = (
            next(word for word in name.split("_") if re.fullmatch(pattern, word))
            for pattern in (r"v[12]", r"hub|jax", r"\dmer")
        )
        found = replace(tokenizers[f"{version}_{k}"], has_trailing_ends=(version, source) == ("v1", "jax")).vocab
        digest = hashlib.sha256("\n".join(found).encode()).hexdigest()
        facts = {"size": len(found), "list": list(found), "sha256_newline_joined_no_trailing_newline": digest}
        for key, value in expected.items():
            _same(facts[key], value, f"{name} {key}")


def _one_text(tokenizer: KmerTokenizer, text: str, rules: str, expected: dict[str, Any]) -> None:
    where = f"{text!r} by {rules} k={tokenizer.k} {tokenizer.version}"
    if "error" in expected:
        try:
            found = tokenizer.tokenize(text, rules=rules)  # type: ignore[arg-type]
        except InputError:
            return
        raise MismatchError(f"{where}: {found}, expected an error")
    _same(tokenizer.tokenize(text, rules=rules), expected["tokens"], where)  # type: ignore[arg-type]
    _same(tokenizer.encode_text(text, rules=rules), expected["ids"], where)  # type: ignore[arg-type]
    if set(text) <= set("ACGTN"):  # where the array path agrees with both
        _same(tokenizer.encode(_bytes(text)).tolist(), expected["ids"], f"{where} as an array")


def _batch(tokenizers: dict[str, KmerTokenizer], case: dict[str, Any]) -> None:
    found = []
    for version in ("v1", "v2"):
        try:
            rows = tokenizers[f"{version}_6mer"].batch_tokenize(case["sequences"], fixed_tokens=case["fixed_length"])
            found.append([ids for _, ids in rows])
        except InputError:
            found.append(None)  # type: ignore[arg-type]
    expected = None if "error" in case else case["ids"]
    if expected not in found:
        raise MismatchError(f"batch {case['sequences']}: {found}, expected {expected}")


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise MismatchError(f"{what}: {found!r}, expected {expected!r}")


KINDS = {
    "nt/masked_lm": masked_lm,
    "nt/sequence_classification": sequence_classification,
    "nt/token_classification": token_classification,
    "nt/hub_folder": hub_folder,
    "json.tokenizer.nt": tokenizer,
}
