"""DNABERT-2 and DNABERT-S: encoders of BPE tokens, for records of any length."""

from collections.abc import Mapping
from typing import Any

from chargaff.families.dnabert2.config import Dnabert2Config
from chargaff.families.dnabert2.layouts import LAYOUTS, published_files
from chargaff.families.dnabert2.model import Classifier, Dnabert2, LmHead, Pooler, init_weights
from chargaff.families.protocol import Family
from chargaff.tokenizers.bpe import BpeTokenizer


def _recognises(published: Mapping[str, Any]) -> bool:
    """The model type is that of stock BERT; these keys are not."""
    is_remote = "bert_layers." in str(published.get("auto_map"))
    return published.get("model_type", "bert") == "bert" and ("alibi_starting_size" in published or is_remote)


_TINY: Mapping[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_dropout_prob": 0.0,
}

FAMILY = Family(
    config=Dnabert2Config,
    backbone=Dnabert2,
    tokenizer=lambda config: BpeTokenizer(),
    init=init_weights,
    lm_head=LmHead,
    objective="masked",
    pooling="mean-all",
    layouts=LAYOUTS,
    recognises=_recognises,
    published_files=published_files,
    extra_heads={"sequence": Classifier, "pooler": Pooler},
    fresh_heads=("pooler",),
    tiny={
        "two-heads": _TINY,
        "three-heads": {**_TINY, "hidden_size": 18, "num_attention_heads": 3, "hidden_act": "relu"},
    },
)
