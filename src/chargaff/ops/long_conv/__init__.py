"""Long convolution with a kernel as long as the sequence, by FFT (hyenadna sheet 2.2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops.dispatch import choose, load_backends
from chargaff.ops.long_conv.fft import convolve_
from chargaff.ops.long_conv.sizes import fft_size

__all__ = ["BACKENDS", "example", "fft_size", "kernel_spectrum", "long_conv", "long_conv_"]

BACKENDS = load_backends(__name__)


def long_conv(
    u: Tensor,
    kernel: Tensor | None,
    skip: Tensor,
    *,
    gate: Tensor | None = None,
    spectrum: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """y[t] = gate[t] (sum over s <= t of kernel[t - s] u[s] + skip u[t]), per channel, in float32.

    Everything but `spectrum` has a gradient.

    Args:
        u, gate: [B, D, L] with L >= 1; gate is 1 if absent.
        kernel: [D, L]; may be None where `spectrum` is given.
        skip: [D].
        spectrum: what `kernel_spectrum(kernel)` returned; spends that transform once for many calls without gradients.
        backend: "auto", or the name of one; BackendError if it cannot take the call.

    Returns:
        [B, D, L] in u's type.
    """
    _check(u, kernel, skip, gate, spectrum)
    args = (u, kernel, skip, gate, spectrum)
    y: Tensor = choose("long_conv", BACKENDS, backend, args).run(*args)
    return y


@torch.no_grad()
def long_conv_(
    u: Tensor, kernel_of: Callable[[slice], Tensor], skip: Tensor, *, spectrum: Tensor | None = None
) -> None:
    """u becomes the sum over s <= t of kernel[t - s] u[s] + skip u[t], in float32, a block of channels at a time.

    For long sequences: neither all kernels nor all spectra exist at once. There is no gradient and one backend, FFT.

    Args:
        u: [B, D, L] with L >= 1, changed.
        kernel_of: channels -> [d, L] their kernels; not called where `spectrum` is given.
        skip: [D].
        spectrum: what `kernel_spectrum` returned for all channels.
    """
    _check(u, None, skip, None, spectrum, has_kernel=True)
    convolve_(u, kernel_of, skip, spectrum)


def kernel_spectrum(kernel: Tensor) -> Tensor:
    """[D, L] -> [D, F] complex64, the transform of the kernel at the size `long_conv` works with."""
    spectrum: Tensor = torch.fft.rfft(kernel.float(), fft_size(2 * kernel.shape[1] - 1))
    return spectrum


def example(device: str) -> tuple[object, ...]:
    """The arguments of a tiny call, for asking the backends whether they would take it."""
    u = torch.zeros(1, 1, 1, device=device)
    return (u, u[0], u[0, 0], None, None)


def _check(
    u: Tensor,
    kernel: Tensor | None,
    skip: Tensor,
    gate: Tensor | None,
    spectrum: Tensor | None,
    *,
    has_kernel: bool = False,
) -> None:
    if u.dim() != 3 or u.shape[2] == 0:
        raise InputError(f"long_conv: u must be [B, D, L >= 1], got {tuple(u.shape)}")
    batch, width, length = u.shape
    bins = fft_size(2 * length - 1) // 2 + 1
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("kernel", kernel, (width, length)),
        ("skip", skip, (width,)),
        ("gate", gate, (batch, width, length)),
        ("spectrum", spectrum, (width, bins)),
    ]
    for name, tensor, shape in expected:
        if tensor is not None and tensor.shape != shape:
            raise InputError(f"long_conv: {name} has shape {tuple(tensor.shape)}, expected {shape}")
    if kernel is None and spectrum is None and not has_kernel:
        raise InputError("long_conv: give the kernel or its spectrum")
