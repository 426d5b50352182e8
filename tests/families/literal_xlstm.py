"""DNA-xLSTM line by line as its fact sheet has it, over tensors under published names: slow, and unlike the package."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.families.xlstm.config import XLstmConfig

Params = dict[str, Tensor]


def logits(params: Params, config: XLstmConfig, ids: Tensor) -> Tensor:
    """[B, L, V]."""
    complement = torch.tensor(config.complement)
    stack = "backbone.xlstm_block_stack."
    if config.rcps:
        table = params["backbone.token_embedding.embedding.weight"]
        x = torch.cat([table[ids], rc(table[complement[ids.flip(1)]])], -1)
    else:
        x = params["backbone.token_embedding.weight"][ids]
    if config.s_position_embeddings:
        rates = 100_000.0 ** (-torch.arange(config.d_model // 2).double() / (config.d_model // 2))
        angles = torch.arange(ids.shape[1]).double().outer(rates)
        x = x + params[f"{stack}absolute_pos_embeds.scale"] * torch.cat([angles.sin(), angles.cos()], -1)
    for index in range(config.n_layer):
        x = directed(params, config, index, x)
    x = wrapped(params, f"{stack}post_blocks_norm", config, norm, x)
    if not config.rcps:
        return x @ params["backbone.lm_head.weight"].T
    weight = params["backbone.lm_head.lm_head.weight"]
    first, second = x.chunk(2, -1)
    return first @ weight.T + second.flip(-1) @ weight[complement].T


def directed(params: Params, config: XLstmConfig, index: int, x: Tensor) -> Tensor:
    """Sheet 3.2."""
    is_mlstm = index not in config.slstm_blocks
    run = lambda x, native=False: block(params, config, index, x, native)  # noqa: E731
    if not config.bidirectional:
        return run(x)
    if config.bidirectional_alternating:
        return run(x.flip(1)).flip(1) if index % 2 == 0 else run(x)
    if is_mlstm and config.m_backend_bidirectional:
        return run(x, True)
    return run(x) + run(x.flip(1)).flip(1)


def block(params: Params, config: XLstmConfig, index: int, x: Tensor, native: bool) -> Tensor:
    """Sheet 3.3."""
    name = f"backbone.xlstm_block_stack.blocks.{index}."
    branch = wrapped(params, f"{name}xlstm_norm", config, norm, x)
    if index not in config.slstm_blocks:
        return x + wrapped(params, f"{name}xlstm", config, lambda p, x: mlstm_layer(p, config, x, native), branch)
    flips = config.rcps_convention == "reference"
    x = x + wrapped(
        params, f"{name}xlstm", config, lambda p, x, second=False: slstm_layer(p, config, x, flips and second), branch,
        tells_strand=True,
    )  # fmt: skip
    branch = wrapped(params, f"{name}ffn_norm", config, norm, x)
    return x + wrapped(params, f"{name}ffn", config, feed_forward, branch)


def wrapped(
    params: Params,
    prefix: str,
    config: XLstmConfig,
    function: Callable[..., Tensor],
    x: Tensor,
    tells_strand: bool = False,
) -> Tensor:
    """Sheet 3.9: out = [f(x1), rc(f(rc(x2)))]."""
    prefix += ".submodule." if config.rcps else "."
    own = {name.removeprefix(prefix): tensor for name, tensor in params.items() if name.startswith(prefix)}
    if not config.rcps:
        return function(own, x)
    first, second = x.chunk(2, -1)
    extra = {"second": True} if tells_strand else {}
    return torch.cat([function(own, first), rc(function(own, rc(second), **extra))], -1)


def rc(x: Tensor) -> Tensor:
    return x.flip(1, 2)


def norm(params: Params, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (1 + params["weight"])


def head_norm(weight: Tensor, x: Tensor) -> Tensor:
    """[B, N, L, P] -> [B, L, N P]."""
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x.transpose(1, 2).flatten(2) * (1 + weight)


def headwise(params: Params, name: str, x: Tensor) -> Tensor:
    weight = params[f"{name}.weight"]
    parts = x.split(weight.shape[2], -1)
    y = torch.cat([part @ matrix.T for part, matrix in zip(parts, weight, strict=True)], -1)
    return y + params.get(f"{name}.bias", torch.zeros(()))


def convolution(params: Params, x: Tensor, causal: bool) -> Tensor:
    weight, bias = params["conv1d.conv.weight"], params["conv1d.conv.bias"]
    taps, length = weight.shape[2], x.shape[1]
    left = taps - 1 if causal else (taps - 1) // 2
    x = F.pad(x, (0, 0, left, taps - 1 - left))
    return sum((weight[:, 0, tap] * x[:, tap : tap + length] for tap in range(taps)), bias)


def feed_forward(params: Params, x: Tensor) -> Tensor:
    gate, up = (x @ params["proj_up.weight"].T).chunk(2, -1)
    return (0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))) * up) @ params["proj_down.weight"].T


def mlstm_layer(params: Params, config: XLstmConfig, x: Tensor, native: bool) -> Tensor:
    """Sheet 3.5."""
    zero = torch.zeros(())
    a, z = (x @ params["proj_up.weight"].T + params.get("proj_up.bias", zero)).chunk(2, -1)
    c = F.silu(convolution(params, a, config.m_conv1d_causal))
    q, k, v = headwise(params, "q_proj", c), headwise(params, "k_proj", c), headwise(params, "v_proj", a)
    wide = torch.cat([q, k, v], -1)
    i, f = (
        (wide @ params[f"mlstm_cell.{gate}.weight"].T + params[f"mlstm_cell.{gate}.bias"]).transpose(1, 2)
        for gate in ("igate", "fgate")
    )
    q, k, v = (y.unflatten(2, (config.m_num_heads, -1)).transpose(1, 2) for y in (q, k, v))
    if config.m_position_embeddings:
        q, k = rotated(q), rotated(k)
    h = mlstm_cell(q, k, v, i, f, native, empty=config.m_backend == "chunkwise")
    y = (head_norm(params["mlstm_cell.outnorm.weight"], h) + params["learnable_skip"] * c) * F.silu(z)
    return y @ params["proj_down.weight"].T + params.get("proj_down.bias", zero)


def rotated(x: Tensor) -> Tensor:
    length, width = x.shape[2:]
    turn = torch.arange(length).double().outer(500_000.0 ** (-torch.arange(0, width, 2).double() / width))
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(turn), turn)).flatten(-2)


def mlstm_cell(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, native: bool, empty: bool) -> Tensor:
    """Rows of the matrix of sheet 3.5.2 to 3.5.4; `empty`: the exponent of the empty state is in the maximum."""
    length = q.shape[2]
    decay = F.logsigmoid(f)
    rows = []
    for t in range(length):
        exponent = torch.full_like(i, -math.inf)
        for s in range(length):
            if s <= t:
                exponent[..., s] = decay[..., s + 1 : t + 1].sum(-1) + i[..., s]
            elif native:
                exponent[..., s] = decay[..., t:s].sum(-1) + i[..., s]
        m = exponent.amax(-1)
        if empty and not native:
            m = torch.maximum(m, decay[..., : t + 1].sum(-1))
        row = torch.einsum("bnp,bnsp->bns", q[:, :, t], k) / math.sqrt(q.shape[3]) * (exponent - m[..., None]).exp()
        scale = torch.maximum(row.sum(-1).abs(), (-m).exp()) + 1e-6
        rows.append(torch.einsum("bns,bnsp->bnp", row, v) / scale[..., None])
    return torch.stack(rows, 2)


def slstm_layer(params: Params, config: XLstmConfig, x: Tensor, flips_heads: bool) -> Tensor:
    """Sheet 3.6, with the kernel and bias in the cuda layout."""
    c = F.silu(convolution(params, x, config.s_conv1d_causal)) if config.s_conv1d_kernel_size else x
    heads = config.s_num_heads
    given = [headwise(params, name, y) for name, y in (("fgate", c), ("igate", c), ("zgate", x), ("ogate", x))]
    kernel, width = params["slstm_cell._recurrent_kernel_"], x.shape[2] // heads
    bias = params["slstm_cell._bias_"].view(heads, 4, width)
    y, c, n, m = (x.new_zeros(x.shape[0], heads, width) for _ in range(4))
    rows = []
    for t in range(x.shape[1]):
        recurrent = torch.einsum("bni,nij->bnj", y, kernel).unflatten(2, (4, width))
        i, f, z, o = (
            part[:, t].unflatten(1, (heads, width)) + recurrent[:, :, slot] + bias[:, slot]
            for slot, part in enumerate(given)
        )
        kept = F.logsigmoid(f) + m
        m = i if t == 0 else torch.maximum(i, kept)
        into, stays = (i - m).exp(), (kept - m).exp()
        c, n = stays * c + into * z.tanh(), stays * n + into
        y = o.sigmoid() * c / n
        rows.append(y)
    out = torch.stack(rows, 2)
    return head_norm(params["group_norm.weight"], out.flip(1) if flips_heads else out)
