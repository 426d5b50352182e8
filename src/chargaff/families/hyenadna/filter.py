"""The implicit filter: a small MLP over positions that yields a kernel as long as the sequence (hyenadna sheet 2.3)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.hyenadna.config import HyenaLayerConfig
from chargaff.ops.long_conv import fft_size, kernel_spectrum

DECAY_TARGET, FAST_DECAY, SLOW_DECAY = 0.01, 0.3, 1.5
CACHED_BYTES = 1 << 22
"""Largest spectrum that a filter keeps between calls: 1,024 tokens at 256 channels. A longer sequence hides the cost of
making it again, and keeping it would take as much memory as all else."""
_HALVES = (torch.float16, torch.bfloat16)


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
        if layer.lr_pos_emb != 0:
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

    def _load_from_state_dict(self, *args: Any) -> None:
        """Other values may come for each layer: what layers shared until now is theirs alone before it is written."""
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, buffer.clone())
        super()._load_from_state_dict(*args)


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
    """Kernels of the long convolutions of one layer; float32 whatever the model is converted to.

    8 bits of mantissa cannot tell the positions of a long sequence apart (sheet 2.4).
    """

    def __init__(self, width: int, layer: HyenaLayerConfig, shift: float, *, is_blocked: bool) -> None:
        """
        Args:
            width: D, channels of one convolution.
            is_blocked: channel c of convolution o is o D + c, else c (order - 1) + o.
        """
        super().__init__()
        self.layer, self.shift, self.width, self.is_blocked = layer, shift, width, is_blocked
        self.num_convolutions = layer.order - 1
        channels = width * self.num_convolutions
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
        for name, parameter in self.named_parameters():
            parameter.keep_float32 = True  # type: ignore[attr-defined]
            parameter.optim = self._optim(name)  # type: ignore[attr-defined]
        for buffer in self.buffers():
            buffer.keep_float32 = True  # type: ignore[attr-defined]
        self._cache: dict[str, tuple[tuple[Any, ...], Tensor]] = {}

    def _optim(self, name: str) -> dict[str, float]:
        """Learning rate and weight decay of a parameter, where they are not the optimizer's (sheet 3.3)."""
        layer = self.layer
        if name == "pos_emb.z":
            return {"lr": layer.lr_pos_emb, "weight_decay": 0.0}
        if name == "modulation.deltas":
            return {"lr": layer.modulation_lr, "weight_decay": 0.0}
        if name == "bias":  # of the skip
            return {}
        return {"weight_decay": layer.wd, **({} if layer.lr is None else {"lr": layer.lr})}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HyenaFilter":
        """Moves between devices, but never to half precision."""

        def keeping(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            is_halved = moved.dtype in _HALVES and tensor.dtype not in _HALVES
            return tensor.to(moved.device) if is_halved else moved

        super()._apply(keeping, recurse)  # type: ignore[no-untyped-call]
        return self

    def kernel(self, length: int) -> Tensor:
        """[1, L, channels] float32, in the published order of channels."""
        kernel = self._before_norm(length)
        return kernel / kernel.abs().sum(-1, keepdim=True) if self.layer.normalized else kernel

    def _before_norm(self, length: int) -> Tensor:
        with torch.autocast(self.pos_emb.z.device.type, enabled=False):
            kernel: Tensor = self.implicit_filter(self._features(length))
        if not self.layer.modulate:
            return kernel
        return kernel * (torch.exp(-self.pos_emb.t[:, :length] * self.modulation.deltas.abs()) + self.shift)

    def kernels(self, length: int) -> Tensor:
        """[O-1, D, L], the kernel of each convolution."""
        return self._per_convolution(self.kernel(length)[0].t())

    def skips(self) -> Tensor:
        """[O-1, D], what each convolution adds of its input."""
        return self._per_convolution((self.bias if self.layer.bias else self.bias * 0).unsqueeze(1)).squeeze(2)

    def some_kernels(self, length: int, convolution: int, channels: slice, features: Tensor) -> Tensor:
        """[d, L] kernels of some channels of one convolution.

        Args:
            features: `hidden(length)`, computed once for all channels of a call.
        """
        rows = torch.arange(self.width * self.num_convolutions, device=features.device).view(-1, 1)
        rows = self._per_convolution(rows)[convolution, channels, 0]
        last: Any = self.implicit_filter[-1]
        with torch.autocast(features.device.type, enabled=False):
            is_plain = isinstance(last, nn.Linear)  # else an adapter is around it
            kernel: Tensor = last.weight[rows] @ features.t() if is_plain else last(features).t()[rows]
        if self.layer.modulate:
            rate = self.modulation.deltas[0, 0, rows].abs().neg()
            window = torch.outer(rate, self.pos_emb.t[0, :length, 0]).exp_()
            kernel = kernel.mul_(window.add_(self.shift))
        if self.layer.normalized:
            kernel = kernel / self._before_norm(length)[0].abs().sum(-1)
        return kernel

    def cached_spectra(self, length: int) -> Tensor | None:
        """[O-1, D, F] of all channels, kept until weights or length change; None if that is too much to keep."""
        count = self.num_convolutions * self.width
        if count * (fft_size(2 * length - 1) // 2 + 1) * 8 > CACHED_BYTES:
            self._cache.pop("spectra", None)
            return None
        return self._cached("spectra", length, lambda: torch.stack([*map(kernel_spectrum, self.kernels(length))]))

    def reversed_kernels(self, length: int) -> Tensor:
        """[O-1, D, n >= L], last tap first, for stepping; made anew each time the sequence has doubled."""
        padded = min(1 << max(length - 1, 63).bit_length(), self.layer.l_max)
        kernels = self._cached("kernels", padded, lambda: self.kernels(padded).flip(2).contiguous())
        return kernels[..., padded - length :]

    def hidden(self, length: int) -> Tensor:
        """[L, F] what the last linear layer of the MLP reads."""
        with torch.autocast(self.pos_emb.z.device.type, enabled=False):
            found: Tensor = self.implicit_filter[:-1](self._features(length)[0])
        return found

    def _features(self, length: int) -> Tensor:
        """[1, L, emb_dim]"""
        z = self.pos_emb.z if torch.is_grad_enabled() else self.pos_emb.z.detach()  # a view would ask for a gradient
        return z[:, :length].float()

    def _per_convolution(self, channels: Tensor) -> Tensor:
        """[D (O-1), L] -> [O-1, D, L]; the variants lay the channels out differently."""
        if self.is_blocked:
            return channels.view(self.num_convolutions, self.width, -1)
        return channels.view(self.width, self.num_convolutions, -1).transpose(0, 1)

    def _cached(self, name: str, length: int, make: Callable[[], Tensor]) -> Tensor:
        if torch.compiler.is_compiling():
            return make()
        tensors = (*self.parameters(), *self.buffers())
        key = (length, self.shift, *((tensor.data_ptr(), tensor._version) for tensor in tensors))
        if name not in self._cache or self._cache[name][0] != key:
            self._cache[name] = (key, make())
        return self._cache[name][1]


def circular_conv(u: Tensor, kernel: Tensor) -> Tensor:
    """The published bidirectional variant (sheet 2.5): [B, D, L] with kernel [D, L].

    The input is padded by L // 2 on both sides, the product taken with an FFT of size 2 L, the first L outputs kept:
    only inputs at least L // 2 away, and across the ends, reach an output.
    """
    length = u.shape[2]
    padded = F.pad(u.float(), (length // 2, length // 2))
    product = torch.fft.rfft(padded, 2 * length) * torch.fft.rfft(kernel.float(), 2 * length)
    mixed: Tensor = torch.fft.irfft(product, 2 * length)[..., :length].to(u.dtype)
    return mixed
