"""DNA-xLSTM: recurrent blocks with matrix and scalar memories, causal or bidirectional, for any length."""

from collections.abc import Mapping
from typing import Any

from chargaff.families.protocol import Family
from chargaff.families.xlstm.config import XLstmConfig
from chargaff.families.xlstm.layouts import LAYOUTS, published_files
from chargaff.families.xlstm.model import init_weights, make_backbone, make_lm_head
from chargaff.tokenizers.char import CharTokenizer

_TINY: Mapping[str, Any] = {"d_model": 32, "n_layer": 2}
_BOTH: Mapping[str, Any] = {**_TINY, "bidirectional": True}
_ALTERNATING: Mapping[str, Any] = {**_BOTH, "bidirectional_alternating": True}
_SLSTM: Mapping[str, Any] = {"s_lstm_at": "all", "s_proj_factor": 1.1, "s_round_proj_up_to_multiple_of": 8}


def _recognises(published: Mapping[str, Any]) -> bool:
    """Published files name no model type; these two keys together occur nowhere else."""
    return {"m_num_heads", "s_num_heads"} <= set(published)


FAMILY = Family(
    config=XLstmConfig,
    backbone=make_backbone,
    tokenizer=lambda config: CharTokenizer.standard(),
    init=init_weights,
    lm_head=make_lm_head,
    objective="masked",
    strands=lambda config: "equivariant" if config.is_equivariant else "forward-only",
    layouts=LAYOUTS,
    recognises=_recognises,
    published_files=published_files,
    ignored_label=lambda config: 4,
    tiny={
        "mlstm-causal": {**_TINY, "m_position_embeddings": True, "m_bias": True},
        "hybrid-causal": {**_TINY, "n_layer": 3, "s_lstm_at": [1], "m_backend": "chunkwise"},
        "slstm-positions": {**_TINY, **_SLSTM, "s_position_embeddings": True, "s_conv1d_kernel_size": 0},
        "both-directions": {**_BOTH, "s_lstm_at": [1]},
        "alternating": _ALTERNATING,
        "native": {**_BOTH, "m_backend_bidirectional": True, "m_conv1d_causal": False},
        "rcps": {**_BOTH, **_SLSTM, "rcps": True, "rcps_convention": "exact"},
        "rcps-mlstm": {**_ALTERNATING, "rcps": True, "rcps_convention": "exact", "s_lstm_at": [0]},
    },
)
