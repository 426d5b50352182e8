"""Flashzoi's attention: grouped queries, packed projections, rotary positions (borzoi sheet 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.borzoi.config import BorzoiConfig
from chargaff.nn.conv_rows import linear
from chargaff.nn.rotary import rotary_angles


def rotate_halves(x: Tensor, angles: Tensor) -> Tensor:
    """Turns the pairs (j, j + W) of the first 2W channels, in float32; the others stay.

    Args:
        x: [B, heads, T, P]; angles: [T, W].
    """
    half = angles.shape[1]
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
    return torch.cat([turned, x[..., 2 * half :]], -1)


class PackedAttention(nn.Module):
    """One projection for queries, keys and values; two query heads share a key and value head."""

    def __init__(self, config: BorzoiConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.dim // config.heads
        self.dropout = config.attn_dropout
        self.Wqkv = nn.Linear(config.dim, 2 * self.heads * self.head_width)
        self.out_proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """[B, n, D] and the [n, W] angles -> [B, n, D]."""
        packed = linear(self.Wqkv, x).view(*x.shape[:2], 2 * self.heads, self.head_width).transpose(1, 2)
        query, pair = packed[:, : self.heads], packed[:, self.heads :]
        key, value = pair.chunk(2, 1)
        mixed = F.scaled_dot_product_attention(
            rotate_halves(query, angles),
            rotate_halves(key, angles),
            value,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=True,
        )
        return linear(self.out_proj, mixed.transpose(1, 2).flatten(2))


class FlashAttention(nn.Module):
    """The published name around `PackedAttention`."""

    def __init__(self, config: BorzoiConfig) -> None:
        super().__init__()
        self.mha = PackedAttention(config)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """[B, n, D] -> [B, n, D]"""
        out: Tensor = self.mha(x, angles)
        return out

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Kaiming normal with biases one, and zeros going out."""
        nn.init.kaiming_normal_(self.mha.Wqkv.weight, nonlinearity="relu")
        nn.init.ones_(self.mha.Wqkv.bias)
        nn.init.zeros_(self.mha.out_proj.weight)
        nn.init.zeros_(self.mha.out_proj.bias)


def angles_for(length: int, config: BorzoiConfig, device: torch.device) -> Tensor:
    """[length, rotary_emb_dim / 2]"""
    return rotary_angles(length, config.rotary_emb_dim, config.rotary_emb_base, device=device)
