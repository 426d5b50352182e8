"""The scan and its gradient as Numba kernels; vectors hold 16 adjacent channels.

Nothing of size [B, L, D, N] exists: the forward kernel keeps the states at the start of every block of steps, and the
backward kernel goes through the blocks from the last to the first, recomputing one block of states at a time. Work is
cut into pieces by the shapes alone and every sum has a fixed order, so results do not depend on the number of threads.

Arrays named x-like (u, delta, z, y and their gradients) are float32, or uint16 holding bfloat16. A reversed scan is the
same kernel on views that run backwards. `gated` says whether z is there, `positive` whether softplus is applied.
"""

from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numba import prange, types
from torch import Tensor

from chargaff.ops.lanes import (
    LANES,
    LN2,
    LOG2_E,
    element,
    exp2,
    fma,
    kernel,
    launch,
    load,
    part,
    scratch,
    sigmoid,
    softplus,
    splat,
    store,
    sum_in_order,
    total,
    view,
)
from chargaff.ops.selective_scan.cpu import BLOCK
from chargaff.ops.selective_scan.differentiable import Gradients, Inputs

STAGE = 8
"""Steps prepared together, so that the latency of exp and softplus hides; a divisor of BLOCK. More rows than this, at
strides that are powers of two, push each other out of the first cache."""


def _arrays(kind: Any, *dims: int) -> list[Any]:
    return [types.Array(kind, dim, "A") for dim in dims]


@part
def _forward_block(
    b: int,
    d: int,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    bias: Any,
    initial: Any,
    y: Any,
    last: Any,
    kept: Any,
    gated: bool,
    positive: bool,
) -> None:
    """Channels d to d + 15 of one sequence."""
    length, width, states = u.shape[1], u.shape[2], A.shape[1]
    count = width - d
    rates = scratch(states * LANES).reshape((states, LANES))  # A in units of log 2: decays are powers of two
    state = scratch(states * LANES).reshape((states, LANES))
    rates[:] = 0
    state[:] = 0
    for i in range(min(count, LANES)):
        for n in range(states):
            rates[n, i] = A[d + i, n] * np.float32(LOG2_E)
            state[n, i] = initial[b, d + i, n]
    skip, shift = load(D, (d,), count), load(bias, (d,), count)
    steps = scratch(STAGE * 3 * LANES).reshape((STAGE, 3, LANES))  # step size, drive, output
    for start in range(0, length, STAGE):
        size = min(STAGE, length - start)
        if kept.shape[0] > 0 and start % BLOCK == 0:
            for n in range(states):
                store(kept, (b, start // BLOCK, n, d), count, load(state, (n, 0), LANES))
        for t in range(size):
            x = load(u, (b, start + t, d), count)
            raw = load(delta, (b, start + t, d), count) + shift
            dt = softplus(raw) if positive else raw
            store(steps, (t, 0, 0), LANES, dt)
            store(steps, (t, 1, 0), LANES, dt * x)
            store(steps, (t, 2, 0), LANES, skip * x)
        for t in range(size):
            dt, drive = load(steps, (t, 0, 0), LANES), load(steps, (t, 1, 0), LANES)
            out = load(steps, (t, 2, 0), LANES)
            for n in range(states):
                decay = exp2(dt * load(rates, (n, 0), LANES))
                new = fma(decay, load(state, (n, 0), LANES), drive * splat(B[b, start + t, n]))
                store(state, (n, 0), LANES, new)
                out = fma(new, splat(C[b, start + t, n]), out)
            store(steps, (t, 2, 0), LANES, out)
        for t in range(size):
            out = load(steps, (t, 2, 0), LANES)
            if gated:
                gate = load(z, (b, start + t, d), count)
                out = out * gate * sigmoid(gate)
            store(y, (b, start + t, d), count, out)
    for i in range(min(count, LANES)):
        for n in range(states):
            last[b, d + i, n] = state[n, i]


def _forward(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    bias: Any,
    initial: Any,
    y: Any,
    last: Any,
    kept: Any,
    gated: bool,
    positive: bool,
) -> None:
    blocks = (u.shape[2] + LANES - 1) // LANES
    for task in prange(u.shape[0] * blocks):
        b, block = task // blocks, task % blocks
        _forward_block(b, block * LANES, u, delta, A, B, C, D, z, bias, initial, y, last, kept, gated, positive)


@part
def _backward_group(
    b: int,
    group: int,
    blocks_per_group: int,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    bias: Any,
    kept: Any,
    dy: Any,
    dlast: Any,
    du: Any,
    ddelta: Any,
    dz: Any,
    dB: Any,
    dC: Any,
    dchannel: Any,
    dinitial: Any,
    gated: bool,
    positive: bool,
) -> None:
    """The channels of one group of one sequence."""
    length, width, states = u.shape[1], u.shape[2], A.shape[1]
    first = group * blocks_per_group * LANES
    members = min(blocks_per_group, (width - first + LANES - 1) // LANES)
    # dstate is the gradient of the state a block starts from; sums has one row per column of A, then D, then the bias
    dstate = scratch(members * states * LANES).reshape((members, states, LANES))
    dstate[:] = 0
    sums = scratch(members * (states + 2) * LANES).reshape((members, states + 2, LANES))
    sums[:] = 0
    rates = scratch(members * states * LANES).reshape((members, states, LANES))
    rates[:] = 0
    for m in range(members):
        d = first + m * LANES
        for i in range(min(width - d, LANES)):
            for n in range(states):
                rates[m, n, i] = A[d + i, n] * np.float32(LOG2_E)
                dstate[m, n, i] = dlast[b, d + i, n]
    # per step and state: state after the step, decay of the step, and summed over the group the gradients of B and C;
    # side by side, for in arrays of their own they would be a power of two apart. The first row is the block's start.
    work = scratch((BLOCK + 1) * states * 4 * LANES).reshape((BLOCK + 1, states, 4, LANES))
    # per step: step size; drive, then its gradient; output, then its gradient; gradient of the exponent
    steps = scratch(BLOCK * 4 * LANES).reshape((BLOCK, 4, LANES))
    block_sums = scratch((states + 2) * LANES).reshape((states + 2, LANES))
    for block in range((length - 1) // BLOCK, -1, -1):
        start = block * BLOCK
        size = min(BLOCK, length - start)
        for t in range(1, size + 1):
            for n in range(states):
                store(work, (t, n, 2, 0), LANES, splat(0.0))
                store(work, (t, n, 3, 0), LANES, splat(0.0))
        for m in range(members):
            d = first + m * LANES
            count = width - d
            skip, shift = load(D, (d,), count), load(bias, (d,), count)
            for n in range(states):
                store(work, (0, n, 0, 0), LANES, load(kept, (b, block, n, d), count))
            for early in range(0, size, STAGE):
                stage = range(early, min(early + STAGE, size))
                for t in stage:
                    x = load(u, (b, start + t, d), count)
                    raw = load(delta, (b, start + t, d), count) + shift
                    dt = softplus(raw) if positive else raw
                    store(steps, (t, 0, 0), LANES, dt)
                    store(steps, (t, 1, 0), LANES, dt * x)
                    store(steps, (t, 2, 0), LANES, skip * x)
                for t in stage:
                    dt, drive = load(steps, (t, 0, 0), LANES), load(steps, (t, 1, 0), LANES)
                    out = load(steps, (t, 2, 0), LANES)
                    for n in range(states):
                        a = exp2(dt * load(rates, (m, n, 0), LANES))
                        new = fma(a, load(work, (t, n, 0, 0), LANES), drive * splat(B[b, start + t, n]))
                        store(work, (t + 1, n, 1, 0), LANES, a)
                        store(work, (t + 1, n, 0, 0), LANES, new)
                        if gated:
                            out = fma(new, splat(C[b, start + t, n]), out)
                    store(steps, (t, 2, 0), LANES, out)
                for t in stage:
                    dout = load(dy, (b, start + t, d), count)
                    if gated:
                        gate = load(z, (b, start + t, d), count)
                        s = sigmoid(gate)
                        slope = s * fma(gate, splat(1.0) - s, splat(1.0))
                        store(dz, (b, start + t, d), count, dout * load(steps, (t, 2, 0), LANES) * slope)
                        dout = dout * gate * s
                    store(steps, (t, 2, 0), LANES, dout)
            for n in range(states):
                store(block_sums, (n, 0), LANES, splat(0.0))
            dskip, dshift = splat(0.0), splat(0.0)
            for t in range(size - 1, -1, -1):
                dt, drive = load(steps, (t, 0, 0), LANES), load(steps, (t, 1, 0), LANES)
                dout = load(steps, (t, 2, 0), LANES)
                ddrive, dexponent = splat(0.0), splat(0.0)
                for n in range(states):
                    g = fma(dout, splat(C[b, start + t, n]), load(dstate, (m, n, 0), LANES))
                    dC_sum = fma(dout, load(work, (t + 1, n, 0, 0), LANES), load(work, (t + 1, n, 3, 0), LANES))
                    store(work, (t + 1, n, 3, 0), LANES, dC_sum)
                    store(work, (t + 1, n, 2, 0), LANES, fma(g, drive, load(work, (t + 1, n, 2, 0), LANES)))
                    ddrive = fma(g, splat(B[b, start + t, n]), ddrive)
                    g = g * load(work, (t + 1, n, 1, 0), LANES)
                    store(dstate, (m, n, 0), LANES, g)
                    through_decay = g * load(work, (t, n, 0, 0), LANES)
                    dexponent = fma(through_decay, load(rates, (m, n, 0), LANES), dexponent)
                    store(block_sums, (n, 0), LANES, fma(through_decay, dt, load(block_sums, (n, 0), LANES)))
                store(steps, (t, 1, 0), LANES, ddrive)
                store(steps, (t, 3, 0), LANES, dexponent)
            for t in range(size):
                x = load(u, (b, start + t, d), count)
                dt, ddrive = load(steps, (t, 0, 0), LANES), load(steps, (t, 1, 0), LANES)
                dout, dexponent = load(steps, (t, 2, 0), LANES), load(steps, (t, 3, 0), LANES)
                store(du, (b, start + t, d), count, fma(ddrive, dt, dout * skip))
                ddt = fma(ddrive, x, dexponent * splat(LN2))
                if positive:
                    ddt = ddt * sigmoid(load(delta, (b, start + t, d), count) + shift)
                store(ddelta, (b, start + t, d), count, ddt)
                dskip = fma(dout, x, dskip)
                dshift = dshift + ddt
            store(block_sums, (states, 0), LANES, dskip)
            store(block_sums, (states + 1, 0), LANES, dshift)
            for n in range(states + 2):
                store(sums, (m, n, 0), LANES, load(sums, (m, n, 0), LANES) + load(block_sums, (n, 0), LANES))
        for t in range(size):
            for n in range(states):
                dB[group, b, start + t, n] = total(load(work, (t + 1, n, 2, 0), LANES))
                dC[group, b, start + t, n] = total(load(work, (t + 1, n, 3, 0), LANES))
    for m in range(members):
        d = first + m * LANES
        for n in range(states + 2):
            store(dchannel, (b, n, d), width - d, load(sums, (m, n, 0), LANES))
        for i in range(min(width - d, LANES)):
            for n in range(states):
                dinitial[b, d + i, n] = dstate[m, n, i]


def _backward(
    blocks_per_group: int,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    bias: Any,
    kept: Any,
    dy: Any,
    dlast: Any,
    du: Any,
    ddelta: Any,
    dz: Any,
    dB: Any,
    dC: Any,
    dchannel: Any,
    dinitial: Any,
    gated: bool,
    positive: bool,
) -> None:
    groups = dB.shape[0]
    for task in prange(u.shape[0] * groups):
        b, group = task // groups, task % groups
        _backward_group(
            b, group, blocks_per_group, u, delta, A, B, C, D, z, bias, kept, dy, dlast,
            du, ddelta, dz, dB, dC, dchannel, dinitial, gated, positive,
        )  # fmt: skip


@cache
def _forward_kernel(x: Any) -> Any:
    u, delta, z, y = _arrays(x, 3, 3, 3, 3)
    A, B, C, D, bias, initial, last, kept = _arrays(types.float32, 2, 3, 3, 1, 1, 3, 3, 4)
    flags = (types.boolean, types.boolean)
    return kernel(types.void(u, delta, A, B, C, D, z, bias, initial, y, last, kept, *flags), _forward)


@cache
def _backward_kernel(x: Any) -> Any:
    u, delta, z, dy, du, ddelta, dz = _arrays(x, 3, 3, 3, 3, 3, 3, 3)
    A, B, C, D, bias, kept, dlast = _arrays(types.float32, 2, 3, 3, 1, 1, 4, 3)
    dB, dC, dchannel, dinitial = _arrays(types.float32, 4, 4, 3, 3)
    inputs = (u, delta, A, B, C, D, z, bias, kept, dy, dlast)
    outputs = (du, ddelta, dz, dB, dC, dchannel, dinitial)
    return kernel(types.void(types.int64, *inputs, *outputs, types.boolean, types.boolean), _backward)


def _arrays_of(inputs: Inputs) -> list[Any]:
    along = partial(view, backwards=inputs.reverse)
    selection = (view(inputs.A), along(inputs.B), along(inputs.C))
    return [along(inputs.u), along(inputs.delta), *selection, view(inputs.D), along(inputs.z), view(inputs.bias)]


def forward(inputs: Inputs, initial: Tensor, y: Tensor, last: Tensor, kept: Tensor) -> None:
    """Fill y [B, L, D], last [B, D, N] and, unless it is empty, kept [B, L / BLOCK, N, D]."""
    results = (view(y, backwards=inputs.reverse), view(last), view(kept))
    compiled = _forward_kernel(element(inputs.u.dtype))
    launch(compiled, *_arrays_of(inputs), view(initial), *results, inputs.z.numel() > 0, inputs.softplus)


def backward(inputs: Inputs, kept: Tensor, dy: Tensor, dlast: Tensor) -> Gradients:
    """Gradients of u, delta, A, B, C, D, z (empty if it is absent), bias and the initial state."""
    batch, length, width = inputs.u.shape
    states = inputs.A.shape[1]
    blocks = -(-width // LANES)
    # wide groups leave less to add up afterwards, narrow ones give every thread something to do
    blocks_per_group = max(1, min(4, batch * blocks // 16))
    groups = -(-blocks // blocks_per_group)
    du, ddelta, dz = (torch.empty(x.shape, dtype=x.dtype) for x in (inputs.u, inputs.delta, inputs.z))
    dB, dC = (torch.empty(groups, batch, length, states) for _ in range(2))
    dchannel = torch.empty(batch, states + 2, width)
    dinitial = torch.empty(batch, width, states)
    along = partial(view, backwards=inputs.reverse)
    results = [along(x) for x in (du, ddelta, dz)]
    results += [array[:, :, ::-1] if inputs.reverse else array for array in (view(dB), view(dC))]
    launch(
        _backward_kernel(element(inputs.u.dtype)), blocks_per_group, *_arrays_of(inputs), view(kept), along(dy),
        view(dlast), *results, view(dchannel), view(dinitial), inputs.z.numel() > 0, inputs.softplus,
    )  # fmt: skip
    channel = sum_in_order(dchannel)
    dA, dD, dbias = channel[:states].t().contiguous(), channel[states].clone(), channel[states + 1].clone()
    return du, ddelta, dA, sum_in_order(dB), sum_in_order(dC), dD, dz, dbias, dinitial
