"""The supervised CNN of GenomicBenchmarks (caduceus sheet 3.5)."""

from collections.abc import Collection
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.families.cnn.config import CHANNELS, KERNEL_TAPS, CnnConfig
from chargaff.families.protocol import Encoded, InputRule


class Cnn(nn.Module):
    """Embedding and three rounds of convolution; a Backbone for inputs of one length."""

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.config = config
        self.width = CHANNELS[-1]
        self.rule = InputRule(max_tokens=config.input_len, fixed_bp=config.input_len, padding="never")
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_dim)
        stages: list[nn.Module] = []
        for source, target in pairwise((config.embedding_dim, *CHANNELS)):
            stages += [nn.Conv1d(source, target, KERNEL_TAPS), nn.BatchNorm1d(target)]
            stages += [nn.ReLU()] if not stages[2:] else []  # only the first round is followed by an activation
            stages += [nn.MaxPool1d(2)]
        self.cnn_model = nn.Sequential(*stages)

    def init_buffers(self, device: Any) -> None:
        """Nothing to build: the running statistics are part of the weights."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, L] with L = input_len -> states [B, positions, 4]; there is no mask and no tap.

        Raises:
            InputError: another length.
        """
        if tokens.shape[1] != self.config.input_len:
            raise InputError(f"this CNN takes {self.config.input_len} bases, got {tokens.shape[1]}: pad or cut first")
        return Encoded(self.cnn_model(self.embeddings(tokens.int()).transpose(1, 2)).transpose(1, 2))


class CnnHead(nn.Module):
    """Two linear layers without an activation between them on the flattened convolution output."""

    def __init__(self, config: CnnConfig, backbone: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.dense_model = nn.Sequential(nn.Linear(CHANNELS[-1] * config.positions, 512), nn.Linear(512, num_outputs))

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, outputs]; features are ordered channel by channel."""
        logits: Tensor = self.dense_model(encoded.hidden.transpose(1, 2).flatten(1))
        return logits


@torch.no_grad()
def init_weights(module: nn.Module, config: CnnConfig) -> None:
    """torch's default distribution for every layer."""
    for child in module.modules():
        if isinstance(child, nn.Embedding | nn.Conv1d | nn.Linear | nn.BatchNorm1d):
            child.reset_parameters()
