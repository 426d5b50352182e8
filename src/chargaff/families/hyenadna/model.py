"""HyenaDNA: implicit long convolutions between gates (hyenadna sheet 2)."""

import math
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.families.hyenadna.config import AttentionConfig, HyenaConfig, HyenaLayerConfig
from chargaff.families.protocol import Encoded, InputRule
from chargaff.nn.norms import LayerNorm
from chargaff.nn.stack import run_block
from chargaff.ops.long_conv import kernel_spectrum, long_conv

MLP_BLOCK_TOKENS = 4096
"""Positions a block of the MLP at inference."""
DECAY_TARGET, FAST_DECAY, SLOW_DECAY = 0.01, 0.3, 1.5


class Sine(nn.Module):
    """sin(freq x); one frequency vector serves every layer of a filter."""

    def __init__(self, width: int, w: float) -> None:
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, width), float(w)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.freq * x)


class PositionFeatures(nn.Module):
    """`z` [1, M, emb_dim] and `t` [1, M, 1], built for the longest input and cut, never rescaled."""

    z: Tensor
    t: Tensor

    def __init__(self, layer: HyenaLayerConfig) -> None:
        super().__init__()
        z = torch.empty(1, layer.l_max, layer.emb_dim)
        if layer.lr_pos_emb > 0:
            self.z = nn.Parameter(z)
        else:
            self.register_buffer("z", z)
        self.register_buffer("t", torch.empty(1, layer.l_max, 1))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        positions, width = self.t.shape[1], self.z.shape[2]
        bands = (width - 1) // 2
        t = torch.linspace(0, 1, positions)
        angle = 2 * math.pi * torch.arange(positions) / positions
        phase = angle.unsqueeze(1) * torch.linspace(1e-4, bands - 1, bands)
        self.t.copy_(t.view(1, -1, 1))
        self.z.copy_(torch.cat([t.unsqueeze(1), phase.cos(), -phase.sin()], 1).unsqueeze(0))


class Modulation(nn.Module):
    """Decay rates of the kernel's window, one a channel."""

    deltas: Tensor

    def __init__(self, channels: int, *, is_trained: bool) -> None:
        super().__init__()
        deltas = torch.empty(1, 1, channels)
        if is_trained:
            self.deltas = nn.Parameter(deltas)
        else:
            self.register_buffer("deltas", deltas)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        slow, fast = math.log(DECAY_TARGET) / SLOW_DECAY, math.log(DECAY_TARGET) / FAST_DECAY
        self.deltas.copy_(torch.linspace(slow, fast, self.deltas.shape[2]).view_as(self.deltas))


class HyenaFilter(nn.Module):
    """Long convolution with an implicit kernel (sheet 2.3); everything in float32."""

    def __init__(self, channels: int, layer: HyenaLayerConfig, shift: float) -> None:
        super().__init__()
        self.layer, self.shift = layer, shift
        self.bias = nn.Parameter(torch.empty(channels))
        self.pos_emb = PositionFeatures(layer)
        self.modulation = Modulation(channels, is_trained=layer.modulation_lr > 0)
        if layer.linear_mixer:
            stages: list[nn.Module] = [nn.Linear(layer.emb_dim, channels, bias=False)]
        else:
            sine = Sine(layer.filter_order, layer.w)
            stages = [nn.Linear(layer.emb_dim, layer.filter_order), sine]
            for _ in range(layer.num_inner_mlps):
                stages += [nn.Linear(layer.filter_order, layer.filter_order), sine]
            stages += [nn.Linear(layer.filter_order, channels, bias=False)]
        self.implicit_filter = nn.Sequential(*stages)
        for parameter in self.parameters():
            parameter.keep_float32 = True  # type: ignore[attr-defined]
        self._cached: tuple[tuple[Any, ...], Tensor] | None = None

    def kernel(self, length: int) -> Tensor:
        """[1, L, channels] float32."""
        z, t = self.pos_emb.z[:, :length], self.pos_emb.t[:, :length]
        with torch.autocast(z.device.type, enabled=False):
            kernel: Tensor = self.implicit_filter(z.float())
        if self.layer.modulate:
            kernel = kernel * (torch.exp(-t * self.modulation.deltas.abs()) + self.shift)
        if self.layer.normalized:
            kernel = kernel / kernel.abs().sum(-1, keepdim=True)
        return kernel

    @property
    def skip(self) -> Tensor:
        return self.bias if self.layer.bias else self.bias * 0

    def convolve(self, u: Tensor, kernel: Tensor, skip: Tensor, gate: Tensor | None = None) -> Tensor:
        """gate (kernel * u + skip u): [B, D, L] with kernel [D, L]."""
        if not self.layer.bidirectional:
            return long_conv(u, kernel, skip, gate=gate)
        mixed = _circular(u, kernel) + u * skip.unsqueeze(1)
        return mixed if gate is None else mixed * gate

    def spectra(self, length: int, split: Any) -> Tensor:
        """Spectra of the kernels for one length, kept until the weights or the length change."""
        key = (length, *((p.data_ptr(), p._version) for p in self.parameters()))
        if self._cached is None or self._cached[0] != key:
            spectra = torch.stack([kernel_spectrum(part) for part in split(self.kernel(length))])
            self._cached = (key, spectra)
        return self._cached[1]


def _circular(u: Tensor, kernel: Tensor) -> Tensor:
    """The published bidirectional variant: input padded by L // 2 on both sides, FFT of size 2 L, first L outputs."""
    length = u.shape[2]
    padded = F.pad(u.float(), (length // 2, length // 2))
    product = torch.fft.rfft(padded, 2 * length) * torch.fft.rfft(kernel.float(), 2 * length)
    mixed: Tensor = torch.fft.irfft(product, 2 * length)[..., :length].to(u.dtype)
    return mixed


class HyenaMixer(nn.Module):
    """Gates around long convolutions (sheet 2.2)."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        assert config.layer is not None
        self.layer, self.is_blocked = config.layer, config.variant != "training"
        self.width, self.order = config.d_model, config.layer.order
        packed = (self.order + 1) * self.width
        taps = 3 if config.variant == "standalone" else self.layer.short_filter_order
        self.in_proj = nn.Linear(self.width, packed)
        self.short_filter = nn.Conv1d(packed, packed, taps, groups=packed)
        self.filter_fn = HyenaFilter(self.width * (self.order - 1), self.layer, config.shift)
        self.out_proj = nn.Linear(self.width, self.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        length = x.shape[1]
        if length > self.layer.l_max:
            raise InputError(
                f"{length} tokens are more than this checkpoint's filter covers ({self.layer.l_max}): cut into windows"
            )
        u = torch.matmul(self.in_proj.weight.to(x.dtype), x.transpose(1, 2))  # [B, (O+1)D, L]
        u = u + self.in_proj.bias.to(u.dtype).unsqueeze(1)
        taps = self.short_filter.weight.shape[2]
        u = F.conv1d(F.pad(u, (taps - 1, 0)), self.short_filter.weight, self.short_filter.bias, groups=u.shape[1])
        *gates, v = torch.split(u, self.width, 1)
        for step, (kernel, spectrum, skip) in enumerate(self._filters(length)):
            v = v * gates[self.order - 1 - step]
            gate = gates[0] if step == self.order - 2 else None
            if spectrum is None:
                v = self.filter_fn.convolve(v, kernel, skip, gate)
            else:
                v = long_conv(v, None, skip, gate=gate, spectrum=spectrum)
        return F.linear(v.transpose(1, 2), self.out_proj.weight, self.out_proj.bias)

    def _filters(self, length: int) -> list[tuple[Any, Tensor | None, Tensor]]:
        """(kernel [D, L] or None, its cached spectrum or None, skip [D]) of each convolution."""
        skips = self._per_order(self.filter_fn.skip.view(1, 1, -1))
        count = self.order - 1
        if torch.is_grad_enabled() or self.layer.bidirectional:
            kernels = self._per_order(self.filter_fn.kernel(length))
            return [(kernels[o], None, skips[o, :, 0]) for o in range(count)]
        spectra = self.filter_fn.spectra(length, self._per_order)
        return [(None, spectra[o], skips[o, :, 0]) for o in range(count)]

    def _per_order(self, channels: Tensor) -> Tensor:
        """[1, L, D (O-1)] -> [O-1, D, L]; the variants lay the channels out differently (sheet 2.3)."""
        length = channels.shape[1]
        if self.is_blocked:
            return channels.view(length, self.order - 1, self.width).permute(1, 2, 0)
        return channels.view(length, self.width, self.order - 1).permute(2, 1, 0)


class AttentionMixer(nn.Module):
    """Causal attention of the comparison models (sheet 2.6)."""

    def __init__(self, width: int, options: AttentionConfig) -> None:
        super().__init__()
        self.num_heads = options.num_heads
        self.Wqkv = nn.Linear(width, 3 * width)
        self.dwconv_qkv = nn.Conv1d(3 * width, 3 * width, 3, groups=3 * width) if options.dwconv else None
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        batch, length, width = x.shape
        packed = self.Wqkv(x)
        if self.dwconv_qkv is not None:
            packed = self.dwconv_qkv(F.pad(packed.transpose(1, 2), (2, 0))).transpose(1, 2)
        q, k, v = packed.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Two pre-norm residual branches."""

    def __init__(self, config: HyenaConfig, index: int) -> None:
        super().__init__()
        width, eps = config.d_model, config.layer_norm_epsilon
        self.norm1, self.norm2 = LayerNorm(width, eps), LayerNorm(width, eps)
        if index in config.attn_layer_idx:
            assert config.attn_cfg is not None
            self.mixer: nn.Module = AttentionMixer(width, config.attn_cfg)
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
        """The stream after the block, the MLP in pieces."""
        x = x + self.mixer(self.norm1(x))
        for piece in torch.split(x, MLP_BLOCK_TOKENS, 1):
            piece += self.mlp(self.norm2(piece))
        return x


class Embeddings(nn.Module):
    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.d_model)
        positions = config.max_position_embeddings
        self.position_embeddings = nn.Embedding(positions, config.d_model) if positions else None

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]."""
        x: Tensor = self.word_embeddings(tokens.int())
        if self.position_embeddings is None:
            return x
        limit = self.position_embeddings.num_embeddings
        if tokens.shape[1] > limit:
            raise InputError(f"{tokens.shape[1]} tokens are more than the {limit} learned positions")
        return x + self.position_embeddings.weight[: tokens.shape[1]]


class Hyena(nn.Module):
    """The backbone; a LayeredBackbone (DESIGN 2.4)."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.d_model
        limits = [config.layer.l_max] if config.layer else []
        limits += [config.max_position_embeddings] if config.max_position_embeddings else []
        is_causal = config.layer is None or not config.layer.bidirectional
        self.rule = InputRule(max_tokens=min(limits, default=None), padding="causal" if is_causal else "never")
        self.checkpointing = False
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.n_layer))
        self.ln_f = LayerNorm(config.d_model, config.layer_norm_epsilon)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def init_buffers(self, device: Any) -> None:
        """Nothing to build: features and decay rates are part of the state."""

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]."""
        x = F.dropout(self.embeddings(tokens), self.config.embed_dropout, self.training)
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
        if not torch.is_grad_enabled() and not self.training:
            return block.infer(x)
        mixed, branch = run_block(block, x, recompute=self.checkpointing)
        out: Tensor = mixed + branch
        return out


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
