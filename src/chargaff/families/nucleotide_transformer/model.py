"""The Nucleotide Transformer: an encoder of k-mer tokens, in all its published forms (nt sheet 3)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import ConfigError, InputError
from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig
from chargaff.families.protocol import Encoded, InputRule
from chargaff.nn.norms import LayerNorm
from chargaff.nn.packing import Packing, pack, packing_of, unpack
from chargaff.nn.pooling import pool
from chargaff.nn.rotary import half_turns, rotate_halves
from chargaff.nn.stack import run_block
from chargaff.nn.unet1d import SegmentationHead
from chargaff.ops.attention import attention
from chargaff.seq.grid import Grid

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": partial(F.gelu, approximate="tanh"),
    "gelu-no-approx": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "silu": F.silu,
    "sin": torch.sin,
}


SEGMENT_BP = 6
"""Bases that a segmentation head labels for each token, whatever the vocabulary."""


@dataclass(frozen=True, slots=True)
class Places:
    """What the blocks must know about the positions of a batch."""

    mask: Tensor | None
    """[B, T] True at real tokens, where the stream is padded; None: everywhere, or packed."""
    packing: Packing | None
    """Of a packed stream [N, D]."""
    turns: tuple[Tensor, Tensor] | None
    """cos and sin of the rotary angles, [T, K / 2] or [N, K / 2]."""


class Projections(nn.Module):
    """Queries, keys and values under their published names."""

    def __init__(self, config: NucleotideTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.num_attention_heads * config.head_width
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        if config.add_bias_kv:
            shape = 1, 1, config.num_attention_heads, config.head_width
            self.bias_k, self.bias_v = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] -> three of [..., H, K], rotated where positions are."""
        shape = *x.shape[:-1], -1, self.config.head_width
        q, k, v = self.query(x).view(shape), self.key(x).view(shape), self.value(x).view(shape)
        if places.turns is not None:
            q, k = rotate_halves(q, *places.turns), rotate_halves(k, *places.turns)
        if places.mask is not None and self.config.pads == "jax":
            q = q * places.mask[..., None, None]  # reference quirk: all scores of a pad are equal, see `_allowed`
        return q, k, v


class AttentionOutput(nn.Module):
    """Under the published name."""

    def __init__(self, config: NucleotideTransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.num_attention_heads * config.head_width, config.hidden_size)


class Attention(nn.Module):
    """LayerNorm and multi-head attention."""

    def __init__(self, config: NucleotideTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.self = Projections(config)
        self.output = AttentionOutput(config)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, places: Places, heads: Collection[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """[..., D] -> what attention returns, and the maps [B, T, T] of `heads` (0-based)."""
        q, k, v = self.self(x, places)
        plain = not self.config.add_bias_kv and places.mask is None
        if plain:
            lengths = None if places.packing is None else places.packing.lengths
            mixed = attention(q, k, v, lengths=lengths, dropout=self._dropout)
        else:
            mixed = self._attend_everywhere(q, k, v, places.mask)
        return self.output.dense(mixed.flatten(-2)), {head: self._map(q, k, places, head) for head in heads}

    @property
    def _dropout(self) -> float:
        return self.config.attention_probs_dropout_prob if self.training else 0.0

    def _attend_everywhere(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Of all [B, T] positions, with what the originals give at pads, and with the learned key and value."""
        if self.config.add_bias_kv:
            batch = q.shape[0]
            k = torch.cat([k, self.self.bias_k.to(k.dtype).expand(batch, -1, -1, -1)], 1)
            v = torch.cat([v, self.self.bias_v.to(v.dtype).expand(batch, -1, -1, -1)], 1)
        bias = None if mask is None else self._allowed(mask)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=self._dropout).transpose(1, 2)

    def _allowed(self, mask: Tensor) -> Tensor:
        """[B, 1, T or 1, keys] True where a query may look at a key."""
        keys = F.pad(mask, (0, 1), value=True) if self.config.add_bias_kv else mask
        allowed = keys[:, None, None]
        if self.config.pads != "jax":
            return allowed
        # reference quirk: everything is forbidden to a pad, so that it looks at everything alike; with a learned key it
        # sees that one alone
        others = torch.ones_like(keys)
        if self.config.add_bias_kv:
            others = torch.arange(keys.shape[1], device=keys.device).expand_as(keys) == keys.shape[1] - 1
        return torch.where(mask[:, None, :, None], allowed, others[:, None, None])

    def _map(self, q: Tensor, k: Tensor, places: Places, head: int) -> Tensor:
        """[B, T, T] float32 probabilities (query, key); zero for and at pads of a packed stream."""
        query, key = q[..., head, :].float(), k[..., head, :].float()
        allowed, real = None, None
        if places.packing is not None:
            query, key = unpack(query, places.packing), unpack(key, places.packing)
            real = unpack(query.new_ones(len(places.packing.index)), places.packing)
            allowed = real.bool()[:, None]
        elif places.mask is not None:
            allowed = self._allowed(places.mask)[:, 0]
        if self.config.add_bias_kv:
            key = torch.cat([key, self.self.bias_k[:, :, head].float().expand(key.shape[0], -1, -1)], 1)
        scores = torch.einsum("bth,bsh->bts", query, key) * query.shape[-1] ** -0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        weights: Tensor = scores.softmax(-1)
        return weights if real is None else weights * real.unsqueeze(2)


class Dense(nn.Module):
    """One linear layer under a published name."""

    def __init__(self, width: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(width, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., outputs]."""
        out: Tensor = self.dense(x)
        return out


class Block(nn.Module):
    """Attention and a feed-forward part, each a branch of the stream."""

    def __init__(self, config: NucleotideTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, inner, bias = config.hidden_size, config.intermediate_size, config.add_bias_fnn
        self.attention = Attention(config)
        self.intermediate = Dense(width, inner * (2 if config.use_glu_in_ffn else 1), bias=bias)
        self.output = Dense(inner, width, bias=bias)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)

    def forward(
        self, x: Tensor, places: Places, heads: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """(stream after the block, what the feed-forward part returned, attention maps of `heads`)."""
        norm, dropout = self.attention.LayerNorm, partial(F.dropout, p=self.config.hidden_dropout_prob)
        if self.config.pre_layer_norm:
            branch, maps = self.attention(norm(x), places, heads)
            x = x + dropout(branch, training=self.training)
            branch = dropout(self._feed_forward(self.LayerNorm(x)), training=self.training)
            return x + branch, branch, maps
        branch, maps = self.attention(x, places, heads)
        x = norm(x + dropout(branch, training=self.training))
        branch = dropout(self._feed_forward(x), training=self.training)
        return self.LayerNorm(x + branch), branch, maps

    def _feed_forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.config.ffn_activation]
        inner = self.intermediate(x)
        if self.config.use_glu_in_ffn:
            gate, value = inner.chunk(2, -1)
            return self.output(activation(gate) * value)  # type: ignore[no-any-return]
        return self.output(activation(inner))  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """Tables under their published names."""

    def __init__(self, config: NucleotideTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.is_learned:
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.emb_layer_norm_before:
            self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T] -> [B, T, D].

        Args:
            mask: [B, T] True at real tokens; None: everything that is not <pad>.
        """
        config = self.config
        ids = tokens.int()
        x = self.word_embeddings(ids)
        real = ids != config.pad_token_id
        if config.token_dropout:
            everything = torch.ones_like(real) if config.pads == "hub" else real
            x = self._drop_tokens(x, ids, everything if mask is None else mask.bool())
        if config.embed_scale != 1:
            x = x * config.embed_scale
        if config.is_learned:
            counted = real.int()
            x = x + self.position_embeddings(counted.cumsum(1).int() * counted + config.pad_token_id)
        if config.emb_layer_norm_before:
            x = self.layer_norm(x)
        if mask is not None and config.pads != "jax":
            x = x * mask.unsqueeze(2)
        return x  # type: ignore[no-any-return]

    def _drop_tokens(self, x: Tensor, ids: Tensor, real: Tensor) -> Tensor:
        """Zeros at <mask>, and the rest of the sequence scaled to the mean it had in pre-training."""
        is_masked = ids == self.config.mask_token_id
        share = is_masked.sum(1) / real.sum(1).clamp_min(1)
        factor = (1 - self.config.mask_ratio_train) / (1 - share).clamp_min(1e-6)
        return x.masked_fill(is_masked.unsqueeze(2), 0) * factor.to(x.dtype)[:, None, None]


class Encoder(nn.Module):
    """Blocks and the final norm under their published names."""

    def __init__(self, config: NucleotideTransformerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = LayerNorm(config.hidden_size, config.layer_norm_eps)


class NucleotideTransformer(nn.Module):
    """The backbone; a LayeredBackbone (DESIGN 2.4)."""

    last_layer_is_final = True
    """The published numbering of layers counts the states after the final norm as those of the last layer."""

    def __init__(self, config: NucleotideTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.rule = _input_rule(config)
        self.checkpointing = False
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layer

    def init_buffers(self, device: Any) -> None:
        """There are none: angles are computed for each call."""

    def embed(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T] -> [B, T, D]; positions are counted over what is not <pad>."""
        self._require_length(tokens.shape[1])
        return self.embeddings(tokens, mask)  # type: ignore[no-any-return]

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1 on the residual stream: [B, T, D] -> [B, T, D]."""
        x, places = self._enter(x, mask)
        for block in self.encoder.layer[start:stop]:
            x, _, _ = run_block(block, x, places, recompute=self.checkpointing)
        return self._leave(x, places)

    def finish(self, x: Tensor) -> Encoded:
        """[B, T, D] -> final states."""
        return Encoded(self.encoder.emb_layer_norm_after(x))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, T] -> Encoded.

        Taps: "layer.k" is the residual stream after block k (0: the embedding), "layer.k.branch" what the feed-forward
        part of block k added; both [B, T, D]. "attn.k" are the attention maps of block k (from 1), [B, H, T, T] (query,
        key), "attn.k.h" that of head h (from 0), [B, T, T]. The published "embeddings of the last layer" are `hidden`.

        Raises:
            InputError: more tokens than the position table has rows.
            ConfigError: an attention map that does not exist.
        """
        if mask is None and self.config.pads == "jax":
            mask = tokens != self.config.pad_token_id
        embedded = self.embed(tokens, mask)
        found = {"layer.0": embedded} if "layer.0" in taps else {}
        wanted = self._wanted_maps(taps)
        x, places = self._enter(embedded, mask)
        for depth, block in enumerate(self.encoder.layer, start=1):
            heads = wanted.get(depth, ())
            x, branch, maps = run_block(block, x, places, heads, recompute=self.checkpointing)
            for head, weights in maps.items():
                if f"attn.{depth}.{head}" in taps:
                    found[f"attn.{depth}.{head}"] = weights
            if f"attn.{depth}" in taps:
                found[f"attn.{depth}"] = torch.stack([maps[head] for head in range(self.num_heads)], 1)
            for name, state in ((f"layer.{depth}", x), (f"layer.{depth}.branch", branch)):
                if name in taps:
                    found[name] = self._leave(state, places)
        hidden = self._leave(self.encoder.emb_layer_norm_after(x), places)
        return Encoded(hidden, None, found)

    def _enter(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Places]:
        """The stream as the blocks take it: packed where there is padding, unless pads shall be computed too."""
        packing, length = None, x.shape[1]
        if mask is not None and self.config.pads == "packed" and not self.config.add_bias_kv:
            packing = packing_of(mask)
            x, mask = pack(x, packing), None
        turns = None
        if self.config.is_rotary:
            positions = torch.arange(x.shape[1], device=x.device) if packing is None else packing.positions
            turns = half_turns(positions, self.config.head_width, self.config.rotary_base_for(length))
        return x, Places(None if mask is None else mask.bool(), packing, turns)

    def _leave(self, x: Tensor, places: Places) -> Tensor:
        """[B, T, D] again."""
        if places.packing is not None:
            return unpack(x, places.packing)
        return x * places.mask.unsqueeze(2) if places.mask is not None and self.config.pads == "packed" else x

    def _wanted_maps(self, taps: Collection[str]) -> dict[int, tuple[int, ...]]:
        """Block -> heads."""
        wanted: dict[int, tuple[int, ...]] = {}
        for name in taps:
            if not name.startswith("attn."):
                continue
            layer, *head = (int(part) for part in name.split(".")[1:])
            if not (1 <= layer <= len(self.blocks) and 0 <= sum(head) < self.num_heads):
                raise ConfigError(
                    f"attention: there is no {name!r}; layers are 1 to {len(self.blocks)}, heads 0 to "
                    f"{self.num_heads - 1}"
                )
            wanted[layer] = tuple(dict.fromkeys((*wanted.get(layer, ()), *(head or range(self.num_heads)))))
        return wanted

    def _require_length(self, length: int) -> None:
        if self.config.is_learned and length > self.config.max_tokens:
            raise InputError(
                f"{length:,} tokens exceed this model's table of {self.config.max_tokens:,} positions (<cls> counts; "
                "k-mer tokens of k bases, N and leftover bases one each): read the sequence in windows, as `chargaff "
                "embed` does"
            )


def _input_rule(config: NucleotideTransformerConfig) -> InputRule:
    """Where the rotation follows from the length, or every base gets its label, rows cannot be padded or hold N."""
    is_rescaled = config.rescale_beyond_tokens is not None
    return InputRule(
        max_tokens=None if is_rescaled else config.max_tokens,
        padding="never" if is_rescaled else "masked",
        n_bases="forbidden" if config.features else "token",
        needs_special=True,
    )


class LmHead(nn.Module):
    """Logits over the vocabulary; the decoder is a matrix of its own."""

    def __init__(self, config: NucleotideTransformerConfig, backbone: nn.Module) -> None:
        super().__init__()
        width = config.hidden_size
        self.zeroes_pads = config.pads == "jax"
        self.dense = nn.Linear(width, width)
        self.layer_norm = LayerNorm(width, config.layer_norm_eps)
        self.decoder = nn.Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32."""
        hidden = self.layer_norm(F.gelu(self.dense(encoded.hidden)))
        logits = F.linear(hidden, self.decoder.weight, self.bias.to(hidden.dtype)).float()
        return logits * mask.unsqueeze(2) if self.zeroes_pads and mask is not None else logits


class SequenceClassifier(nn.Module):
    """The published classifier: state of <cls> -> dense -> tanh -> outputs."""

    def __init__(self, config: NucleotideTransformerConfig, backbone: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, num_outputs)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, num_outputs]."""
        first = pool(encoded.hidden, mask, "first")  # <cls>, wherever padding has put it
        x = F.dropout(first, self.dropout, self.training)
        out: Tensor = self.out_proj(F.dropout(torch.tanh(self.dense(x)), self.dropout, self.training))
        return out


class TokenClassifier(nn.Linear):
    """The published classifier of tokens: one linear layer on every final state."""

    def __init__(self, config: NucleotideTransformerConfig, backbone: nn.Module, num_outputs: int) -> None:
        super().__init__(config.hidden_size, num_outputs)
        self.dropout = config.hidden_dropout_prob

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """[B, T, num_outputs]."""
        return super().forward(F.dropout(encoded.hidden, self.dropout, self.training))


def _kmer_grid(length_bp: int) -> Grid:
    return Grid(0, SEGMENT_BP, length_bp // SEGMENT_BP)


def segmentation_head(config: NucleotideTransformerConfig, backbone: nn.Module, num_outputs: int) -> SegmentationHead:
    """On the states of the 6-mers, without <cls>."""
    return SegmentationHead(
        config.hidden_size,
        config.hidden_size,
        num_outputs,
        state_grid=_kmer_grid,
        token_bp=SEGMENT_BP,
        levels=config.unet_levels,
        num_layers=config.num_layers_head,
        num_special=1,
    )


@torch.no_grad()
def init_weights(module: nn.Module, config: NucleotideTransformerConfig) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (sheet 3.3, the torch classes).

    | tensor | distribution |
    |---|---|
    | matrices, embeddings | normal(0, 0.02) |
    | biases, the learned key and value | 0 |
    | norms | 1 and 0 |
    | a segmentation head | its own |
    """
    if isinstance(module, SegmentationHead):
        module.reset_parameters()
        return
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)
            if isinstance(child, nn.Linear) and child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, LayerNorm):
            child.reset_parameters()
        elif isinstance(child, LmHead):
            nn.init.zeros_(child.bias)
        elif isinstance(child, Projections) and config.add_bias_kv:
            nn.init.zeros_(child.bias_k)
            nn.init.zeros_(child.bias_v)
