"""The encoder of DNABERT-2 and DNABERT-S: post-norm blocks, distance biases, a gated MLP (dnabert sheet 2)."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.dnabert2.config import Dnabert2Config
from chargaff.families.protocol import Encoded, InputRule
from chargaff.nn.packing import Packing, pack, packing_of, unpack
from chargaff.nn.stack import run_block
from chargaff.ops.add_norm import add_norm
from chargaff.ops.attention import alibi_slopes, attention, attention_weights

HEAD_EPS = 1e-12
"""Of the language-model head's norm, whatever the config says."""

BLOCK_TOKENS = 1024
"""Tokens that pass the wide middle of an MLP together where no gradient is kept: what fits into the caches."""

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class Embeddings(nn.Module):
    """Tokens and segments; positions enter through the attention biases alone."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        """[B, T] -> [B, T, D]."""
        x = self.word_embeddings(tokens.int())
        kinds = self.token_type_embeddings.weight[0] if segments is None else self.token_type_embeddings(segments.int())
        normed: Tensor = self.LayerNorm(x + kinds)
        return F.dropout(normed, self.dropout, self.training)


class JoinedNorm(nn.LayerNorm):
    """The norm of a branch and the stream it joins, in one pass."""

    def forward(self, branch: Tensor, stream: Tensor) -> Tensor:  # type: ignore[override]
        """[..., D] each -> [..., D] in the weight's type."""
        normed, _ = add_norm(branch.to(stream.dtype), stream, self.weight, self.bias, self.eps, kind="layer")
        return normed.to(self.weight.dtype)


class SelfAttention(nn.Module):
    """One projection to queries, keys and values, and attention that decays with distance."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x: Tensor, packing: Packing | None, slopes: Tensor) -> Tensor:
        """[B, T, D], or [N, D] with its packing -> the same shape, heads side by side."""
        query, key, value = self.project(x)
        mixed = attention(
            query,
            key,
            value,
            lengths=None if packing is None else packing.lengths,
            slopes=slopes,
            positions=packing.positions if packing is not None and packing.has_holes else None,
            dropout=self.dropout if self.training else 0.0,
        )
        return mixed.flatten(-2)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] -> queries, keys and values, [..., H, K] each."""
        query, key, value = self.Wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def maps(self, x: Tensor, packing: Packing | None, slopes: Tensor, head: int | None) -> Tensor:
        """Probabilities [B, H, T, T], or [B, T, T] of one head; zero at padding."""
        query, key, _ = self.project(x)
        heads = slice(None) if head is None else slice(head, head + 1)
        query, key = query[..., heads, :], key[..., heads, :]
        mask = None
        if packing is not None:
            query, key = unpack(query, packing), unpack(key, packing)
            mask = unpack(x.new_ones(len(x)), packing).bool()
        found = attention_weights(query, key, mask=mask, slopes=slopes[heads])
        return found if head is None else found.squeeze(1)


class SelfOutput(nn.Module):
    """Projection, residual sum, norm."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = JoinedNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, mixed: Tensor, stream: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        joined: Tensor = self.LayerNorm(F.dropout(self.dense(mixed), self.dropout, self.training), stream)
        return joined


class Attention(nn.Module):
    """The first half of a block."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.add_module("self", SelfAttention(config))
        self.output = SelfOutput(config)

    @property
    def mixer(self) -> SelfAttention:
        """The module of the published name "self"."""
        found = self.get_submodule("self")
        assert isinstance(found, SelfAttention)
        return found

    def forward(self, x: Tensor, packing: Packing | None, slopes: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        joined: Tensor = self.output(self.mixer(x, packing, slopes), x)
        return joined


class GatedMlp(nn.Module):
    """The second half of a block: exact GELU of the first half of the projection times its second half."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = JoinedNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] -> (new stream, branch that joined it)."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            branch = self.branch(x)
        else:
            pieces = torch.split(x.flatten(0, -2), BLOCK_TOKENS)
            branch = torch.cat([self.branch(piece) for piece in pieces]).view(x.shape)
        return self.layernorm(branch, x), branch

    def branch(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, inner = self.gated_layers(x).chunk(2, -1)
        mixed: Tensor = self.wo(F.dropout(F.gelu(gate) * inner, self.dropout, self.training))
        return mixed


class Block(nn.Module):
    """Attention, then the gated MLP, each followed by a norm."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = GatedMlp(config)

    def forward(self, x: Tensor, packing: Packing | None, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D], or [N, D] with its packing -> (stream, what the MLP added last)."""
        stream, branch = self.mlp(self.attention(x, packing, slopes))
        return stream, branch


class Encoder(nn.Module):
    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))


class Dnabert2(nn.Module):
    """The backbone; a LayeredBackbone (DESIGN 2.4)."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.config = config
        self.width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.rule = InputRule(padding="masked", needs_special=True)
        self.checkpointing = False
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layer

    def init_buffers(self, device: Any) -> None:
        """There are none: slopes and biases are computed for each call, in float32 whatever the weights are."""

    def embed(self, tokens: Tensor, *, segments: Tensor | None = None) -> Tensor:
        """[B, T] -> [B, T, D], padding included.

        Args:
            segments: [B, T] 0 for the first and 1 for the second sequence of a pair; None: all 0.
        """
        x: Tensor = self.embeddings(tokens, segments)
        return x

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1: [B, T, D] -> [B, T, D], zero outside the mask."""
        packing = None if mask is None else packing_of(mask)
        x = x if packing is None else pack(x, packing)
        slopes = self._slopes(x)
        for block in self.blocks[start:stop]:
            x, _ = run_block(block, x, packing, slopes, recompute=self.checkpointing)
        return x if packing is None else unpack(x, packing)

    def finish(self, x: Tensor) -> Encoded:
        """The last block's output is the final state."""
        return Encoded(x)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        taps: Collection[str] = (),
        segments: Tensor | None = None,
    ) -> Encoded:
        """[B, T] -> Encoded; states outside the mask are zero, and no work is spent on them.

        Taps: "layer.k" is the state after block k (0: the embedding, padding included), "layer.k.branch" what the MLP
        of block k added before the norm; both [B, T, D]. "attn.k" are the attention maps of block k (from 1),
        [B, H, T, T], "attn.k.h" that of head h (from 0), [B, T, T].
        """
        x = self.embed(tokens, segments=segments)
        found = {"layer.0": x} if "layer.0" in taps else {}
        packing = None if mask is None else packing_of(mask)
        x = x if packing is None else pack(x, packing)
        slopes = self._slopes(x)

        def padded(states: Tensor) -> Tensor:
            return states if packing is None else unpack(states, packing)

        for depth, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            for name in taps:
                if name == f"attn.{depth}" or name.startswith(f"attn.{depth}."):
                    head = name.split(".")[2:]
                    found[name] = block.attention.mixer.maps(x, packing, slopes, int(head[0]) if head else None)
            x, branch = run_block(block, x, packing, slopes, recompute=self.checkpointing)
            if f"layer.{depth}.branch" in taps:
                found[f"layer.{depth}.branch"] = padded(branch)
            if f"layer.{depth}" in taps:
                found[f"layer.{depth}"] = padded(x)
        return Encoded(padded(x), None, found)

    def _slopes(self, x: Tensor) -> Tensor:
        return alibi_slopes(self.config.num_attention_heads).to(x.device)


class Transform(nn.Module):
    """What the language-model head does before the logits."""

    def __init__(self, config: Dnabert2Config) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.hidden_act]
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, HEAD_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        normed: Tensor = self.LayerNorm(self.activation(self.dense(x)))
        return normed


class LmHead(nn.Module):
    """Logits of every position; the matrix is the embedding's, the bias its own."""

    def __init__(self, config: Dnabert2Config, backbone: nn.Module) -> None:
        super().__init__()
        assert isinstance(backbone, Dnabert2)
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.decoder.weight = backbone.embeddings.word_embeddings.weight

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32; at padding the logits of a zero state."""
        logits: Tensor = self.decoder(self.transform(encoded.hidden)).float()
        return logits


class Pooler(nn.Module):
    """tanh of a linear map of column 0, whatever stands there."""

    def __init__(self, config: Dnabert2Config, backbone: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, num_outputs)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, D] -> [B, outputs]."""
        pooled: Tensor = self.dense(encoded.hidden[:, 0]).tanh()
        return pooled


class Classifier(nn.Module):
    """A linear layer on the pooled [CLS] state."""

    def __init__(self, config: Dnabert2Config, backbone: nn.Module, num_outputs: int) -> None:
        super().__init__()
        dropout = config.classifier_dropout
        self.dropout = config.hidden_dropout_prob if dropout is None else dropout
        self.pooler = Pooler(config, backbone, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, num_outputs)

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, num_outputs]."""
        pooled = F.dropout(self.pooler(encoded, mask), self.dropout, self.training)
        logits: Tensor = self.classifier(pooled)
        return logits


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the positions that are asked for: [B, T, V] float32, [B, T] -> [].

    Reference quirk: a position counts where its label is above 0. That drops -100, but also 0, the unknown letters;
    without any position the loss is NaN.
    """
    asked = labels > 0
    return F.cross_entropy(logits[asked], labels[asked])


@torch.no_grad()
def init_weights(module: nn.Module, config: Dnabert2Config) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (sheet 2, "Initialisation").

    | tensor | distribution |
    |---|---|
    | matrices, embeddings | normal(0, initializer_range) |
    | embedding row pad_token_id | 0 |
    | biases, norms | 0, and 1 for weights of norms |
    """
    tied = module.decoder if isinstance(module, LmHead) else None
    for child in module.modules():
        if isinstance(child, nn.LayerNorm):
            child.reset_parameters()
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=config.initializer_range)
            if child.padding_idx is not None:
                child.weight[child.padding_idx] = 0
        elif isinstance(child, nn.Linear):
            if child is not tied:
                nn.init.normal_(child.weight, std=config.initializer_range)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
