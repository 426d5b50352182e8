"""encoder, masked_lm and sequence_classification of dnabert; op.alibi; tokenizer.text."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from case import Case, SkipError
from models import classifier_loss, load_model
from torch import Tensor

from chargaff.families import get_family
from chargaff.families.dnabert2.model import masked_lm_loss
from chargaff.model import Model
from chargaff.nn.pooling import pool
from chargaff.ops.attention import alibi_slopes, attention_weights
from chargaff.tokenizers.bpe import BpeEncoding, BpeTokenizer

FAMILY = "dnabert2"


def encoder(case: Case) -> None:
    model = load_model(case, FAMILY, "pooler")
    ids, mask = case.input("input_ids"), case.input("attention_mask")
    depth = len(model.backbone.blocks)
    names = [f"layer.{k}" for k in range(depth + 1)] + [f"attn.{k}" for k in range(1, depth + 1)]
    encoded = model.backbone(ids, mask, taps=names, segments=case.optional("token_type_ids"))
    hidden = encoded.hidden
    case.require(not hidden[mask == 0].any(), "states at padded positions are not zero")
    case.output("last_hidden_state", hidden)
    case.output("embeddings", encoded.taps["layer.0"])
    for k in range(1, depth + 1):
        case.output(f"hidden_states.{k}", encoded.taps[f"layer.{k}"])
        _compare_maps(case, f"attentions.{k - 1}", encoded.taps[f"attn.{k}"], mask)
    assert model.head is not None
    pooled, mean = model.head(encoded, mask), pool(hidden, mask, "mean-all")
    case.output("pooled", pooled)
    case.output("mean_pooled", mean)
    if case.has("input.loss_w_hidden"):
        weighted = (hidden * case.input("loss_w_hidden")).sum() / mask.sum()
        loss = weighted + (pooled * case.input("loss_w_pooled")).mean() + mean.square().mean()
        case.output("loss", loss, _relative)
        _compare_gradients(case, model, loss)


def masked_lm(case: Case) -> None:
    model = load_model(case, FAMILY, "lm")
    ids, mask = case.input("input_ids"), case.optional("attention_mask")
    output = model(ids, mask)
    logits = output.logits
    assert logits is not None
    case.output("last_hidden_state", output.encoded.hidden)
    case.output("logits", logits, lambda b: 1e-4)
    if not case.has("input.labels"):
        return
    labels = case.input("labels")
    case.output("logits_with_labels", logits * (labels > 0).unsqueeze(-1), lambda b: 1e-4)
    loss = masked_lm_loss(logits, labels)
    case.output("loss", loss, _relative)
    _compare_gradients(case, model, loss)


def sequence_classification(case: Case) -> None:
    model = load_model(case, FAMILY, "sequence")
    ids, mask = case.input("input_ids"), case.optional("attention_mask")
    output = model(ids, mask)
    assert output.logits is not None
    case.output("last_hidden_state", output.encoded.hidden)
    case.output("logits", output.logits)
    loss = classifier_loss(output.logits, case.input("labels"), case.config.get("problem_type"))
    case.output("loss", loss, _relative)
    _compare_gradients(case, model, loss)


def op_alibi(case: Case) -> None:
    for heads in case.config["heads"]:
        slopes = alibi_slopes(heads).to(case.device)
        case.output(f"slopes.h{heads}", slopes, _exact)
        for size in case.config["sizes"]:
            place = torch.arange(size, device=case.device)
            distance = (place.unsqueeze(1) - place).abs()
            bias = -slopes.view(1, -1, 1, 1) * distance
            case.output(f"bias.h{heads}.n{size}", bias, _exact)
            # the operator has that bias: without scores its weights are the softmax of it
            nothing = torch.zeros(1, size, heads, 1, device=case.device)
            weights = attention_weights(nothing, nothing, slopes=slopes)
            case.require(torch.allclose(weights, bias.softmax(-1)), f"the operator's bias differs for {heads} heads")


def tokenizer_text(case: Case) -> None:
    tokenizer = BpeTokenizer.from_published({"tokenizer.json": _vocabulary(case).read_text(encoding="utf-8")})
    sides = {name: case.config.get(name, "right") for name in ("padding_side", "truncation_side")}
    tokenizer = replace(tokenizer, **sides)
    limit = case.config.get("max_length")
    texts = _texts(case, "text")
    for number, text in texts.items():
        case.output(f"ids.{number}", torch.tensor(tokenizer.encode_text(text).input_ids))
    batch = list(_texts(case, "batch_text").values())
    if batch:
        longest = tokenizer.encode_text(batch, padding=True, truncation=True, max_length=limit)
        _compare_batch(case, longest, ids="batch_ids", mask="batch_mask")
        widest = tokenizer.encode_text(batch, padding="max_length", truncation=True, max_length=limit)
        _compare_batch(case, widest, ids="batch_ids_padmax", mask="batch_mask_padmax")
    first, second = (list(_texts(case, f"pair_{name}").values()) for name in "ab")
    if first:
        found = tokenizer.encode_text(first, second, padding=True)
        _compare_batch(case, found, ids="pair_ids", mask="pair_mask")
        case.output("pair_type_ids", torch.tensor(found.token_type_ids))


def _vocabulary(case: Case) -> Path:
    """Beside the file, or where the tests look for shared data; it is not part of this repository."""
    given = os.environ.get("CHARGAFF_TEST_TOKENIZER")
    root = Path(os.environ.get("CHARGAFF_TEST_DATA", Path(__file__).resolve().parents[4] / "shared"))
    places = [Path(given)] if given else []
    places += [case.path.with_name("tokenizer.json"), root / "goldens" / "dnabert" / "tokenizer.json"]
    for place in places:
        if place.is_file():
            return place
    raise SkipError("no tokenizer.json of DNABERT-2 at hand (it is not part of this repository): use --tokenizer")


def _texts(case: Case, name: str) -> dict[int, str]:
    prefix = f"input.{name}."
    numbers = sorted(int(key.removeprefix(prefix)) for key in case.tensors if key.startswith(prefix))
    return {i: bytes(case.input(f"{name}.{i}").cpu().tolist()).decode("utf-8") for i in numbers}


def _compare_batch(case: Case, found: BpeEncoding, *, ids: str, mask: str) -> None:
    case.output(ids, torch.tensor(found.input_ids))
    case.output(mask, torch.tensor(found.attention_mask))


def _compare_maps(case: Case, name: str, maps: Tensor, mask: Tensor) -> None:
    """Rows of real query tokens; what the reference has in the others means nothing."""
    if case.has(f"output.{name}"):
        real = mask.bool()[:, None, :, None].to(maps.device)
        stored = case.tensors[f"output.{name}"].to(maps.device)
        case.output(name, torch.where(real, maps, stored))


def _compare_gradients(case: Case, model: Model, loss: Tensor) -> None:
    """As `models.compare_gradients`, but whose a pooler is shows from all names, not from those of the gradients."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    numbered = {name: torch.tensor(number) for number, name in enumerate(case.group("param."))}
    read = get_family(FAMILY).layouts["hub"].read(dict(numbered), model.spec.config)
    ours = {int(tag): name for name, tag in read.items()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in case.group("grad."):
        case.gradient(name, parameters[ours[int(numbered[name])]].grad)


def _relative(expected: Tensor) -> Tensor:
    return 1e-4 * expected.abs().double()


def _exact(expected: Tensor) -> Tensor:
    return 1e-7 * expected.abs().double() + 1e-30


KINDS = {
    "encoder": encoder,
    "dnabert/masked_lm": masked_lm,
    "dnabert/sequence_classification": sequence_classification,
    "op.alibi": op_alibi,
    "tokenizer.text": tokenizer_text,
}
