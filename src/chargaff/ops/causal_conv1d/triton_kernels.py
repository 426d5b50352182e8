"""The convolution and its gradient as Triton kernels; a program owns a block of positions and of channels.

Positions are counted in the order of the convolution, so a reversed sequence is read through its row numbers. Negative
positions lie in `past`.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 32, 64


@triton.jit
def _read(x, past, b, x_b, x_t, past_b, past_t, t, d, length, width, TAPS: tl.constexpr, REVERSE: tl.constexpr):
    row = (length - 1 - t if REVERSE else t).to(tl.int64)
    past_row = -1 - t if REVERSE else t + TAPS - 1
    in_width = (d < width)[None, :]
    inside = (t >= 0) & (t < length)
    before = (t < 0) & (t >= 1 - TAPS)
    values = tl.load(x + b * x_b + row[:, None] * x_t + d[None, :], mask=inside[:, None] & in_width, other=0)
    old = tl.load(past + b * past_b + past_row[:, None] * past_t + d[None, :], mask=before[:, None] & in_width, other=0)
    return values.to(tl.float32) + old.to(tl.float32)


@triton.jit
def _preactivation(
    x, weight, bias, past, b, x_b, x_t, past_b, past_t, t, d, length, width,
    TAPS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    value = tl.zeros((t.shape[0], d.shape[0]), tl.float32) + tl.load(bias + d, mask=d < width, other=0)[None, :]
    for j in tl.static_range(TAPS):
        tap = tl.load(weight + d * TAPS + j, mask=d < width, other=0)
        source = _read(x, past, b, x_b, x_t, past_b, past_t, t - (TAPS - 1) + j, d, length, width, TAPS, REVERSE)
        value += tap[None, :] * source
    return value


@triton.jit
def _sigmoid(x):
    w = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1, w) / (1 + w)


@triton.jit
def _forward(
    x, weight, bias, past, y, x_b, x_t, past_b, past_t, length, width,
    TAPS: tl.constexpr, SILU: tl.constexpr, REVERSE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    value = _preactivation(x, weight, bias, past, b, x_b, x_t, past_b, past_t, t, d, length, width, TAPS, REVERSE)
    if SILU:
        value *= _sigmoid(value)
    row = (length - 1 - t if REVERSE else t).to(tl.int64)
    mask = (t < length)[:, None] & (d < width)[None, :]
    tl.store(y + (b * length + row[:, None]) * width + d[None, :], value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    x, weight, bias, past, dy, dx, dpast, dchannel, x_b, x_t, past_b, past_t, dy_b, dy_t, length, width,
    TAPS: tl.constexpr, SILU: tl.constexpr, REVERSE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * ROWS + tl.arange(0, ROWS) - (TAPS - 1)  # from the first position of the past on
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    in_width = (d < width)[None, :]
    part = (b * tl.num_programs(1) + tl.program_id(1)) * (TAPS + 1) * width + d
    dsource = tl.zeros((ROWS, CHANNELS), tl.float32)
    for ahead in tl.static_range(TAPS):  # the output at t = p + ahead reads p by tap TAPS - 1 - ahead
        t = p + ahead
        row = (length - 1 - t if REVERSE else t).to(tl.int64)
        mask = ((t >= 0) & (t < length))[:, None] & in_width
        dvalue = tl.load(dy + b * dy_b + row[:, None] * dy_t + d[None, :], mask=mask, other=0).to(tl.float32)
        if SILU:
            value = _preactivation(
                x, weight, bias, past, b, x_b, x_t, past_b, past_t, t, d, length, width, TAPS, REVERSE
            )
            s = _sigmoid(value)
            dvalue *= s * (1 + value * (1 - s))
        tap = tl.load(weight + d * TAPS + TAPS - 1 - ahead, mask=d < width, other=0)
        dsource += tap[None, :] * dvalue
        source = _read(x, past, b, x_b, x_t, past_b, past_t, p, d, length, width, TAPS, REVERSE)
        tl.store(dchannel + part + (TAPS - 1 - ahead) * width, tl.sum(dvalue * source, 0), mask=d < width)
        if ahead == 0:
            tl.store(dchannel + part + TAPS * width, tl.sum(dvalue, 0), mask=d < width)
    row = (length - 1 - p if REVERSE else p).to(tl.int64)
    inside, before = (p >= 0) & (p < length), p < 0
    place = dx + (b * length + row[:, None]) * width + d[None, :]
    tl.store(place, dsource.to(dx.dtype.element_ty), mask=inside[:, None] & in_width)
    past_row = -1 - p if REVERSE else p + TAPS - 1
    place = dpast + (b * (TAPS - 1) + past_row[:, None]) * width + d[None, :]
    tl.store(place, dsource.to(dpast.dtype.element_ty), mask=before[:, None] & in_width)


def forward(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, silu: bool, reverse: bool) -> Tensor:
    """y [B, L, D]; weight is [D, K], past [B, K-1, D] in sequence order."""
    batch, length, width = x.shape
    taps = weight.shape[1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid = (batch, triton.cdiv(length, ROWS), triton.cdiv(width, CHANNELS))
    with torch.cuda.device_of(x):
        _forward[grid](
            x, weight.contiguous(), bias.contiguous(), past, y, *x.stride()[:2], *past.stride()[:2], length, width,
            TAPS=taps, SILU=silu, REVERSE=reverse, ROWS=ROWS, CHANNELS=CHANNELS,
        )  # fmt: skip
    return y


def backward(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, silu: bool, reverse: bool, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, past."""
    batch, length, width = x.shape
    taps = weight.shape[1]
    blocks = triton.cdiv(length + taps - 1, ROWS)
    dx, dpast = (torch.empty(t.shape, dtype=x.dtype, device=x.device) for t in (x, past))
    dchannel = x.new_empty(batch * blocks, taps + 1, width, dtype=torch.float32)
    strides = [stride for tensor in (x, past, dy) for stride in tensor.stride()[:2]]
    with torch.cuda.device_of(x):
        _backward[batch, blocks, triton.cdiv(width, CHANNELS)](
            x, weight.contiguous(), bias.contiguous(), past, dy, dx, dpast, dchannel, *strides, length, width,
            TAPS=taps, SILU=silu, REVERSE=reverse, ROWS=ROWS, CHANNELS=CHANNELS,
        )  # fmt: skip
    summed = dchannel.sum(0)
    return dx, summed[:taps].t().contiguous(), summed[taps].clone(), dpast
