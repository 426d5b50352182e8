"""Transformer++: the attention baseline of DNA-xLSTM (llama sheet 2)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.families.llama.config import LlamaConfig
from chargaff.families.protocol import Encoded, InputRule, State
from chargaff.nn.norms import RMSNorm
from chargaff.nn.rotary import rotary_angles, rotate_pairs
from chargaff.nn.stack import run_block

THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class Cache:
    """Rotated keys and values of the tokens so far."""

    keys: Tensor
    """[B, n_kv_heads, T, P]."""
    values: Tensor
    """[B, n_kv_heads, T, P]."""


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        width, head = config.d_model, config.head_width
        self.wq = nn.Linear(width, config.n_heads * head, bias=False)
        self.wk = nn.Linear(width, config.kv_heads * head, bias=False)
        self.wv = nn.Linear(width, config.kv_heads * head, bias=False)
        self.wo = nn.Linear(config.n_heads * head, width, bias=False)

    def forward(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """[B, T, D] tokens after those in the cache -> what attention adds, and the longer cache."""
        past, length = cache.keys.shape[2], x.shape[1]
        angles = rotary_angles(length, self.config.head_width, THETA, start=past, device=x.device)
        q = rotate_pairs(self._heads(self.wq(x)), angles)
        keys = torch.cat([cache.keys.to(q.dtype), rotate_pairs(self._heads(self.wk(x)), angles)], 2)
        values = torch.cat([cache.values.to(q.dtype), self._heads(self.wv(x))], 2)
        mask = None
        is_causal = not self.config.bidirectional
        if is_causal and past:
            row = torch.arange(past, past + length, device=x.device).unsqueeze(1)
            mask, is_causal = torch.arange(past + length, device=x.device) <= row, False
        mixed = F.scaled_dot_product_attention(
            q,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.config.dropout if self.training else 0.0,
            is_causal=is_causal,
            enable_gqa=self.config.kv_heads != self.config.n_heads,
        )
        return self.wo(mixed.transpose(1, 2).flatten(2)), Cache(keys, values)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads P] -> [B, heads, T, P]."""
        return x.reshape(*x.shape[:2], -1, self.config.head_width).transpose(1, 2)


class FeedForward(nn.Module):
    """Gated by SiLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    """Two pre-norm residual branches."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.d_model, config.inner_width)
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.dropout = config.dropout

    def forward(self, x: Tensor, cache: Cache) -> tuple[Tensor, Tensor, Cache]:
        """(stream after attention, what the feed-forward part adds, longer cache)."""
        branch, cache = self.attention(self.attention_norm(x), cache)
        x = x + F.dropout(branch, self.dropout, self.training)
        return x, F.dropout(self.feed_forward(self.ffn_norm(x)), self.dropout, self.training), cache


class Llama(nn.Module):
    """The backbone; a LayeredBackbone (DESIGN 2.4)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.d_model
        self.rule = InputRule(max_tokens=config.max_length, padding="never" if config.bidirectional else "causal")
        self.checkpointing = False
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def init_buffers(self, device: Any) -> None:
        """There are none: angles are computed for each call."""

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]."""
        return F.dropout(self.tok_embeddings(tokens.int()), self.config.dropout, self.training)

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1 on the residual stream: [B, T, D] -> [B, T, D]. There is no mask."""
        self._require_length(x.shape[1])
        for block in self.layers[start:stop]:
            mixed, branch, _ = run_block(block, x, self._no_cache(x.shape[0]), recompute=self.checkpointing)
            x = mixed + branch
        return x

    def finish(self, x: Tensor) -> Encoded:
        """[B, T, D] -> final states."""
        return Encoded(self.norm(x))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, T] -> Encoded.

        Taps: "layer.k" is the residual stream after block k (0: the embedding), "layer.k.branch" what the feed-forward
        part of block k added last; both [B, T, D].
        """
        self._require_length(tokens.shape[1])
        x = self.embed(tokens)
        found = {"layer.0": x} if "layer.0" in taps else {}
        for depth, block in enumerate(self.layers, start=1):
            mixed, branch, _ = run_block(block, x, self._no_cache(x.shape[0]), recompute=self.checkpointing)
            x = mixed + branch
            if f"layer.{depth}.branch" in taps:
                found[f"layer.{depth}.branch"] = branch
            if f"layer.{depth}" in taps:
                found[f"layer.{depth}"] = x
        return Encoded(self.norm(x), None, found)

    def _no_cache(self, batch: int) -> Cache:
        weight = self.tok_embeddings.weight
        empty = weight.new_empty(batch, self.config.kv_heads, 0, self.config.head_width)
        return Cache(empty, empty)

    def _require_length(self, length: int) -> None:
        if length > self.config.max_length:
            raise InputError(
                f"{length} tokens exceed this model's positions ({self.config.max_length}): cut into windows, or "
                "load with config={'max_length': ...}"
            )


class CausalLlama(Llama):
    """A StatefulBackbone (DESIGN 2.4): keys and values of the tokens so far are kept."""

    def init_state(self, batch: int) -> State:
        """The state before the first token: an empty cache a block."""
        return tuple(self._no_cache(batch) for _ in self.layers)

    def forward_chunk(self, tokens: Tensor, state: State) -> tuple[Encoded, State]:
        """[B, T] tokens after those that led to `state` -> their final states and the next state."""
        self._require_length(state[0].keys.shape[2] + tokens.shape[1])
        x = self.embed(tokens)
        following = []
        for block, cache in zip(self.layers, state, strict=True):
            x, branch, longer = block(x, cache)
            x = x + branch
            following.append(longer)
        return self.finish(x), tuple(following)


def make_backbone(config: LlamaConfig) -> Llama:
    """With carried state where the model is causal."""
    return Llama(config) if config.bidirectional else CausalLlama(config)


class LmHead(nn.Module):
    """Logits; the weight is the embedding's."""

    def __init__(self, config: LlamaConfig, backbone: nn.Module) -> None:
        super().__init__()
        assert isinstance(backbone, Llama)
        self.weight = backbone.tok_embeddings.weight

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32."""
        return F.linear(encoded.hidden, self.weight).float()


@torch.no_grad()
def init_weights(module: nn.Module, config: LlamaConfig) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (sheet 4).

    | tensor | distribution |
    |---|---|
    | matrices, embedding | normal(0, 0.02) |
    | wo and w3 | normal(0, 0.02 / sqrt(2 n_layer)) |
    | norms | 1 |
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            # reference quirk: the residual scaling hits w3, not w2
            divisor = (2 * config.n_layer) ** 0.5 if name.endswith((".wo", ".w3")) else 1.0
            nn.init.normal_(child.weight, std=0.02 / divisor)
        elif isinstance(child, RMSNorm):
            child.reset_parameters()
