"""The causal Mamba language model (caduceus sheet 2.7)."""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.mamba.config import MambaConfig
from chargaff.families.protocol import Encoded, InputRule, State
from chargaff.nn.mamba import BLOCK_TOKENS, MambaMixer, MixerState, init_mixer
from chargaff.nn.norms import LayerNorm, RMSNorm, make_norm
from chargaff.nn.stack import run_block

NORM_EPSILON = 1e-5


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = make_norm(config.d_model, NORM_EPSILON, is_rms=config.rms_norm)
        self.mixer = MambaMixer(config.d_model, config.ssm)

    def forward(self, x: Tensor) -> Tensor:
        """What the mixer adds to the stream: [B, T, D] -> [B, T, D]."""
        h, z = self.mixer.in_proj(self.norm(x)).chunk(2, -1)
        branch: Tensor = self.mixer.out_proj(self.mixer.scan(h, z, reverse=False))
        return branch

    def forward_chunk(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """The same for the continuation of a sequence."""
        return self.mixer.forward_chunk(self.norm(x), state)


class Mamba(nn.Module):
    """The backbone; a StatefulBackbone (DESIGN 2.4)."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.d_model
        self.rule = InputRule(padding="causal")
        self.checkpointing = False
        self.block_tokens = BLOCK_TOKENS
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = make_norm(config.d_model, NORM_EPSILON, is_rms=config.rms_norm)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def init_buffers(self, device: Any) -> None:
        """There are none."""

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]."""
        x: Tensor = self.embedding(tokens.int())
        return x.float() if self.config.residual_in_fp32 else x

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1 on the residual stream: [B, T, D] -> [B, T, D]. There is no mask."""
        for block in self.layers[start:stop]:
            x = self._advance(block, x)
        return x

    def finish(self, x: Tensor) -> Encoded:
        """[B, T, D] -> final states."""
        return Encoded(self.norm_f(x))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, T] -> Encoded.

        Taps: "layer.k" is the residual stream after block k (0: the embedding), "layer.k.branch" what block k added;
        both [B, T, D].
        """
        x = self.embed(tokens)
        found = {"layer.0": x} if "layer.0" in taps else {}
        for depth, block in enumerate(self.layers, start=1):
            if f"layer.{depth}.branch" in taps:
                branch = run_block(block, x, recompute=self.checkpointing)
                found[f"layer.{depth}.branch"] = branch
                x = x + branch
            else:
                x = self._advance(block, x)
            if f"layer.{depth}" in taps:
                found[f"layer.{depth}"] = x
        return Encoded(self.norm_f(x), None, found)

    def _advance(self, block: nn.Module, x: Tensor) -> Tensor:
        """x + block(x); long inputs pass in stretches when no gradient is needed."""
        if torch.is_grad_enabled() or x.shape[1] <= self.block_tokens:
            branch: Tensor = run_block(block, x, recompute=self.checkpointing)
            return x + branch
        assert isinstance(block, Block)
        out = torch.empty_like(x)
        state = block.mixer.init_state(x.shape[0])
        for start in range(0, x.shape[1], self.block_tokens):
            piece = x[:, start : start + self.block_tokens]
            branch, state = block.forward_chunk(piece, state)
            torch.add(piece, branch, out=out[:, start : start + self.block_tokens])
        return out

    def init_state(self, batch: int) -> State:
        """The state before the first token: one `MixerState` a block."""
        states = []
        for block in self.layers:
            assert isinstance(block, Block)
            states.append(block.mixer.init_state(batch))
        return tuple(states)

    def forward_chunk(self, tokens: Tensor, state: State) -> tuple[Encoded, State]:
        """[B, T] tokens after those that led to `state` -> their final states and the next state."""
        x = self.embed(tokens)
        following = []
        for block, carried in zip(self.layers, state, strict=True):
            assert isinstance(block, Block)
            branch, new = block.forward_chunk(x, carried)
            x = x + branch
            following.append(new)
        return self.finish(x), tuple(following)


class LmHead(nn.Module):
    """Next-token logits; the weight is the embedding's where the config ties them."""

    def __init__(self, config: MambaConfig, backbone: nn.Module) -> None:
        super().__init__()
        assert isinstance(backbone, Mamba)
        tied = backbone.embedding.weight
        self.weight = tied if config.tie_embeddings else nn.Parameter(torch.empty_like(tied))

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32."""
        return F.linear(encoded.hidden, self.weight).float()


@torch.no_grad()
def init_weights(module: nn.Module, config: MambaConfig) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (sheet 2.1).

    | tensor | distribution |
    |---|---|
    | embedding | normal(0, 0.02) |
    | untied head | uniform(+-1/sqrt(D)) |
    | mixers | `nn.mamba.init_mixer`, out_proj divided by sqrt(n_layer) |
    | norms | weight 1, bias 0 |
    """
    for child in module.modules():
        if isinstance(child, MambaMixer):
            init_mixer(child, residual_divisor=config.n_layer**0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)
        elif isinstance(child, RMSNorm | LayerNorm):
            child.reset_parameters()
        elif isinstance(child, LmHead) and not config.tie_embeddings:
            nn.init.kaiming_uniform_(child.weight, a=5**0.5)
