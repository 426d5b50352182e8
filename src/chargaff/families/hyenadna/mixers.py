"""What mixes positions: gated long convolutions (hyenadna sheet 2.2), and attention in the comparison models (2.6)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import InputError
from chargaff.families.hyenadna.config import AttentionConfig, HyenaConfig
from chargaff.families.hyenadna.filter import HyenaFilter, circular_conv
from chargaff.ops.causal_conv1d import causal_conv1d
from chargaff.ops.long_conv import fft_size, long_conv, long_conv_

BLOCK_VALUES = 1 << 22
"""Padded values of a block of channels when a long chunk continues a sequence (16 MB)."""
HISTORY_TOKENS = 4096
"""Tokens of a piece of a state, so that a step copies the last piece only."""
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


@dataclass(slots=True)
class Stretches:
    """A sequence on its way through a mixer at inference."""

    inputs: Tensor
    """[B, D, L] of the long convolution, later its outputs."""
    gates: Tensor
    """[B, L, (O-1) D] those that are still to come."""
    tail: Tensor
    """[B, taps - 1, (O+1) D] last inputs of the short convolution."""


@dataclass(frozen=True, slots=True)
class HyenaState:
    """What a Hyena mixer has seen."""

    tail: Tensor
    """[B, (O+1) D, taps - 1] last inputs of the short convolution."""
    history: tuple[tuple[Tensor, ...], ...]
    """Inputs of each long convolution since the first token: pieces [B, D, HISTORY_TOKENS], the last one shorter."""


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
        u = F.pad(self._project(x), (self._taps - 1, 0))
        *gates, v = torch.split(self._short_conv(u), self.width, 1)
        kernels, skips = self.filter_fn.kernels(length), self.filter_fn.skips()
        for step in range(self.order - 1):
            v = v * gates[self.order - 1 - step]
            gate = gates[0] if step == self.order - 2 else None
            v = self._convolve(v, kernels[step], skips[step], gate)
        out: Tensor = self.out_proj(self._activate(v).transpose(1, 2))
        return out

    def begin(self, batch: int, length: int, dtype: torch.dtype) -> Stretches:
        """Room for a sequence that comes in stretches, in the type of the matrix products."""
        self.require_length(length)
        weight = self.in_proj.weight
        tail = weight.new_zeros(batch, self._taps - 1, weight.shape[0], dtype=dtype)
        gates = weight.new_empty(batch, length, (self.order - 1) * self.width, dtype=dtype)
        return Stretches(weight.new_empty(batch, self.width, length, dtype=dtype), gates, tail)

    def feed(self, x: Tensor, part: slice, to: Stretches) -> None:
        """Takes the stretch `part` of the input, [B, T, D]: projection, short convolution, first gate."""
        u = self.in_proj(x)
        weight, bias = self.short_filter.weight.squeeze(1), self.short_filter.bias
        u, to.tail = causal_conv1d(u, weight, bias, initial_state=to.tail, return_state=True)
        last = (self.order - 1) * self.width
        to.gates[:, part] = u[..., :last]
        to.inputs[:, :, part] = (u[..., last : last + self.width] * u[..., last + self.width :]).transpose(1, 2)

    def convolve(self, held: Stretches) -> None:
        """The long convolutions, once all is there, in place."""
        length = held.inputs.shape[2]
        spectra = None if self.layer.bidirectional else self.filter_fn.cached_spectra(length)
        features = self.filter_fn.hidden(length) if spectra is None else held.inputs
        skips = self.filter_fn.skips()
        for o in range(self.order - 1):
            if o:
                gate = held.gates[..., (self.order - 1 - o) * self.width :][..., : self.width]
                held.inputs.mul_(gate.transpose(1, 2))
            make = partial(self.filter_fn.some_kernels, length, o, features=features)
            if self.layer.bidirectional:
                skip = skips[o].to(held.inputs.dtype).unsqueeze(1)
                mixed = circular_conv(held.inputs, make(slice(0, self.width)))
                held.inputs.mul_(skip).add_(mixed)
            else:
                long_conv_(held.inputs, make, skips[o], spectrum=None if spectra is None else spectra[o])

    def read(self, part: slice, held: Stretches) -> Tensor:
        """[B, T, D] the stretch `part` of the output."""
        gated = torch.empty_like(held.gates[:, part, : self.width])
        torch.mul(held.gates[:, part, : self.width], held.inputs[:, :, part].transpose(1, 2), out=gated)
        out: Tensor = self.out_proj(self._activate(gated))
        return out

    def init_state(self, batch: int) -> HyenaState:
        """Before the first token."""
        weight = self.in_proj.weight
        tail = weight.new_zeros(batch, weight.shape[0], self._taps - 1)
        return HyenaState(tail, ((weight.new_zeros(batch, self.width, 0),),) * (self.order - 1))

    def forward_chunk(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        """[B, T, D] after those that led to `state`; a token costs as many products as there are tokens before it."""
        length = x.shape[1]
        self.require_length(sum(piece.shape[2] for piece in state.history[0]) + length)
        u = self._project(x)
        packed = torch.cat([state.tail.to(u.dtype), u], 2)
        *gates, v = torch.split(self._short_conv(packed), self.width, 1)
        skips = self.filter_fn.skips()
        history = []
        for o in range(self.order - 1):
            v = v * gates[self.order - 1 - o]
            *whole, last = state.history[o]
            history.append((*whole, *torch.split(torch.cat([last.to(v.dtype), v], 2), HISTORY_TOKENS, 2)))
            v = self._continue(history[-1], o, length) + v * skips[o].to(v.dtype).unsqueeze(1)
        v = self._activate((v * gates[0]).to(x.dtype))
        out = self.out_proj(v.transpose(1, 2))
        return out, HyenaState(packed[..., packed.shape[2] - state.tail.shape[2] :], tuple(history))

    def require_length(self, length: int) -> None:
        if length > self.layer.l_max:
            raise InputError(
                f"{length} tokens are more than this checkpoint's filter covers ({self.layer.l_max}): cut into windows"
            )

    @property
    def _taps(self) -> int:
        return self.short_filter.weight.shape[2]

    def _project(self, x: Tensor) -> Tensor:
        """[B, (O+1) D, L] inputs of the short convolution."""
        if not isinstance(self.in_proj, nn.Linear):  # an adapter is around it
            wrapped: Tensor = self.in_proj(x).transpose(1, 2)
            return wrapped
        u = torch.matmul(self.in_proj.weight.to(x.dtype), x.transpose(1, 2))
        return u + self.in_proj.bias.to(u.dtype).unsqueeze(1)

    def _short_conv(self, padded: Tensor) -> Tensor:
        """[B, (O+1) D, taps - 1 + L] -> [B, (O+1) D, L]."""
        weight, bias = self.short_filter.weight.to(padded.dtype), self.short_filter.bias
        return F.conv1d(padded, weight, None if bias is None else bias.to(padded.dtype), groups=padded.shape[1])

    def _convolve(self, u: Tensor, kernel: Tensor, skip: Tensor, gate: Tensor | None) -> Tensor:
        """gate (kernel * u + skip u): [B, D, L]."""
        if not self.layer.bidirectional:
            return long_conv(u, kernel, skip, gate=gate)
        mixed = circular_conv(u, kernel) + u * skip.to(u.dtype).unsqueeze(1)
        return mixed if gate is None else mixed * gate

    def _continue(self, history: tuple[Tensor, ...], convolution: int, length: int) -> Tensor:
        """[B, D, length] the convolution's last outputs, from all inputs so far."""
        total = sum(piece.shape[2] for piece in history)
        taps = self.filter_fn.reversed_kernels(total)[convolution]
        if length <= DIRECT_TOKENS:
            taps = taps.to(history[0].dtype)
            return torch.stack([_last_output(history, taps, total - length + 1 + k) for k in range(length)], 2)
        whole, size = torch.cat(history, 2), fft_size(2 * total - 1)
        step = max(1, BLOCK_VALUES // (whole.shape[0] * size))
        out = whole.new_empty(*whole.shape[:2], length)
        for start in range(0, self.width, step):
            part = slice(start, start + step)
            product = torch.fft.rfft(whole[:, part].float(), size) * torch.fft.rfft(taps[part].flip(1), size)
            out[:, part] = torch.fft.irfft(product, size)[..., total - length : total]
        return out

    def _activate(self, v: Tensor) -> Tensor:
        name = self.layer.activation
        return v if name == "id" else _ACTIVATIONS[name](v)


def _last_output(history: tuple[Tensor, ...], taps: Tensor, stop: int) -> Tensor:
    """[B, D] output at position stop - 1 of the convolution with the reversed kernel `taps` [D, T]."""
    taps = taps[:, taps.shape[1] - stop :]
    out, start = history[0].new_zeros(history[0].shape[:2]), 0
    for piece in history:
        count = min(piece.shape[2], stop - start)
        if count > 0:
            out = out + torch.einsum("bdt,dt->bd", piece[..., :count], taps[:, start : start + count])
        start += piece.shape[2]
    return out


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
