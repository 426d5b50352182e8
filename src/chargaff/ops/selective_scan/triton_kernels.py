"""The scan and its gradient as Triton kernels.

A program owns some channels of one sequence and goes through it in blocks of steps. Within a block, the recurrence
s[t] = a[t] s[t-1] + b[t] is an associative scan over pairs (a, b); steps past the end have a = 1, b = 0. Nothing of
size [B, L, D, N] exists: the backward kernel starts each block from the state that the forward kernel kept and needs
the states before every step, which it gets from the same scan over pairs shifted by one step.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from chargaff.ops.selective_scan.differentiable import Gradients, Inputs
from chargaff.ops.selective_scan.triton import BLOCK

ELEMENTS = 256
"""Channels of a program times states; a program holds a few times BLOCK * ELEMENTS numbers in registers."""


@triton.jit
def _compose(a_first, b_first, a_second, b_second):
    return a_first * a_second, a_second * b_first + b_second


@triton.jit
def _softplus(x):
    # log1p(w) from the series of the area tangent, exact to float32 also for tiny w
    w = tl.exp(-tl.abs(x))
    s = w / (2 + w)
    q = s * s
    series = 0.666664183139801 + q * (0.40021437406539917 + q * (0.2800302803516388 + q * 0.2800675332546234))
    return tl.maximum(x, 0) + s * (2 + q * series)


@triton.jit
def _sigmoid(x):
    w = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1, w) / (1 + w)


@triton.jit
def _rows(pointer, b, stride_b, row, stride_t, column, mask):
    return tl.load(pointer + b * stride_b + row[:, None] * stride_t + column[None, :], mask=mask, other=0).to(
        tl.float32
    )


@triton.jit
def _step_size(raw, mask, POSITIVE: tl.constexpr):
    # zero past the end, so that the decay is 1 and the drive 0 there
    return tl.where(mask, _softplus(raw) if POSITIVE else raw, 0)


@triton.jit
def _forward(
    u, delta, A, B, C, D, z, bias, initial, y, last, kept,
    u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, z_b, z_t, y_b, y_t,
    length, width, states,
    KEEP: tl.constexpr, GATED: tl.constexpr, POSITIVE: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, STATES)
    step = tl.arange(0, BLOCK)
    in_channels = (d[:, None] < width) & (n[None, :] < states)
    square = d[:, None] * states + n[None, :]
    rates = tl.load(A + square, mask=in_channels, other=0)
    state = tl.load(initial + b * width * states + square, mask=in_channels, other=0)
    skip = tl.load(D + d, mask=d < width, other=0)
    shift = tl.load(bias + d, mask=d < width, other=0)
    blocks = tl.cdiv(length, BLOCK)
    for block in range(blocks):
        t = block * BLOCK + step
        row = (length - 1 - t if REVERSE else t).to(tl.int64)
        mask = (t < length)[:, None] & (d < width)[None, :]
        selected = (t < length)[:, None] & (n < states)[None, :]
        if KEEP:
            place = ((b * blocks + block) * states + n[None, :]) * width + d[:, None]
            tl.store(kept + place, state, mask=in_channels)
        x = _rows(u, b, u_b, row, u_t, d, mask)
        dt = _step_size(_rows(delta, b, delta_b, row, delta_t, d, mask) + shift[None, :], mask, POSITIVE)
        into = _rows(B, b, B_b, row, B_t, n, selected)
        out_of = _rows(C, b, C_b, row, C_t, n, selected)
        decay = tl.exp(dt[:, :, None] * rates[None, :, :])
        drive = (dt * x)[:, :, None] * into[:, None, :]
        a, s = tl.associative_scan((decay, drive), 0, _compose)
        s += a * state[None, :, :]
        out = tl.sum(s * out_of[:, None, :], 2) + skip[None, :] * x
        if GATED:
            gate = _rows(z, b, z_b, row, z_t, d, mask)
            out *= gate * _sigmoid(gate)
        tl.store(y + b * y_b + row[:, None] * y_t + d[None, :], out.to(y.dtype.element_ty), mask=mask)
        state = tl.sum(tl.where(step[:, None, None] == BLOCK - 1, s, 0), 0)
    tl.store(last + b * width * states + square, state, mask=in_channels)


@triton.jit
def _backward(
    u, delta, A, B, C, D, z, bias, kept, dy, dlast,
    du, ddelta, dz, dB, dC, dA, dD, dbias, dinitial,
    u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, z_b, z_t, dy_b, dy_t,
    batch, length, width, states,
    GATED: tl.constexpr, POSITIVE: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    d = group * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, STATES)
    step = tl.arange(0, BLOCK)
    in_channels = (d[:, None] < width) & (n[None, :] < states)
    square = d[:, None] * states + n[None, :]
    rates = tl.load(A + square, mask=in_channels, other=0)
    # gradient of the state after the block; within the block it is led back by the same kind of scan
    dstate = tl.load(dlast + b * width * states + square, mask=in_channels, other=0)
    skip = tl.load(D + d, mask=d < width, other=0)
    shift = tl.load(bias + d, mask=d < width, other=0)
    drates = tl.zeros((CHANNELS, STATES), tl.float32)
    dskip = tl.zeros((CHANNELS,), tl.float32)
    dshift = tl.zeros((CHANNELS,), tl.float32)
    blocks = tl.cdiv(length, BLOCK)
    for k in range(blocks):
        block = blocks - 1 - k
        t = block * BLOCK + step
        row = (length - 1 - t if REVERSE else t).to(tl.int64)
        mask = (t < length)[:, None] & (d < width)[None, :]
        selected = (t < length)[:, None] & (n < states)[None, :]
        x = _rows(u, b, u_b, row, u_t, d, mask)
        raw = _rows(delta, b, delta_b, row, delta_t, d, mask) + shift[None, :]
        dt = _step_size(raw, mask, POSITIVE)
        into = _rows(B, b, B_b, row, B_t, n, selected)
        out_of = _rows(C, b, C_b, row, C_t, n, selected)
        decay = tl.exp(dt[:, :, None] * rates[None, :, :])

        sooner = row + 1 if REVERSE else row - 1
        has_sooner = (step > 0)[:, None] & (t - 1 < length)[:, None]
        mask_sooner, selected_sooner = has_sooner & (d < width)[None, :], has_sooner & (n < states)[None, :]
        dt_sooner = _rows(delta, b, delta_b, sooner, delta_t, d, mask_sooner) + shift[None, :]
        dt_sooner = _step_size(dt_sooner, mask_sooner, POSITIVE)
        drive_sooner = dt_sooner * _rows(u, b, u_b, sooner, u_t, d, mask_sooner)
        into_sooner = _rows(B, b, B_b, sooner, B_t, n, selected_sooner)
        a = tl.exp(dt_sooner[:, :, None] * rates[None, :, :])
        a, before = tl.associative_scan((a, drive_sooner[:, :, None] * into_sooner[:, None, :]), 0, _compose)
        place = ((b * blocks + block) * states + n[None, :]) * width + d[:, None]
        before += a * tl.load(kept + place, mask=in_channels, other=0)[None, :, :]
        state = decay * before + (dt * x)[:, :, None] * into[:, None, :]

        dout = _rows(dy, b, dy_b, row, dy_t, d, mask)
        target = (b * length + row[:, None]) * width + d[None, :]
        if GATED:
            gate = _rows(z, b, z_b, row, z_t, d, mask)
            s = _sigmoid(gate)
            out = tl.sum(state * out_of[:, None, :], 2) + skip[None, :] * x
            tl.store(dz + target, (dout * out * s * (1 + gate * (1 - s))).to(dz.dtype.element_ty), mask=mask)
            dout *= gate * s

        later = row - 1 if REVERSE else row + 1
        mask_later = (step < BLOCK - 1)[:, None] & (t + 1 < length)[:, None] & (d < width)[None, :]
        dt_later = _rows(delta, b, delta_b, later, delta_t, d, mask_later) + shift[None, :]
        a = tl.exp(_step_size(dt_later, mask_later, POSITIVE)[:, :, None] * rates[None, :, :])
        a, g = tl.associative_scan((a, dout[:, :, None] * out_of[:, None, :]), 0, _compose, reverse=True)
        g += a * dstate[None, :, :]

        through_decay = g * decay * before
        ddrive = tl.sum(g * into[:, None, :], 2)
        ddt = tl.sum(through_decay * rates[None, :, :], 2) + ddrive * x
        if POSITIVE:
            ddt *= _sigmoid(raw)
        tl.store(du + target, (ddrive * dt + dout * skip[None, :]).to(du.dtype.element_ty), mask=mask)
        tl.store(ddelta + target, ddt.to(ddelta.dtype.element_ty), mask=mask)
        part = ((group * batch + b) * length + row[:, None]) * states + n[None, :]
        tl.store(dB + part, tl.sum(g * (dt * x)[:, :, None], 1), mask=selected)
        tl.store(dC + part, tl.sum(state * dout[:, :, None], 1), mask=selected)
        drates += tl.sum(through_decay * dt[:, :, None], 0)
        dskip += tl.sum(dout * x, 0)
        dshift += tl.sum(tl.where(mask, ddt, 0), 0)
        dstate = tl.sum(tl.where(step[:, None, None] == 0, g * decay, 0), 0)
    tl.store(dA + b * width * states + square, drates, mask=in_channels)
    tl.store(dD + b * width + d, dskip, mask=d < width)
    tl.store(dbias + b * width + d, dshift, mask=d < width)
    tl.store(dinitial + b * width * states + square, dstate, mask=in_channels)


def _sizes(inputs: Inputs) -> dict[str, int]:
    states = triton.next_power_of_2(inputs.A.shape[1])
    return {"BLOCK": BLOCK, "CHANNELS": max(1, min(16, ELEMENTS // states)), "STATES": states}


def _flags(inputs: Inputs) -> dict[str, bool]:
    return {"GATED": inputs.z.numel() > 0, "POSITIVE": inputs.softplus, "REVERSE": inputs.reverse}


def _tensors(inputs: Inputs) -> list[Tensor]:
    dense = [x.contiguous() for x in (inputs.A, inputs.D, inputs.bias)]
    selection = [x if x.stride(2) == 1 else x.contiguous() for x in (inputs.B, inputs.C)]
    return [inputs.u, inputs.delta, dense[0], *selection, dense[1], inputs.z, dense[2]]


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:2]]


def forward(inputs: Inputs, initial: Tensor, y: Tensor, last: Tensor, kept: Tensor) -> None:
    """Fill y [B, L, D], last [B, D, N] and, unless it is empty, kept [B, blocks, N, D]."""
    batch, length, width = inputs.u.shape
    sizes = _sizes(inputs)
    tensors = _tensors(inputs)
    u, delta, _, B, C, _, z, _ = tensors
    grid = (batch, triton.cdiv(width, sizes["CHANNELS"]))
    with torch.cuda.device_of(u):
        _forward[grid](
            *tensors, initial.contiguous(), y, last, kept, *_strides(u, delta, B, C, z, y),
            length, width, inputs.A.shape[1], KEEP=kept.numel() > 0, **_flags(inputs), **sizes, num_warps=4,
        )  # fmt: skip


def backward(inputs: Inputs, kept: Tensor, dy: Tensor, dlast: Tensor) -> Gradients:
    """Gradients of u, delta, A, B, C, D, z (empty if it is absent), bias and the initial state."""
    batch, length, width = inputs.u.shape
    states = inputs.A.shape[1]
    sizes = _sizes(inputs)
    tensors = _tensors(inputs)
    u, delta, _, B, C, _, z, _ = tensors
    groups = triton.cdiv(width, sizes["CHANNELS"])
    du, ddelta, dz = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (u, delta, z))
    dB, dC = (u.new_empty(groups, batch, length, states, dtype=torch.float32) for _ in range(2))
    dA, dinitial = (u.new_empty(batch, width, states, dtype=torch.float32) for _ in range(2))
    dD, dbias = (u.new_empty(batch, width, dtype=torch.float32) for _ in range(2))
    results: list[Any] = [du, ddelta, dz, dB, dC, dA, dD, dbias, dinitial]
    with torch.cuda.device_of(u):
        _backward[batch, groups](
            *tensors, kept, dy, dlast.contiguous(), *results, *_strides(u, delta, B, C, z, dy),
            batch, length, width, states, **_flags(inputs), **sizes, num_warps=8,
        )  # fmt: skip
    return du, ddelta, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dz, dbias.sum(0), dinitial
