"""Kinds of the hyenadna sheet: models, op.hyena_filter, op.sequence_decoder, soft_prompt, json.tokenizer.hyenadna."""

from typing import Any

import torch
import torch.nn.functional as F
from case import Case, MismatchError
from models import classifier_loss, compare_gradients, load_model
from torch import Tensor

from chargaff.families.hyenadna.config import HyenaLayerConfig
from chargaff.families.hyenadna.filter import HyenaFilter, circular_conv
from chargaff.families.hyenadna.pooling import Decoder
from chargaff.hub.assign import assign
from chargaff.model import Model, Output
from chargaff.nn.encoded import Encoded
from chargaff.ops.long_conv import long_conv
from chargaff.tasks.prompt import SoftPrompt, label_positions
from chargaff.tokenizers.char import CharTokenizer

PAD = 4


def language_model(case: Case) -> None:
    """causal_lm of this family."""
    model = load_model(case, "hyenadna", "lm")
    numbered = sorted(name for name in case.tensors if name.startswith("input.input_ids."))
    for name in numbered:
        number = name.rpartition(".")[2]
        states(case, model, case.input(f"input_ids.{number}"), f".{number}")
    if numbered:
        return
    ids = case.input("input_ids")
    logits = states(case, model, ids, "").logits
    assert logits is not None
    if case.has("input.labels"):
        case.require(torch.equal(case.input("labels"), ids), "labels are not the ids")
    if case.has("output.loss"):
        loss = _next_token_loss(logits, ids)
        case.output("loss", loss)
        if case.has("output.loss_ignore_pad"):
            loss = _next_token_loss(logits, ids, ignore=PAD)
            case.output("loss_ignore_pad", loss)
        compare_gradients(case, model, loss)


def _next_token_loss(logits: Tensor, ids: Tensor, ignore: int = -100) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=ignore)


def states(case: Case, model: Model, ids: Tensor, suffix: str) -> Output:
    """Compares every stored state of `ids`, with and without gradients and with carried state."""
    blocks = model.backbone.blocks
    depth = len(blocks)
    output = model(ids, taps=[f"layer.{k}" for k in range(depth + 1)])
    stream = [output.encoded.taps[f"layer.{k}"] for k in range(depth + 1)]
    if case.meta.get("variant") == "hf":
        stream.append(output.encoded.hidden)
    for k, state in enumerate(stream):
        case.output(f"hidden_states.{k}{suffix}", state)
    for k, block in enumerate(blocks):
        mixed, branch = block(stream[k])
        case.output(f"block.{k}.hidden{suffix}", branch)
        case.output(f"block.{k}.residual{suffix}", mixed)
    normed = blocks[0].norm1(stream[0])
    case.output(f"layer0.mixer_input{suffix}", normed)
    case.output(f"layer0.mixer_output{suffix}", blocks[0].mixer(normed))
    with torch.no_grad():  # in blocks of channels and positions then
        lean = model(ids)
    found = [output, lean]
    if hasattr(model.backbone, "forward_chunk"):
        found.append(_stepped(model, ids))
    for each in found:
        case.output(f"last_hidden_state{suffix}", each.encoded.hidden)
        if each.logits is not None and model.spec.head == "lm":
            case.output(f"logits{suffix}", each.logits)
    return output


@torch.no_grad()
def _stepped(model: Model, ids: Tensor) -> Output:
    """A prefill of 7 tokens, three single ones, and the rest."""
    assert model.head is not None
    state = model.backbone.init_state(ids.shape[0])
    hidden = []
    for piece in (ids[:, :7], ids[:, 7:8], ids[:, 8:9], ids[:, 9:10], ids[:, 10:]):
        if piece.shape[1]:
            encoded, state = model.backbone.forward_chunk(piece, state)
            hidden.append(encoded.hidden)
    encoded = Encoded(torch.cat(hidden, 1))
    return Output(encoded, model.head(encoded))


def sequence_classification(case: Case) -> None:
    if case.has("input.input_ids_left_padded"):
        _hub_classifier(case)
        return
    model = load_model(case, "hyenadna", "sequence", pooling="mean", bias=True)
    encoded = states(case, model, case.input("input_ids"), "").encoded
    assert model.head is not None
    linear = model.head.linear
    for mode in ("pool", "last", "first", "sum"):
        case.output(f"logits_{mode}", Decoder(mode, 0)(linear, encoded.hidden))
    logits = model.head(encoded)
    case.output("logits", logits)
    loss = classifier_loss(logits, case.input("labels"), case.config.get("problem_type"))
    case.output("loss", loss)
    compare_gradients(case, model, loss)


def _hub_classifier(case: Case) -> None:
    """The position before the first pad, or the last one, decides."""
    model = load_model(case, "hyenadna", "sequence", pooling="last", bias=False)
    pad = case.config.get("pad_token_id", PAD)
    logits = {}
    for side in ("left", "right"):
        ids = case.input(f"input_ids_{side}_padded")
        encoded = model.encode(ids)
        assert model.head is not None
        logits[side] = model.head(encoded, Decoder.hub_mask(ids, pad))
        case.output(f"logits_{side}_padded", logits[side])
    loss = classifier_loss(logits["left"], case.input("labels"), case.config.get("problem_type"))
    case.output("loss_left_padded", loss)
    compare_gradients(case, model, loss)


def op_hyena_filter(case: Case) -> None:
    given = dict(case.config)
    length, width = given["L"], given["d_model"]
    known = HyenaLayerConfig.__dataclass_fields__
    options = {key: value for key, value in given.items() if key in known and key != "order"}
    layer = HyenaLayerConfig(l_max=given["seq_len"], filter_order=given["order"], **options)
    module = HyenaFilter(width, layer, given.get("shift", 0.0), is_blocked=True)
    tensors = case.group("param.")
    assign(module, tensors, where=case.label, device=case.device)
    kernel, skip, u = module.kernels(length)[0], module.skips()[0], case.input("u")
    case.output("z", module.pos_emb.z[:, :length])
    case.output("t", module.pos_emb.t[:, :length])
    case.output("k", kernel.t().unsqueeze(0))
    if layer.bidirectional:
        y = circular_conv(u, kernel) + u * skip.unsqueeze(1)
    else:
        y = long_conv(u, kernel, skip)
        with torch.no_grad():
            spectra = module.cached_spectra(length)
            assert spectra is not None
            case.output("y", long_conv(u, None, skip, spectrum=spectra[0]))
    case.output("y", y)
    loss = (y * torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)).sum()
    case.output("loss", loss)
    loss.backward()
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in case.group("grad."):
        case.gradient(name, parameters[name].grad)


def op_sequence_decoder(case: Case) -> None:
    x, mask, left = case.input("x"), case.optional("mask"), case.optional("mask_left")
    weight = case.tensors["param.output_transform.weight"].to(x.device)
    bias = case.tensors["param.output_transform.bias"].to(x.device)
    case.require(list(weight.shape) == [case.config["d_output"], case.config["d_model"]], "shape of the linear layer")

    def linear(values: Tensor) -> Tensor:
        return F.linear(values, weight, bias)

    lengths = case.optional("lengths")
    if mask is not None and lengths is not None:
        case.require(torch.equal(mask.sum(1), lengths), "lengths are not the number of true mask entries")
    for mode in ("pool", "last", "first", "sum"):
        case.output(mode, Decoder(mode, 0)(linear, x))
        case.output(f"{mode}_l3", Decoder(mode, 3)(linear, x))
        if lengths is not None:
            case.output(f"{mode}_use_lengths", Decoder(mode, 0)(linear, x, lengths=lengths))
    case.output("last_full", Decoder("last", None)(linear, x))
    case.output("ragged", Decoder("ragged", None)(linear, x, lengths=torch.tensor([5, 7, 12])))
    case.output("token", linear(x))
    case.output("nd_pool", linear(x.mean(1)))
    case.output("pool_unmasked", Decoder("pool", 0)(linear, x))
    if mask is not None:
        case.output("pool_masked", Decoder("pool", 0)(linear, x, mask=mask))
        case.output("last_masked", Decoder("last", 0)(linear, x, mask=mask))
    if left is not None:
        case.output("pool_masked_left", Decoder("pool", 0)(linear, x, mask=left))


def soft_prompt(case: Case) -> None:
    model = load_model(case, "hyenadna", "lm")
    vectors = case.tensors["param.soft_tokens"]
    case.require(len(vectors) == case.config["n_soft_tokens"], "number of soft tokens")
    prompt = SoftPrompt(*vectors.shape).to(case.device).eval()
    with torch.no_grad():
        prompt.soft_tokens.copy_(vectors)
    ids, labels, max_length = case.input("input_ids"), case.input("labels"), case.config["max_length"]
    case.output("logits_eval", prompt(model, ids))
    case.output("label_positions", label_positions(ids.shape[1] + 1, max_length))
    loss, accuracy = prompt.loss(model, ids, labels, max_length)
    case.output("loss", loss)
    case.output("acc", accuracy)
    loss.backward()
    case.gradient("soft_tokens", prompt.soft_tokens.grad)


def tokenizer(values: dict[str, Any]) -> None:
    for case in values.get("cases", []):
        ours = CharTokenizer.hyenadna(
            case["flavor"],
            padding_side=case.get("padding_side", "left"),
            model_max_length=case.get("model_max_length"),
        )
        if "vocab" in values:
            _same({token: number for number, token in enumerate(ours.vocab)}, values["vocab"], "vocabulary")
        if "decode" in case:
            text = ours.decode(case["decode"], skip_special=case.get("skip_special_tokens", False))
            _same(text, case["text"], f"decoding {case['decode']}")
            continue
        options = dict(case.get("options", {}))
        text, pair = case["text"] if options.pop("pair", False) else (case["text"], None)
        found = ours.encode_text(text, pair, **options)
        _same(found.input_ids, case["input_ids"], f"ids of {case['text']!r} with {case.get('options')}")
        if "attention_mask" in case:
            _same(found.attention_mask, case["attention_mask"], f"mask of {case['text']!r}")


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise MismatchError(f"{what}: {found!r}, expected {expected!r}")


KINDS = {
    "op.hyena_filter": op_hyena_filter,
    "op.sequence_decoder": op_sequence_decoder,
    "soft_prompt": soft_prompt,
    "json.tokenizer.hyenadna": tokenizer,
}
