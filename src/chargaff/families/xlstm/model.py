"""DNA-xLSTM (xlstm sheet 3).

A model with `rcps` carries two views of one sequence. Here they are two tensors in forward coordinates and in the
channel order of the forward strand, so that no block flips an activation: layers read the other strand from the end.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.protocol import Encoded, InputRule, State
from chargaff.families.xlstm.cells import LayerState, MlstmGates, MlstmLayer, SlstmLayer, SlstmWeights
from chargaff.families.xlstm.config import XLstmConfig
from chargaff.families.xlstm.layers import Convolution, FeedForward, Headwise, Norm, Positions
from chargaff.nn.stack import run_block

BLOCK_TOKENS = 2048
"""Tokens per stretch of the inference path; its temporaries then stay in the processor's caches."""

Streams = tuple[Tensor, ...]
"""Residual streams [B, T, D]: one, or with `rcps` those of the forward and the other strand."""


class Shared(nn.Module):
    """Adds the name level `submodule` that published files have around modules shared by both strands."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.submodule(*args, **options)


def _shared(module: nn.Module, config: XLstmConfig) -> nn.Module:
    return Shared(module) if config.rcps else module


class Block(nn.Module):
    """Pre-norm residual block over one or two strands, in one direction or both."""

    def __init__(self, config: XLstmConfig, index: int) -> None:
        super().__init__()
        self.index, self.is_slstm = index, index in config.slstm_blocks
        self.xlstm_norm = _shared(Norm(config.d_model), config)
        layer = SlstmLayer(config) if self.is_slstm else MlstmLayer(config)
        self.xlstm = _shared(layer, config)
        if self.is_slstm:
            self.ffn_norm = _shared(Norm(config.d_model), config)
            self.ffn = _shared(FeedForward(config.d_model, config.feed_forward_width), config)
        is_native = isinstance(layer, MlstmLayer) and layer.is_bidirectional
        self.goes_both_ways = config.bidirectional and not config.bidirectional_alternating and not is_native
        # reference quirk: alternating stacks begin from the right; published weights depend on it
        self.starts_at_end = config.bidirectional and config.bidirectional_alternating and index % 2 == 0
        self.flips_heads = config.rcps and config.rcps_convention == "reference"
        self.has_state = not is_native and (layer.conv1d is None or layer.conv1d.ahead == 0)

    @property
    def layer(self) -> MlstmLayer | SlstmLayer:
        """The layer, which both strands share."""
        layer = self.xlstm.submodule if isinstance(self.xlstm, Shared) else self.xlstm
        assert isinstance(layer, MlstmLayer | SlstmLayer)
        return layer

    def directions(self, strand: int) -> tuple[bool, ...]:
        """For each pass over this strand, whether it reads from the end."""
        first = (strand == 1) != self.starts_at_end
        return (first, not first) if self.goes_both_ways else (first,)

    def forward(self, *streams: Tensor) -> Streams:
        """What the block adds to each stream."""
        branches = []
        for strand, x in enumerate(streams):
            passes = [self.one_way(x, None, strand, reverse=reverse)[0] for reverse in self.directions(strand)]
            # reference quirk: both passes bring their own residual, so that the stream doubles in every block
            branches.append(passes[0] if len(passes) == 1 else x + passes[0] + passes[1])
        return tuple(branches)

    def one_way(
        self, x: Tensor, state: LayerState | None, strand: int, *, reverse: bool
    ) -> tuple[Tensor, LayerState | None]:
        """What one pass adds to a stream [B, T, D], and the next state if one was given."""
        flip_heads = self.flips_heads and strand == 1
        branch, state = self.xlstm(self.xlstm_norm(x), state, reverse=reverse, flip_heads=flip_heads)
        if self.is_slstm:
            branch = branch + self.ffn(self.ffn_norm(x + branch))
        return branch, state

    def in_stretches(self, x: Tensor, strand: int, block_tokens: int) -> Tensor:
        """The stream after this block, computed without whole-length temporaries; for inference."""
        directions = self.directions(strand)
        out = x * len(directions)
        starts = range(0, x.shape[1], block_tokens)
        for reverse in directions:
            state: LayerState | None = self.layer.init_state(x.shape[0])
            for start in reversed(starts) if reverse else starts:
                part = slice(start, start + block_tokens)
                branch, state = self.one_way(x[:, part], state, strand, reverse=reverse)
                out[:, part] += branch
        return out


class Stack(nn.Module):
    """Name level of the published files."""

    def __init__(self, config: XLstmConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.n_layer))
        self.post_blocks_norm = _shared(Norm(config.d_model), config)
        if config.s_position_embeddings:
            self.absolute_pos_embeds = Positions(config.d_model)


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


class XLstm(nn.Module):
    """The backbone, a LayeredBackbone (DESIGN 2.4)."""

    def __init__(self, config: XLstmConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.d_model
        self.rule = InputRule(padding="causal" if config.is_causal else "never")
        self.checkpointing = False
        self.block_tokens = BLOCK_TOKENS
        kind = RcEmbedding if config.rcps else nn.Embedding
        self.token_embedding = kind(config.vocab_size, config.d_model)
        self.xlstm_block_stack = Stack(config)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.xlstm_block_stack.blocks

    def init_buffers(self, device: Any) -> None:
        """Nothing to build: positions are computed for each call, complement maps are part of the weights."""

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, C]; C is D, with `rcps` 2D in the published half order."""
        return self._join(self._embed(tokens, 0))

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1 on the residual stream: [B, T, C] -> [B, T, C]. There is no mask."""
        streams = self._split(x)
        for block in self.blocks[start:stop]:
            streams = self._advance(block, streams)
        return self._join(streams)

    def finish(self, x: Tensor) -> Encoded:
        """[B, T, C] -> final states of one strand, with `rcps` of both."""
        return self._finish(self._split(x), {})

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, T] -> Encoded.

        Taps: "layer.k" is the residual stream after block k (0: the embedding with positions), "layer.k.branch" what
        block k added (where blocks go both ways this holds the stream itself, see `Block.forward`); both [B, T, C] with
        C = 2D for `rcps`, in the half order of the published code.
        """
        streams = self._embed(tokens, 0)
        found = {"layer.0": self._join(streams)} if "layer.0" in taps else {}
        for depth, block in enumerate(self.blocks, start=1):
            if f"layer.{depth}.branch" in taps:
                branches = run_block(block, *streams, recompute=self.checkpointing)
                found[f"layer.{depth}.branch"] = self._join(branches)
                streams = tuple(x + branch for x, branch in zip(streams, branches, strict=True))
            else:
                streams = self._advance(block, streams)
            if f"layer.{depth}" in taps:
                found[f"layer.{depth}"] = self._join(streams)
        return self._finish(streams, found)

    def _embed(self, tokens: Tensor, past: int) -> Streams:
        found = self.token_embedding(tokens.int())
        streams: Streams = found if self.config.rcps else (found,)
        if self.config.s_position_embeddings:
            positions = self.xlstm_block_stack.absolute_pos_embeds(tokens.shape[1], past)
            streams = tuple(x + positions.to(x.dtype) for x in streams)
        return streams

    def _advance(self, block: nn.Module, streams: Streams) -> Streams:
        """The streams after a block; long inputs pass in stretches when no gradient is needed."""
        is_long = streams[0].shape[1] > self.block_tokens
        if torch.is_grad_enabled() or not is_long or not _block(block).has_state:
            branches = run_block(block, *streams, recompute=self.checkpointing)
            return tuple(x + branch for x, branch in zip(streams, branches, strict=True))
        return tuple(_block(block).in_stretches(x, strand, self.block_tokens) for strand, x in enumerate(streams))

    def _finish(self, streams: Streams, taps: dict[str, Tensor]) -> Encoded:
        forward, *other = (self.xlstm_block_stack.post_blocks_norm(x) for x in streams)
        return Encoded(forward, other[0] if other else None, taps)

    def _join(self, streams: Streams) -> Tensor:
        """Strands -> the published layout, whose second half has its channels in reverse order."""
        return streams[0] if len(streams) == 1 else torch.cat([streams[0], streams[1].flip(-1)], -1)

    def _split(self, x: Tensor) -> Streams:
        """Inverse of `_join`."""
        if not self.config.rcps:
            return (x,)
        first, second = x.chunk(2, -1)
        return first, second.flip(-1)


class CausalXLstm(XLstm):
    """The backbone where no position reads later ones, a StatefulBackbone."""

    def init_state(self, batch: int) -> State:
        """The state before the first token: one `LayerState` a block."""
        return tuple(_block(block).layer.init_state(batch) for block in self.blocks)

    def forward_chunk(self, tokens: Tensor, state: State) -> tuple[Encoded, State]:
        """[B, T] tokens after those that led to `state` -> their final states and the next state."""
        (x,) = self._embed(tokens, state[0].past)
        following = []
        for block, carried in zip(self.blocks, state, strict=True):
            branch, new = _block(block).one_way(x, carried, 0, reverse=False)
            x = x + branch
            following.append(new)
        return self._finish((x,), {}), tuple(following)


def make_backbone(config: XLstmConfig) -> XLstm:
    """The backbone of a config."""
    return CausalXLstm(config) if config.is_causal else XLstm(config)


def _block(module: nn.Module) -> Block:
    assert isinstance(module, Block)
    return module


class LmHead(nn.Module):
    """Logits of one strand; never tied to the embedding."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32."""
        return F.linear(encoded.hidden, self.weight).float()


class RcLmHead(nn.Module):
    """Logits from both strands (sheet 3.9)."""

    complement_map: Tensor

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.lm_head = LmHead(vocab_size, width)
        self.register_buffer("complement_map", torch.arange(vocab_size))

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32: the sum of both strands, the other one through the complement's rows."""
        assert encoded.hidden_rc is not None
        weight = self.lm_head.weight
        other = F.linear(encoded.hidden_rc, weight[self.complement_map])
        return (F.linear(encoded.hidden, weight) + other).float()


def make_lm_head(config: XLstmConfig, backbone: nn.Module) -> nn.Module:
    """The language-model head."""
    return (RcLmHead if config.rcps else LmHead)(config.vocab_size, config.d_model)


@torch.no_grad()
def init_weights(module: nn.Module, config: XLstmConfig) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (sheet 4).

    | tensor | distribution |
    |---|---|
    | embedding, head, mLSTM proj_up, q, k, v, sLSTM gates, FFN proj_up | normal(0, sqrt(2 / (5 D))) |
    | FFN proj_down | normal(0, 2 / (n_layer sqrt(D))) |
    | mLSTM proj_down | normal(0, 2 / sqrt(D)), or as above (`m_proj_down_init`) |
    | mLSTM gates | weights 0; forget bias 3 to 6 over the heads; input bias normal(0, 0.1) |
    | sLSTM cell | recurrent weights 0, bias see `_init_slstm` |
    | convolutions | torch's |
    | learnable_skip, norms, position scale | 1, scale 1, D^-0.5 |
    | biases of projections | 0 |
    | complement maps | from the config |
    """
    narrow = (2 / (5 * config.d_model)) ** 0.5
    wide = 2 / config.d_model**0.5
    for child in module.modules():
        if isinstance(child, nn.Embedding | LmHead):
            nn.init.normal_(child.weight, std=narrow)
        elif isinstance(child, RcEmbedding | RcLmHead):
            child.complement_map.copy_(torch.tensor(config.complement))
        elif isinstance(child, Headwise):
            _init_linear(child, narrow)
        elif isinstance(child, FeedForward):
            _init_linear(child.proj_up, narrow)
            _init_linear(child.proj_down, wide / config.n_layer)
        elif isinstance(child, MlstmLayer):
            _init_linear(child.proj_up, narrow)
            # reference quirk: the number of blocks never reaches this map
            _init_linear(child.proj_down, wide if config.m_proj_down_init == "reference" else wide / config.n_layer)
            nn.init.ones_(child.learnable_skip)
        elif isinstance(child, MlstmGates):
            for gate in (child.igate, child.fgate):
                nn.init.zeros_(gate.weight)
            nn.init.normal_(child.igate.bias, std=0.1)
            child.fgate.bias.copy_(torch.linspace(3, 6, config.m_num_heads))
        elif isinstance(child, Block) and isinstance(child.layer, SlstmLayer):
            _init_slstm(child.layer.slstm_cell, child.index / max(1, config.n_layer - 1))
        elif isinstance(child, Convolution):
            child.conv.reset_parameters()
        elif isinstance(child, Norm | Positions):
            child.reset_parameters()


def _init_linear(map_: nn.Linear | Headwise, std: float) -> None:
    nn.init.normal_(map_.weight, std=std)
    if map_.bias is not None:
        nn.init.zeros_(map_.bias)


def _init_slstm(cell: SlstmWeights, depth: float) -> None:
    """Bias 0 but for the forget gate: 5 - 12 (j / (P - 1))^(0.3 + 1.3 depth) in channel j of a head."""
    nn.init.zeros_(cell._recurrent_kernel_)
    _, bias = cell()  # a view
    width = bias.shape[2]
    place = torch.arange(width) / max(1, width - 1)
    nn.init.zeros_(bias)
    bias[:, 1] = 5 - 12 * place ** (0.3 + 1.3 * depth)
