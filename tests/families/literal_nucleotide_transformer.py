"""The equations of the nt sheet (3.1, 3.2), a position and a head at a time, in float64: what the JAX code gives."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig

Config = NucleotideTransformerConfig


def norm(x: Tensor, state: Mapping[str, Tensor], name: str, config: Config) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True) + config.layer_norm_eps
    return centred / spread.sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    bias = state.get(f"{name}.bias")
    y = x @ state[f"{name}.weight"].T
    return y if bias is None else y + bias


def activate(x: Tensor, name: str) -> Tensor:
    if name == "gelu":
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "gelu-no-approx":
        return x / 2 * (1 + torch.erf(x / math.sqrt(2)))
    if name in ("swish", "silu"):
        return x / (1 + torch.exp(-x))
    return {"relu": torch.relu, "sin": torch.sin}[name](x)


def embed(ids: Tensor, state: Mapping[str, Tensor], config: Config) -> Tensor:
    """[T] -> [T, D]."""
    real = ids != config.pad_token_id
    x = state["embeddings.word_embeddings.weight"][ids]
    if config.token_dropout:
        masked = ids == config.mask_token_id
        x = torch.where(masked.unsqueeze(1), 0.0, x)
        x = x * (1 - config.mask_ratio_train) / (1 - masked.sum() / real.sum())
    x = config.embed_scale * x
    if config.is_learned:
        positions = [config.pad_token_id + (int(real[: t + 1].sum()) if real[t] else 0) for t in range(len(ids))]
        x = x + state["embeddings.position_embeddings.weight"][positions]
    return norm(x, state, "embeddings.layer_norm", config) if config.emb_layer_norm_before else x


def rotate(x: Tensor, position: int, config: Config) -> Tensor:
    """[K] of one head at one position."""
    half = config.head_width // 2
    base = 10_000.0
    if config.rescaling_factor is not None:
        base *= config.rescaling_factor ** (config.head_width / (config.head_width - 2))
    turned = x.clone()
    for j in range(half):
        angle = position * base ** (-2 * j / config.head_width)
        turned[j] = x[j] * math.cos(angle) - x[j + half] * math.sin(angle)
        turned[j + half] = x[j + half] * math.cos(angle) + x[j] * math.sin(angle)
    return turned


def attend(x: Tensor, real: Tensor, state: Mapping[str, Tensor], name: str, config: Config) -> tuple[Tensor, Tensor]:
    """[T, D] -> (what attention returns, maps [H, T, keys])."""
    heads, width, length = config.num_attention_heads, config.head_width, len(x)
    q, k, v = (linear(x, state, f"{name}.self.{part}").view(length, heads, width) for part in ("query", "key", "value"))
    if config.is_rotary:
        q, k = (
            torch.stack([torch.stack([rotate(row, t, config) for row in part[t]]) for t in range(length)])
            for part in (q, k)
        )
    allowed = real.unsqueeze(1) & real
    if config.add_bias_kv:
        k = torch.cat([k, state[f"{name}.self.bias_k"][0]])
        v = torch.cat([v, state[f"{name}.self.bias_v"][0]])
        allowed = torch.cat([allowed, torch.ones(length, 1, dtype=torch.bool)], 1)
    scores = torch.einsum("thk,shk->hts", q, k) / math.sqrt(width)
    maps = torch.where(allowed, scores, -1e30).softmax(-1)
    mixed = torch.einsum("hts,shk->thk", maps, v).flatten(1)
    return linear(mixed, state, f"{name}.output.dense"), maps


def feed_forward(x: Tensor, state: Mapping[str, Tensor], name: str, config: Config) -> Tensor:
    inner = linear(x, state, f"{name}.intermediate.dense")
    if config.use_glu_in_ffn:
        gate, value = inner[..., : config.intermediate_size], inner[..., config.intermediate_size :]
        inner = activate(gate, config.ffn_activation) * value
    else:
        inner = activate(inner, config.ffn_activation)
    return linear(inner, state, f"{name}.output.dense")


def encode(ids: Tensor, state: Mapping[str, Tensor], config: Config) -> tuple[list[Tensor], list[Tensor]]:
    """[T] -> (embedding and stream after every block, the last one after the final norm; maps of every block)."""
    real = ids != config.pad_token_id
    x = embed(ids, state, config)
    states, maps = [x], []
    for index in range(config.num_hidden_layers):
        name = f"encoder.layer.{index}"
        if config.pre_layer_norm:
            branch, weights = attend(
                norm(x, state, f"{name}.attention.LayerNorm", config), real, state, f"{name}.attention", config
            )
            x = x + branch
            x = x + feed_forward(norm(x, state, f"{name}.LayerNorm", config), state, name, config)
        else:
            branch, weights = attend(x, real, state, f"{name}.attention", config)
            x = norm(x + branch, state, f"{name}.attention.LayerNorm", config)
            x = norm(x + feed_forward(x, state, name, config), state, f"{name}.LayerNorm", config)
        states.append(x)
        maps.append(weights)
    states[-1] = norm(x, state, "encoder.emb_layer_norm_after", config)
    return states, maps


def logits(ids: Tensor, hidden: Tensor, head: Mapping[str, Tensor], config: Config) -> Tensor:
    """[T, V], zero at pads."""
    z = norm(activate(linear(hidden, head, "dense"), "gelu-no-approx"), head, "layer_norm", config)
    return (z @ head["decoder.weight"].T + head["bias"]) * (ids != config.pad_token_id).unsqueeze(1)
