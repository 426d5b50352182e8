"""HyenaDNA: implicit long convolutions between gates (hyenadna sheet 2)."""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.families.hyenadna.config import HyenaConfig
from chargaff.families.hyenadna.filter import HyenaFilter, Modulation, PositionFeatures, Sine
from chargaff.families.hyenadna.mixers import AttentionMixer, AttentionState, HyenaMixer, HyenaState
from chargaff.families.protocol import Encoded, InputRule, State
from chargaff.nn.norms import LayerNorm
from chargaff.nn.stack import run_block
from chargaff.ops.gelu import gelu

BLOCK_TOKENS = 1024
"""Positions that pass projections, norms and MLP together at inference, so that what is in between stays in caches."""


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        out: Tensor = self.fc2(gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Two pre-norm residual branches."""

    def __init__(self, config: HyenaConfig, index: int) -> None:
        super().__init__()
        # reference quirk: the hub code's blocks ignore layer_norm_epsilon
        width, eps = config.d_model, 1e-5 if config.variant == "hf" else config.layer_norm_epsilon
        self.norm1, self.norm2 = LayerNorm(width, eps), LayerNorm(width, eps)
        self.mixer: HyenaMixer | AttentionMixer
        if index in config.attn_layer_idx:
            assert config.attn_cfg is not None
            self.mixer = AttentionMixer(width, config.attn_cfg)
        else:
            self.mixer = HyenaMixer(config)
        self.mlp = Mlp(width, config.inner_width)
        # the embedding's dropout sits at the start of the first block, in front of the residual stream
        self.dropout = config.resid_dropout

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(stream after the mixer, what the MLP adds), both [B, L, D]."""
        x = x + F.dropout(self.mixer(self.norm1(x)), self.dropout, self.training)
        return x, F.dropout(self.mlp(self.norm2(x)), self.dropout, self.training)

    def infer(self, x: Tensor) -> Tensor:
        """The stream after the block, without gradients, position-wise work in stretches.

        Besides the stream two tensors of its size live meanwhile; one of them becomes the result.
        """
        step = max(64, BLOCK_TOKENS // x.shape[0])
        parts = [slice(start, min(start + step, x.shape[1])) for start in range(0, x.shape[1], step)]
        if isinstance(self.mixer, AttentionMixer):
            out = torch.empty_like(x)
            mixed = self.mixer(self.norm1(x))
            for part in parts:
                piece = x[:, part] + mixed[:, part]
                torch.add(piece, self.mlp(self.norm2(piece)), out=out[:, part])
            return out
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.norm1.weight.dtype
        held = self.mixer.begin(x.shape[0], x.shape[1], dtype)
        for part in parts:
            self.mixer.feed(self.norm1(x[:, part]), part, held)
        self.mixer.convolve(held)
        # a stretch of the gates is read before that of the result is written
        out = held.gates if (held.gates.shape, dtype) == (x.shape, x.dtype) else torch.empty_like(x)
        for part in parts:
            piece = x[:, part] + self.mixer.read(part, held)
            torch.add(piece, self.mlp(self.norm2(piece)), out=out[:, part])
        return out

    def forward_chunk(
        self, x: Tensor, state: HyenaState | AttentionState
    ) -> tuple[Tensor, HyenaState | AttentionState]:
        """The stream after the block for tokens that follow those which led to `state`, and the next state."""
        if isinstance(self.mixer, HyenaMixer):
            assert isinstance(state, HyenaState)
            branch, following = self.mixer.forward_chunk(self.norm1(x), state)
            x = x + branch
            return x + self.mlp(self.norm2(x)), following
        assert isinstance(state, AttentionState)
        branch, longer = self.mixer.forward_chunk(self.norm1(x), state)
        x = x + branch
        return x + self.mlp(self.norm2(x)), longer


class Embeddings(nn.Module):
    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.d_model)
        positions = config.max_position_embeddings
        self.position_embeddings = nn.Embedding(positions, config.d_model) if positions else None

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        """[B, L] tokens at positions from `start` on -> [B, L, D]."""
        x: Tensor = self.word_embeddings(tokens.int())
        if self.position_embeddings is None:
            return x
        limit, stop = self.position_embeddings.num_embeddings, start + tokens.shape[1]
        if stop > limit:
            raise InputError(f"{stop} tokens are more than the {limit} learned positions: cut into windows")
        return x + self.position_embeddings.weight[start:stop]


class Hyena(nn.Module):
    """The backbone; a LayeredBackbone (DESIGN 2.4)."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.d_model
        limits = [config.layer.l_max] if config.layer else []
        limits += [config.max_position_embeddings] if config.max_position_embeddings else []
        self.rule = InputRule(max_tokens=min(limits, default=None), padding="causal" if config.is_causal else "never")
        self.checkpointing = False
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.n_layer))
        self.ln_f = LayerNorm(config.d_model, config.layer_norm_epsilon)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def init_buffers(self, device: Any) -> None:
        """Builds nothing; layers whose position features are equal constants share one copy of them."""
        first: dict[str, Tensor] = {}
        for module in self.modules():
            if not isinstance(module, PositionFeatures):
                continue
            for name, buffer in module.named_buffers():
                held = first.setdefault(name, buffer)
                if held is not buffer and held.device == buffer.device and torch.equal(held, buffer):
                    setattr(module, name, held.view_as(held))

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]."""
        return self._embed(tokens, 0)

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        x = F.dropout(self.embeddings(tokens, start), self.config.embed_dropout, self.training)
        return x.float() if self.config.residual_in_fp32 else x

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1 on the residual stream: [B, T, D] -> [B, T, D]. There is no mask."""
        for block in self.layers[start:stop]:
            x = self._advance(block, x)
        return x

    def finish(self, x: Tensor) -> Encoded:
        """[B, T, D] -> final states."""
        return Encoded(self.ln_f(x))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded:
        """[B, T] -> Encoded.

        Taps: "layer.k" is the residual stream after block k (0: the embedding), "layer.k.branch" what the MLP of block
        k added last; both [B, T, D].
        """
        x = self.embed(tokens)
        found = {"layer.0": x} if "layer.0" in taps else {}
        for depth, block in enumerate(self.layers, start=1):
            if f"layer.{depth}.branch" in taps:
                x, branch = run_block(block, x, recompute=self.checkpointing)
                found[f"layer.{depth}.branch"] = branch
                x = x + branch
            else:
                x = self._advance(block, x)
            if f"layer.{depth}" in taps:
                found[f"layer.{depth}"] = x
        return Encoded(self.ln_f(x), None, found)

    def _advance(self, block: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(block, Block)
        if not (torch.is_grad_enabled() or self.training or torch.compiler.is_compiling()):
            return block.infer(x)
        mixed, branch = run_block(block, x, recompute=self.checkpointing)
        out: Tensor = mixed + branch
        return out


class CausalHyena(Hyena):
    """A StatefulBackbone (DESIGN 2.4): all layers look back only.

    The state holds the inputs of every long convolution, so it grows by layers x (order - 1) x D values a token, and a
    step costs that many products for each token before it.
    """

    def init_state(self, batch: int) -> State:
        """The state before the first token."""
        return (0, *(block.mixer.init_state(batch) for block in self.layers if isinstance(block, Block)))

    def forward_chunk(self, tokens: Tensor, state: State) -> tuple[Encoded, State]:
        """[B, T] tokens after those that led to `state` -> their final states and the next state."""
        past, *carried = state
        x = self._embed(tokens, past)
        following = []
        for block, held in zip(self.layers, carried, strict=True):
            assert isinstance(block, Block)
            x, new = block.forward_chunk(x, held)
            following.append(new)
        return self.finish(x), (past + tokens.shape[1], *following)


def make_backbone(config: HyenaConfig) -> Hyena:
    """With carried state where the model is causal."""
    return CausalHyena(config) if config.is_causal else Hyena(config)


class LmHead(nn.Module):
    """Next-token logits; the weight is the embedding's where the config ties them."""

    def __init__(self, config: HyenaConfig, backbone: nn.Module) -> None:
        super().__init__()
        assert isinstance(backbone, Hyena)
        tied = backbone.embeddings.word_embeddings.weight
        self.weight = tied if config.tie_word_embeddings else nn.Parameter(torch.empty_like(tied))

    def forward(self, encoded: Encoded, mask: Tensor | None = None) -> Tensor:
        """[B, T, V] float32."""
        return F.linear(encoded.hidden, self.weight).float()


def hidden_states(config: HyenaConfig, encoded: Encoded) -> tuple[Tensor, ...]:
    """As the hub code returns them: the embedding, the stream after each block, and the final states."""
    return (*(encoded.taps[f"layer.{k}"] for k in range(config.n_layer + 1)), encoded.hidden)


@torch.no_grad()
def init_weights(module: nn.Module, config: HyenaConfig) -> None:
    """Fresh weights for a backbone or a head, from torch's global generator (sheet 2.7).

    | tensor | distribution |
    |---|---|
    | linear (filter MLP too), embeddings, head | normal(0, initializer_range), biases 0 |
    | mixer out_proj, MLP fc2 | the same divided by sqrt(2 n_layer) |
    | filter skip bias | normal(0, 1) |
    | short filter | uniform(+-1/sqrt(taps)) |
    | freq | w |
    | features, decay rates | their formulas |
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            is_last = name.endswith(("mixer.out_proj", "mlp.fc2"))
            nn.init.normal_(
                child.weight, std=config.initializer_range / ((2 * config.n_layer) ** 0.5 if is_last else 1)
            )
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding) or (isinstance(child, LmHead) and not config.tie_word_embeddings):
            nn.init.normal_(child.weight, std=config.initializer_range)
        elif isinstance(child, HyenaFilter):
            nn.init.normal_(child.bias)
        elif isinstance(child, Sine):
            assert config.layer is not None
            nn.init.constant_(child.freq, config.layer.w)
        elif isinstance(child, LayerNorm | nn.Conv1d | PositionFeatures | Modulation):
            child.reset_parameters()
