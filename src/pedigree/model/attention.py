"""Attention: grouped heads, and the query layer of PanGu-alpha, through one scaled dot product.

Every mechanism is a flag of `GroupedAttention`: rotary positions (whole or part of a head), biases one by one, norms on
query and key heads. Projections stay separate parameters: joining them for one product measured no faster.

Shapes: B = batch, T = new tokens, S = all tokens, H = heads, K = key heads, D = channels of a head, d = channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.errors import InternalError
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention
from pedigree.model.context import Context
from pedigree.model.groups import copied
from pedigree.model.linear import Linear
from pedigree.model.norm import RMSNorm
from pedigree.model.precision import product_type, without_autocast
from pedigree.model.rope import rotate
from pedigree.model.short_attention import is_short, short_attention

_SMALL_HEAD = 64


def attend(
    q_BTHD: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, context: Context, dropout: float, sharpness: float = 1.0
) -> Tensor:
    """softmax(sharpness q k / sqrt(D)) v under the mask of the context, heads joined: [B, T, H * D]."""
    scale = sharpness * q_BTHD.shape[-1] ** -0.5
    short = context.sees_back_only and not dropout and is_short(q_BTHD, k_BSKD)
    kind = _short_type(q_BTHD) if short else attention_type(q_BTHD)
    with without_autocast(q_BTHD):
        q_BHTD, k_BKSD, v_BKSD = (x.to(kind).transpose(1, 2) for x in (q_BTHD, k_BSKD, v_BSKD))
        if short:
            mixed_BHTD = short_attention(q_BHTD, k_BKSD, v_BKSD, context.bias_x1TS, scale)
        else:
            mixed_BHTD = functional.scaled_dot_product_attention(
                q_BHTD, k_BKSD, v_BKSD, attn_mask=context.mask_B1TS, dropout_p=dropout, is_causal=context.is_causal,
                scale=None if sharpness == 1 else scale, enable_gqa=k_BSKD.shape[2] != q_BTHD.shape[2],
            )  # fmt: skip
    return mixed_BHTD.transpose(1, 2).flatten(2).to(product_type(q_BTHD))


def _short_type(q_BTHD: Tensor) -> torch.dtype:
    """The type of the products over short rows: a CPU has no quick ones in float16."""
    kind = product_type(q_BTHD)
    return torch.float32 if kind == torch.float16 else kind


def attention_type(q_BTHD: Tensor) -> torch.dtype:
    """The type to compute fused attention in: that of the products, but float32 where a CPU is quicker with it.

    The fused kernel of a CPU is 5 to 8 times slower in float16, and up to 1.8 times in bfloat16 for small heads
    (docs/LOG.md).
    """
    kind = product_type(q_BTHD)
    if q_BTHD.device.type == "cpu" and (
        kind == torch.float16 or (kind == torch.bfloat16 and q_BTHD.shape[-1] < _SMALL_HEAD)
    ):
        return torch.float32
    return kind


class Attention(nn.Module):
    """Grouped-query attention of one layer; with one key head a query head it is multi-head attention.

    Args:
        config: the decoder's.
        layer: number of the layer, the key of its cache.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        a = config.attention
        if not isinstance(a, GroupedAttention):
            raise InternalError("Grouped attention was asked to be latent", got=a.kind)
        wide, narrow, d = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, config.d_model
        self.layer, self.head_dim, self.dropout = layer, a.head_dim, config.dropout
        self.q = Linear(d, wide, bias=a.q_bias)
        self.k = Linear(d, narrow, bias=a.k_bias)
        self.v = Linear(d, narrow, bias=a.v_bias)
        self.o = Linear(wide, d, bias=a.o_bias)
        self.q_norm = RMSNorm(a.head_dim, config.norm.eps) if a.q_norm else None
        self.k_norm = RMSNorm(a.head_dim, config.norm.eps) if a.k_norm else None

    def forward(self, x_BTd: Tensor, context: Context, queries_BTd: Tensor | None = None) -> Tensor:
        """The branch's output; queries come from the stream, or from `queries_BTd` in a query layer."""
        x_BTd = copied(x_BTd, self.o.tensor_group)
        source = x_BTd if queries_BTd is None else copied(queries_BTd, self.o.tensor_group)
        q = self.q(source).unflatten(-1, (-1, self.head_dim))
        k = self.k(x_BTd).unflatten(-1, (-1, self.head_dim))
        v = self.v(x_BTd).unflatten(-1, (-1, self.head_dim))
        q = rotate(q if self.q_norm is None else self.q_norm(q), context.turn)
        k = rotate(k if self.k_norm is None else self.k_norm(k), context.turn)
        if context.cache is not None:
            k, v = context.cache.append(self.layer, k, v)
        out: Tensor = self.o(attend(q, k, v, context, self.dropout if self.training else 0.0))
        return out
