"""sequence_classification, downstream_classifier, cnn_classifier."""

from typing import Any

import torch
import torch.nn.functional as F
from case import Case
from kinds import hyenadna, xlstm
from models import classifier_loss, compare_gradients, family_of, load_model, reference_states
from torch import Tensor

from chargaff.model import Model
from chargaff.nn.encoded import Encoded


def sequence_classification(case: Case) -> None:
    if case.family == "hyenadna":
        hyenadna.sequence_classification(case)
        return
    options = case.config.get("_classifier_kwargs", {})
    model = load_model(case, family_of(case), "sequence", pooling=options.get("pooling_strategy", "mean"), bias=False)
    encoded = _encode_strands(model, case.input("input_ids"))
    case.output("last_hidden_state", reference_states(model, _first_strand(model, encoded))["last_hidden_state"])
    assert model.head is not None
    logits = model.head(encoded)
    case.output("logits", logits)
    loss = classifier_loss(logits, case.input("labels"), case.config.get("problem_type"))
    case.output("loss", loss)
    compare_gradients(case, model, loss)


def downstream_classifier(case: Case) -> None:
    if case.family == "xlstm":
        xlstm.downstream(case)
        return
    decoder: dict[str, Any] = case.config["_decoder_kwargs"]
    case.require(decoder["mode"] == "pool" and decoder["l_output"] == 0, f"decoder {decoder} is not of this kind")
    model = load_model(case, family_of(case), "sequence", pooling="mean", bias=True)
    encoded = _encode_strands(model, case.input("input_ids"))
    wrapped = encoded.hidden
    if encoded.hidden_rc is not None:  # the other strand in its own reading direction
        wrapped = torch.stack([encoded.hidden, encoded.hidden_rc.flip(1)], -1)
    case.output("backbone", wrapped)
    assert model.head is not None
    logits = model.head(encoded)
    case.output("logits", logits)
    loss = F.cross_entropy(logits, case.input("labels").flatten())
    case.output("loss", loss)
    compare_gradients(case, model, loss)


def cnn_classifier(case: Case) -> None:
    model = load_model(case, "cnn", "sequence")
    ids, labels = case.input("input_ids"), case.input("labels")
    output = model(ids)
    assert output.logits is not None
    case.output("features", output.encoded.hidden.transpose(1, 2).flatten(1))
    case.output("logits", output.logits)
    loss = F.cross_entropy(output.logits, labels)
    case.output("loss", loss)
    compare_gradients(case, model, loss)
    model.train()
    case.output("train_mode_logits", model(ids).logits)


def _encode_strands(model: Model, ids: Tensor) -> Encoded:
    """States of [B, L] ids, or of [B, L, 2] = ids and those of the other strand."""
    if ids.dim() == 2:
        return model.encode(ids)
    first, second = model.encode(ids[..., 0]), model.encode(ids[..., 1])
    return Encoded(first.hidden, second.hidden.flip(1))


def _first_strand(model: Model, encoded: Encoded) -> Encoded:
    return encoded if getattr(model.spec.config, "rcps", False) else Encoded(encoded.hidden)


KINDS = {
    "sequence_classification": sequence_classification,
    "downstream_classifier": downstream_classifier,
    "cnn_classifier": cnn_classifier,
}
