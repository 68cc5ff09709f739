"""A decoder in the shape of Llama as one would write it in an afternoon: torch modules, fused attention, whole logits.

Shapes: B = batch, T = tokens, H = heads, D = channels of a head, d = channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def turned(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary positions, halves turned against each other."""
    left, right = x_BHTD.chunk(2, -1)
    return x_BHTD * cos_TD + torch.cat([-right, left], -1) * sin_TD


class Layer(nn.Module):
    """Attention with joined q, k, v, and SwiGLU, each behind an RMSNorm."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x_BTd: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        """The stream behind this layer."""
        heads = self.qkv(self.norm_1(x_BTd)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        q, k, v = heads.chunk(3, 1)
        q, k = turned(q, cos_TD, sin_TD).to(v.dtype), turned(k, cos_TD, sin_TD).to(v.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTd = x_BTd + self.out(mixed.transpose(1, 2).flatten(2))
        inner = self.norm_2(x_BTd)
        out: Tensor = x_BTd + self.down(functional.silu(self.gate(inner)) * self.up(inner))
        return out


class PlainDecoder(nn.Module):
    """Tokens to logits.

    Args:
        shape: vocabulary, width, layers, heads, inner, length.
    """

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        width, head = shape["width"], shape["width"] // shape["heads"]
        self.embed = nn.Embedding(shape["vocabulary"], width)
        self.layers = nn.ModuleList(Layer(width, shape["heads"], shape["inner"]) for _ in range(shape["layers"]))
        self.norm, self.head = nn.RMSNorm(width, 1e-5), nn.Linear(width, shape["vocabulary"], bias=False)
        self.embed.weight.data.normal_(0, 0.02)
        turns = 1e4 ** -(torch.arange(0, head, 2) / head)
        angles = torch.arange(shape["length"])[:, None] * torch.cat([turns, turns])
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits, [B, T, V]."""
        x_BTd = self.embed(tokens_BT)
        for layer in self.layers:
            x_BTd = layer(x_BTd, self.cos, self.sin)
        logits: Tensor = self.head(self.norm(x_BTd))
        return logits
