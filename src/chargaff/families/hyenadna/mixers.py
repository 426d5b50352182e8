"""What mixes positions: gated long convolutions (hyenadna sheet 2.2), and attention in the comparison models (2.6)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.families.hyenadna.config import AttentionConfig, HyenaConfig
from chargaff.families.hyenadna.filter import HyenaFilter, circular_conv
from chargaff.ops.long_conv import fft_size, long_conv

BLOCK_VALUES = 1 << 22
"""Values of a block of channels at inference (16 MB): enough for the matrix products, little beside the states."""
DIRECT_TOKENS = 8
"""A chunk of at most so many tokens is convolved with its past tap by tap, a longer one by FFT."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "elu": F.elu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}


@dataclass(frozen=True, slots=True)
class HyenaState:
    """What a Hyena mixer has seen."""

    tail: Tensor
    """[B, (O+1) D, taps - 1] last inputs of the short convolution."""
    history: tuple[Tensor, ...]
    """[B, D, T] inputs of each long convolution since the first token."""


class HyenaMixer(nn.Module):
    """Gates around long convolutions."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        assert config.layer is not None
        self.layer = config.layer
        self.width, self.order = config.d_model, config.layer.order
        packed = (self.order + 1) * self.width
        taps = 3 if config.variant == "standalone" else self.layer.short_filter_order
        self.in_proj = nn.Linear(self.width, packed)
        self.short_filter = nn.Conv1d(packed, packed, taps, groups=packed)
        is_blocked = config.variant != "training"
        self.filter_fn = HyenaFilter(self.width, self.layer, config.shift, is_blocked=is_blocked)
        self.out_proj = nn.Linear(self.width, self.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        length = x.shape[1]
        self.require_length(length)
        *gates, v = torch.split(self._short_conv(self._project(x, slice(0, self.width))), self.width, 1)
        kernels, skips = self.filter_fn.kernels(length), self.filter_fn.skips()
        for step in range(self.order - 1):
            v = v * gates[self.order - 1 - step]
            gate = gates[0] if step == self.order - 2 else None
            v = self._convolve(v, kernels[step], skips[step], gate)
        return F.linear(self._activate(v).transpose(1, 2), self.out_proj.weight, self.out_proj.bias)

    def mix(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, D, L], what `out_proj` reads; without gradients, a block of channels at a time."""
        length = x.shape[1]
        self.require_length(length)
        if self.layer.bidirectional:
            return self._mix_at_once(x)
        out = x.new_empty(x.shape[0], self.width, length)
        spectra = self.filter_fn.cached_spectra(length)
        features = self.filter_fn.hidden(length) if spectra is None else x
        skips = self.filter_fn.skips()
        step = max(1, BLOCK_VALUES // (x.shape[0] * fft_size(2 * length - 1)))
        for start in range(0, self.width, step):
            part = slice(start, min(start + step, self.width))
            some = self.filter_fn.spectra(length, part, features) if spectra is None else spectra[:, part]
            *gates, v = torch.chunk(self._short_conv(self._project(x, part), part), self.order + 1, 1)
            for o in range(self.order - 1):
                gate = gates[0] if o == self.order - 2 else None
                v = long_conv(v * gates[self.order - 1 - o], None, skips[o, part], gate=gate, spectrum=some[o])
            out[:, part] = self._activate(v)
        return out

    def init_state(self, batch: int) -> HyenaState:
        """Before the first token."""
        weight = self.in_proj.weight
        tail = weight.new_zeros(batch, weight.shape[0], self.short_filter.weight.shape[2] - 1)
        return HyenaState(tail, (weight.new_zeros(batch, self.width, 0),) * (self.order - 1))

    def forward_chunk(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        """[B, T, D] after those that led to `state`; a token costs as many products as there are tokens before it."""
        past, length = state.history[0].shape[2], x.shape[1]
        self.require_length(past + length)
        u = self._project(x, slice(0, self.width))
        packed = torch.cat([state.tail.to(u.dtype), u], 2)
        weight, bias = self.short_filter.weight.to(u.dtype), self.short_filter.bias
        u = F.conv1d(packed, weight, None if bias is None else bias.to(u.dtype), groups=packed.shape[1])
        *gates, v = torch.split(u, self.width, 1)
        skips = self.filter_fn.skips()
        history = []
        for o in range(self.order - 1):
            v = v * gates[self.order - 1 - o]
            history.append(torch.cat([state.history[o].to(v.dtype), v], 2))
            v = self._continue(history[-1], o, length) + v * skips[o].to(v.dtype).unsqueeze(1)
        v = self._activate((v * gates[0]).to(x.dtype))
        out = F.linear(v.transpose(1, 2), self.out_proj.weight, self.out_proj.bias)
        return out, HyenaState(packed[..., packed.shape[2] - state.tail.shape[2] :], tuple(history))

    def require_length(self, length: int) -> None:
        if length > self.layer.l_max:
            raise InputError(
                f"{length} tokens are more than this checkpoint's filter covers ({self.layer.l_max}): cut into windows"
            )

    def _project(self, x: Tensor, channels: slice) -> Tensor:
        """[B, (O+1) d, L] inputs of the short convolution for these channels of each gate and of v."""
        weight = self.in_proj.weight.view(self.order + 1, self.width, self.width)[:, channels].flatten(0, 1)
        bias = self.in_proj.bias.view(self.order + 1, self.width)[:, channels].flatten()
        u = torch.matmul(weight.to(x.dtype), x.transpose(1, 2))
        return u.add_(bias.to(u.dtype).unsqueeze(1))

    def _short_conv(self, u: Tensor, channels: slice | None = None) -> Tensor:
        """Causal depth-wise convolution, [B, C, L] -> [B, C, L], as a sum of shifted rows."""
        weight, bias = self.short_filter.weight, self.short_filter.bias
        assert bias is not None
        if channels is not None:
            weight = weight.view(self.order + 1, self.width, 1, -1)[:, channels].flatten(0, 1)
            bias = bias.view(self.order + 1, self.width)[:, channels].flatten()
        taps = weight.shape[2]
        if torch.is_grad_enabled():
            padded = F.pad(u, (taps - 1, 0))
            return F.conv1d(padded, weight.to(u.dtype), bias.to(u.dtype), groups=u.shape[1])
        weight, length = weight.to(u.dtype), u.shape[2]
        y = torch.addcmul(bias.to(u.dtype).unsqueeze(1), u, weight[:, 0, taps - 1 :])
        for lag in range(1, min(taps, length)):
            y[..., lag:].addcmul_(u[..., : length - lag], weight[:, 0, taps - 1 - lag].unsqueeze(1))
        return y

    def _mix_at_once(self, x: Tensor) -> Tensor:
        *gates, v = torch.split(self._short_conv(self._project(x, slice(0, self.width))), self.width, 1)
        kernels, skips = self.filter_fn.kernels(x.shape[1]), self.filter_fn.skips()
        for o in range(self.order - 1):
            gate = gates[0] if o == self.order - 2 else None
            v = self._convolve(v * gates[self.order - 1 - o], kernels[o], skips[o], gate)
        return self._activate(v)

    def _convolve(self, u: Tensor, kernel: Tensor, skip: Tensor, gate: Tensor | None) -> Tensor:
        """gate (kernel * u + skip u): [B, D, L]."""
        if not self.layer.bidirectional:
            return long_conv(u, kernel, skip, gate=gate)
        mixed = circular_conv(u, kernel) + u * skip.to(u.dtype).unsqueeze(1)
        return mixed if gate is None else mixed * gate

    def _continue(self, history: Tensor, convolution: int, length: int) -> Tensor:
        """[B, D, length] the convolution's last outputs, from all inputs [B, D, T] so far."""
        total = history.shape[2]
        taps = self.filter_fn.reversed_kernels(total)[convolution]
        if length <= DIRECT_TOKENS:
            taps = taps.to(history.dtype)
            ends = range(total - length + 1, total + 1)
            return torch.stack([(history[..., :end] * taps[:, total - end :]).sum(2) for end in ends], 2)
        size = fft_size(2 * total - 1)
        step = max(1, BLOCK_VALUES // (history.shape[0] * size))
        out = history.new_empty(*history.shape[:2], length)
        for start in range(0, self.width, step):
            part = slice(start, start + step)
            product = torch.fft.rfft(history[:, part].float(), size) * torch.fft.rfft(taps[part].flip(1), size)
            out[:, part] = torch.fft.irfft(product, size)[..., total - length : total]
        return out

    def _activate(self, v: Tensor) -> Tensor:
        name = self.layer.activation
        return v if name == "id" else _ACTIVATIONS[name](v)


@dataclass(frozen=True, slots=True)
class AttentionState:
    """What an attention mixer has seen."""

    tail: Tensor
    """[B, 2, 3 D] last inputs of the depth-wise convolution; [B, 0, 3 D] without one."""
    keys: Tensor
    """[B, H, T, K]."""
    values: Tensor
    """[B, H, T, K]."""


class AttentionMixer(nn.Module):
    """Multi-head attention."""

    def __init__(self, width: int, options: AttentionConfig) -> None:
        super().__init__()
        self.num_heads, self.is_causal, self.dropout = options.num_heads, options.causal, options.dropout
        self.Wqkv = nn.Linear(width, 3 * width)
        self.dwconv_qkv = nn.Conv1d(3 * width, 3 * width, 3, groups=3 * width) if options.dwconv else None
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        packed, _ = self._packed(x, self.init_state(x.shape[0]).tail)
        q, k, v = self._heads(packed)
        dropout = self.dropout if self.training else 0.0
        return self._out(F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal, dropout_p=dropout))

    def init_state(self, batch: int) -> AttentionState:
        """Before the first token."""
        weight = self.Wqkv.weight
        tail = weight.new_zeros(batch, 0 if self.dwconv_qkv is None else 2, weight.shape[0])
        empty = weight.new_zeros(batch, self.num_heads, 0, weight.shape[1] // self.num_heads)
        return AttentionState(tail, empty, empty)

    def forward_chunk(self, x: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """[B, T, D] after those that led to `state`."""
        packed, tail = self._packed(x, state.tail)
        q, k, v = self._heads(packed)
        keys, values = torch.cat([state.keys.to(k.dtype), k], 2), torch.cat([state.values.to(v.dtype), v], 2)
        past, length = state.keys.shape[2], x.shape[1]
        row = torch.arange(past, past + length, device=x.device).unsqueeze(1)
        mask = torch.arange(past + length, device=x.device) <= row
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self._out(mixed), AttentionState(tail, keys, values)

    def _packed(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, 3 D] queries, keys and values, and the depth-wise convolution's next tail."""
        packed: Tensor = self.Wqkv(x)
        if self.dwconv_qkv is None:
            return packed, tail
        longer = torch.cat([tail.to(packed.dtype), packed], 1)
        return self.dwconv_qkv(longer.transpose(1, 2)).transpose(1, 2).contiguous(), longer[:, -2:]

    def _heads(self, packed: Tensor) -> tuple[Tensor, ...]:
        batch, length = packed.shape[:2]
        q, k, v = packed.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v  # [B, H, T, K]

    def _out(self, mixed: Tensor) -> Tensor:
        """[B, H, T, K] -> [B, T, D]."""
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out
