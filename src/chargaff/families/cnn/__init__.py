"""The convolutional baseline of GenomicBenchmarks."""

from chargaff.families.cnn.config import CnnConfig
from chargaff.families.cnn.model import Cnn, CnnHead, init_weights
from chargaff.families.protocol import Family, Layout
from chargaff.families.renaming import rename
from chargaff.tokenizers.char import CharTokenizer

_READ = [
    (r"(?:model\.)?(embeddings|cnn_model)\.(.*)", r"backbone.\1.\2"),
    (r"(?:model\.)?dense_model\.(.*)", r"head.dense_model.\1"),
]
_WRITE = [(r"backbone\.(.*)", r"\1"), (r"head\.(.*)", r"\1")]

FAMILY = Family(
    config=CnnConfig,
    backbone=Cnn,
    tokenizer=lambda config: CharTokenizer.standard(),
    init=init_weights,
    layouts={
        "hub": Layout(lambda state, config: rename(state, _READ), lambda state, config: rename(state, _WRITE)),
        "lightning": Layout(lambda state, config: rename(state, _READ)),
    },
    recognises=lambda published: "number_of_classes" in published and "input_len" in published,
    extra_heads={"sequence": CnnHead},
    tiny={"short": {"input_len": 80, "embedding_dim": 8}},
)
