"""HyenaDNA: causal long convolutions, up to a million bases."""

from collections.abc import Mapping
from typing import Any

from chargaff.families.hyenadna.config import HyenaConfig
from chargaff.families.hyenadna.layouts import LAYOUTS, published_files
from chargaff.families.hyenadna.model import LmHead, hidden_states, init_weights, make_backbone
from chargaff.families.protocol import Family
from chargaff.tokenizers.char import CharTokenizer

_LAYER: Mapping[str, Any] = {"l_max": 130, "emb_dim": 5, "filter_order": 8, "w": 10, "lr_pos_emb": 0.0}
_TINY: Mapping[str, Any] = {
    "d_model": 16,
    "n_layer": 2,
    "d_inner": 32,
    "pad_vocab_size_multiple": 8,
    "embed_dropout": 0.0,
}

FAMILY = Family(
    config=HyenaConfig,
    backbone=make_backbone,
    tokenizer=lambda config: CharTokenizer.hyenadna(),
    init=init_weights,
    lm_head=LmHead,
    objective="causal",
    layouts=LAYOUTS,
    recognises=lambda published: published.get("model_type") in ("hyenadna", "hyena") or "layer" in published,
    published_files=published_files,
    published_head={"pooling": "last", "bias": False},
    published_output=hidden_states,
    tiny={
        "training": {**_TINY, "layer": _LAYER},
        "standalone": {**_TINY, "layer": _LAYER, "variant": "standalone"},
        "order-3": {**_TINY, "layer": {**_LAYER, "order": 3, "lr_pos_emb": 1e-5}},
        "hybrid": {
            **_TINY,
            "layer": _LAYER,
            "attn_layer_idx": [1],
            "attn_cfg": {"num_heads": 2},
            "max_position_embeddings": 130,
        },
        "bidirectional": {**_TINY, "layer": {**_LAYER, "bidirectional": True}},
    },
)
