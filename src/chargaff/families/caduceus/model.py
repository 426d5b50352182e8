"""Caduceus-Ph and Caduceus-PS (caduceus sheet 2).

A PS model carries two views of one sequence. Here they are two tensors in forward coordinates and in the channel order
of the forward strand, so that no block flips an activation: the strand that the reference reverses is read from the end
by the kernels, and where the reference flips channels this code permutes weights.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.caduceus.config import CaduceusConfig
from chargaff.families.protocol import Encoded, InputRule
from chargaff.nn.mamba import BLOCK_TOKENS, BiMamba, MambaMixer, init_mixer
from chargaff.nn.norms import LayerNorm, RMSNorm, make_norm
from chargaff.nn.stack import run_block

Streams = tuple[Tensor, ...]
"""Residual streams [B, T, D]: one (Ph), or those of the forward and the other strand (PS)."""


class Shared(nn.Module):
    """Adds the name level `submodule` that published PS files have around modules shared by both strands."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor, **options: Any) -> Any:
        return self.submodule(x, **options)


class RcEmbedding(nn.Module):
    """Token embedding of both strands."""

    complement_map: Tensor

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.register_buffer("complement_map", torch.arange(vocab_size))

    def forward(self, tokens: Tensor) -> Streams:
        """[B, T] -> rows of the tokens and of their complements, each [B, T, D]."""
        return self.embedding(tokens), self.embedding(self.complement_map[tokens])


class Embeddings(nn.Module):
    """Name level of the published files."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        kind = RcEmbedding if config.rcps else nn.Embedding
        self.word_embeddings = kind(config.padded_vocab_size, config.d_model)


class Block(nn.Module):
    """Pre-norm residual block over one or two strands."""

    def __init__(self, config: CaduceusConfig, index: int) -> None:
        super().__init__()
        norm = make_norm(config.d_model, config.norm_epsilon, is_rms=config.rms_norm)
        mixer = BiMamba(
            config.d_model,
            config.ssm,
            bidirectional=config.bidirectional,
            strategy=config.bidirectional_strategy,
            tie=config.bidirectional_weight_tie,
        )
        self.mixer = Shared(mixer) if config.rcps else mixer
        self.norm = Shared(norm) if config.rcps and not config.fused_add_norm else norm
        # reference quirk: fused PS blocks swap the strands, so every second block (the first included) works on
        # channel-flipped input with the roles of the strands exchanged; published weights depend on it (sheet 2.5)
        self.is_swapped = config.rcps and config.fused_add_norm and index % 2 == 0

    def reversed_strand(self, strand: int) -> bool:
        """Whether the mixer reads this strand from the end."""
        return (strand == 1) != self.is_swapped

    @property
    def core(self) -> BiMamba:
        """The mixer that both strands share."""
        core = self.mixer.submodule if isinstance(self.mixer, Shared) else self.mixer
        assert isinstance(core, BiMamba)
        return core

    def forward(self, *streams: Tensor) -> Streams:
        """What the mixer adds to each stream."""
        return tuple(
            self.core(
                self.norm(stream, flip=self.is_swapped), reverse=self.reversed_strand(strand), flip=self.is_swapped
            )
            for strand, stream in enumerate(streams)
        )

    def add_to_(self, streams: Streams, block_tokens: int) -> None:
        """In place, in sequence blocks, without gradients."""
        norm = partial(self.norm, flip=self.is_swapped)
        for strand, stream in enumerate(streams):
            reverse = self.reversed_strand(strand)
            self.core.add_to_(stream, norm, reverse=reverse, flip=self.is_swapped, block=block_tokens)


class Caduceus(nn.Module):
    """The backbone; a LayeredBackbone (DESIGN 2.4)."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.d_model
        is_causal = not config.bidirectional and not config.rcps
        self.rule = InputRule(padding="causal" if is_causal else "never")
        self.checkpointing = False
        self.block_tokens = BLOCK_TOKENS
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.n_layer))
        norm = make_norm(config.d_model, config.norm_epsilon, is_rms=config.rms_norm)
        self.norm_f = Shared(norm) if config.rcps and not config.fused_add_norm else norm

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def init_buffers(self, device: Any) -> None:
        """Nothing to build: the complement map is part of the published weights."""

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, C]; C is D for Ph, 2D for PS in the published half order."""
        return self._join(self._embed(tokens), 0)

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1 on the residual stream: [B, T, C] -> [B, T, C]. There is no mask."""
        stop = len(self.layers) if stop is None else stop
        streams = self._split(x, start)
        if not torch.is_grad_enabled():
            streams = tuple(stream.clone() for stream in streams)
        return self._join(self._run(streams, start, stop), stop)

    def finish(self, x: Tensor) -> Encoded:
        """[B, T, C] -> final states of one (Ph) or both (PS) strands."""
        return self._finish(self._split(x, len(self.layers)), {})

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, T] -> Encoded.

        Taps: "layer.k" is the residual stream after block k (0: the embedding), "layer.k.branch" what block k added;
        both [B, T, C] with C = 2D for PS, in the half order of the published code.
        """
        streams = self._embed(tokens)
        found: dict[str, Tensor] = {}
        if "layer.0" in taps:
            found["layer.0"] = self._join(streams, 0).clone()
        streams = self._run(streams, 0, len(self.layers), taps=taps, found=found)
        return self._finish(streams, found)

    def _finish(self, streams: Streams, taps: dict[str, Tensor]) -> Encoded:
        if len(streams) == 1:
            return Encoded(self.norm_f(streams[0]), None, taps)
        forward, other = streams
        if self.config.fused_add_norm and len(self.layers) % 2:  # the final norm does not swap the halves back
            forward, other = other.flip(-1), forward.flip(-1)
        return Encoded(self.norm_f(forward), self.norm_f(other), taps)

    def _embed(self, tokens: Tensor) -> Streams:
        found = self.embeddings.word_embeddings(tokens.int())
        streams: Streams = found if self.config.rcps else (found,)
        return tuple(stream.float() for stream in streams) if self.config.residual_in_fp32 else streams

    def _run(
        self,
        streams: Streams,
        start: int,
        stop: int,
        *,
        taps: Collection[str] = (),
        found: dict[str, Tensor] | None = None,
    ) -> Streams:
        """Without gradients the tensors of `streams` are changed in place."""
        for index in range(start, stop):
            block = self.layers[index]
            assert isinstance(block, Block)
            wanted = found is not None and f"layer.{index + 1}.branch" in taps
            if torch.is_grad_enabled() or wanted:
                branches = run_block(block, *streams, recompute=self.checkpointing)
                streams = tuple(stream + branch for stream, branch in zip(streams, branches, strict=True))
                if wanted:
                    assert found is not None
                    found[f"layer.{index + 1}.branch"] = self._join(branches, index + 1)
            else:
                block.add_to_(streams, self.block_tokens)
            if found is not None and f"layer.{index + 1}" in taps:
                found[f"layer.{index + 1}"] = self._join(streams, index + 1).clone()
        return streams

    def _join(self, streams: Streams, depth: int) -> Tensor:
        """Strands -> the published layout after `depth` blocks: the halves change places in every fused block."""
        if len(streams) == 1:
            return streams[0]
        forward, other = streams
        if self.config.fused_add_norm and depth % 2:
            return torch.cat([other.flip(-1), forward], -1)
        return torch.cat([forward, other.flip(-1)], -1)

    def _split(self, x: Tensor, depth: int) -> Streams:
        """Inverse of `_join`."""
        if not self.config.rcps:
            return (x,)
        first, second = x.chunk(2, -1)
        if self.config.fused_add_norm and depth % 2:
            return second, first.flip(-1)
        return first, second.flip(-1)


class LmHead(nn.Module):
    """Logits of one strand; the weight is the embedding's."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32."""
        return F.linear(encoded.hidden, self.weight).float()


class TiedLinear(nn.Module):
    """Name level of the published PS head."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight


class RcLmHead(nn.Module):
    """Logits from both strands; equivariant under reverse complement (sheet 2.4)."""

    complement_map: Tensor

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.lm_head = TiedLinear(embedding)
        self.register_buffer("complement_map", torch.arange(embedding.num_embeddings))

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32: the sum of both strands, the other one through the complement's rows."""
        assert encoded.hidden_rc is not None
        weight = self.lm_head.weight
        other = F.linear(encoded.hidden_rc, weight[self.complement_map])
        return (F.linear(encoded.hidden, weight) + other).float()


def make_lm_head(config: CaduceusConfig, backbone: nn.Module) -> nn.Module:
    """The masked-LM head, tied to the embedding."""
    assert isinstance(backbone, Caduceus)
    words = backbone.embeddings.word_embeddings
    if isinstance(words, RcEmbedding):
        return RcLmHead(words.embedding)
    assert isinstance(words, nn.Embedding)
    return LmHead(words)


@torch.no_grad()
def init_weights(module: nn.Module, config: CaduceusConfig) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (sheet 2.1).

    | tensor | distribution |
    |---|---|
    | embedding | normal(0, initializer_range) |
    | mixers | `nn.mamba.init_mixer`, out_proj divided by sqrt(n_residuals_per_layer n_layer) |
    | norms | weight 1, bias 0 |
    | complement maps | from the config |
    """
    init = config.initializer
    divisor = (init.n_residuals_per_layer * config.n_layer) ** 0.5 if init.rescale_prenorm_residual else 1.0
    for child in module.modules():
        if isinstance(child, MambaMixer):
            init_mixer(child, residual_divisor=divisor)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=init.initializer_range)
        elif isinstance(child, RcEmbedding | RcLmHead):
            child.complement_map.copy_(torch.tensor(config.complement))
        elif isinstance(child, RMSNorm | LayerNorm):
            child.reset_parameters()
