"""FFT convolution, a block of channels at a time, with the products recomputed in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chargaff.ops.long_conv.sizes import fft_size

missing = None

BLOCK_VALUES = 1 << 22
"""Complex values of one block of channels: about 32 MB, so that temporaries stay small beside the activations."""


def unsupported(
    u: Tensor, kernel: Tensor | None, skip: Tensor, gate: Tensor | None, spectrum: Tensor | None
) -> str | None:
    return "float64 is the reference's business" if u.dtype == torch.float64 else None


def run(u: Tensor, kernel: Tensor | None, skip: Tensor, gate: Tensor | None, spectrum: Tensor | None) -> Tensor:
    y: Tensor = _LongConv.apply(u, kernel, skip, gate, spectrum)  # type: ignore[no-untyped-call]
    return y


class _LongConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, kernel: Tensor | None, skip: Tensor, gate: Tensor | None, spectrum: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(u, kernel, skip, gate)
        y = torch.empty_like(u)
        size = fft_size(2 * u.shape[2] - 1)
        for part in _channel_blocks(u, size):
            mixed = _mix(u[:, part], _spectrum(kernel, spectrum, part, size), skip[part], size)
            y[:, part] = mixed if gate is None else mixed.mul_(gate[:, part])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, kernel, skip, gate = ctx.saved_tensors
        assert kernel is not None, "long_conv: a spectrum alone has no gradient; pass the kernel when training"
        slope = grads[0]
        length, size = u.shape[2], fft_size(2 * u.shape[2] - 1)
        d_u, d_kernel = torch.empty_like(u), torch.empty(kernel.shape, device=u.device)
        d_skip = torch.empty(skip.shape, device=u.device)
        d_gate = None if gate is None else torch.empty_like(gate)
        for part in _channel_blocks(u, size):
            piece, kernel_f = u[:, part].float(), torch.fft.rfft(kernel[part].float(), size)
            inner = slope[:, part].float()
            if gate is not None:
                assert d_gate is not None
                d_gate[:, part] = _mix(u[:, part], kernel_f, skip[part], size) * inner
                inner = inner * gate[:, part].float()
            inner_f = torch.fft.rfft(inner, size)
            d_u[:, part] = torch.fft.irfft(inner_f * kernel_f.conj(), size)[..., :length].addcmul_(
                inner, skip[part].float().unsqueeze(1)
            )
            product = (inner_f * torch.fft.rfft(piece, size).conj()).sum(0)
            d_kernel[part] = torch.fft.irfft(product, size)[..., :length]
            d_skip[part] = (inner * piece).sum((0, 2))
        return d_u, d_kernel.to(kernel.dtype), d_skip.to(skip.dtype), d_gate, None


def _channel_blocks(u: Tensor, size: int) -> list[slice]:
    step = max(1, BLOCK_VALUES // (u.shape[0] * size // 2))
    return [slice(start, min(start + step, u.shape[1])) for start in range(0, u.shape[1], step)]


def _spectrum(kernel: Tensor | None, spectrum: Tensor | None, part: slice, size: int) -> Tensor:
    if spectrum is not None:
        return spectrum[part]
    assert kernel is not None
    found: Tensor = torch.fft.rfft(kernel[part].float(), size)
    return found


def _mix(u: Tensor, kernel_f: Tensor, skip: Tensor, size: int) -> Tensor:
    """Convolution and skip of a block: [B, d, L] float32, freshly allocated."""
    piece = u.float()
    mixed = torch.fft.irfft(torch.fft.rfft(piece, size).mul_(kernel_f), size)[..., : u.shape[2]]
    y: Tensor = mixed.addcmul_(piece, skip.float().unsqueeze(1))
    return y


IN_PLACE_VALUES = 1 << 20
"""Padded values of one block of `convolve_`: 4 MB, so that a block stays in the caches between its transforms."""
KERNEL_CHANNELS = 16
"""Channels whose kernels are made together: making them reads all features of all positions."""


def convolve_(u: Tensor, kernel_of: Callable[[slice], Tensor], skip: Tensor, spectrum: Tensor | None) -> None:
    """See `long_conv_`."""
    batch, width, length = u.shape
    size = fft_size(2 * length - 1)
    step = min(width, max(2, IN_PLACE_VALUES // (batch * size)))
    group = max(step, KERNEL_CHANNELS // step * step)
    padded = torch.zeros(batch, step, size, device=u.device)
    kernel_room = torch.zeros(step, size, device=u.device) if spectrum is None else padded
    kernels = u
    for start in range(0, width, step):
        part = slice(start, min(start + step, width))
        count = part.stop - start
        if spectrum is None:
            first = start % group
            if first == 0:
                kernels = kernel_of(slice(start, min(start + group, width)))
            room = kernel_room[:count]
            room[:, :length] = kernels[first : first + count]
            kernel_f = torch.fft.rfft(room)
        else:
            kernel_f = spectrum[part]
        piece = padded[:, :count]
        piece[..., :length] = u[:, part]
        mixed = torch.fft.irfft(torch.fft.rfft(piece).mul_(kernel_f), size)[..., :length]
        u[:, part] = mixed.addcmul_(piece[..., :length], skip[part].float().unsqueeze(1))
