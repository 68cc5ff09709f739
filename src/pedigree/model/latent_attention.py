"""Multi-head latent attention (DeepSeek-V2 and -V3, Pangu Ultra MoE).

    q  = q_b(norm(q_a(x)))               each head: nope | rope
    kv = kv_a(x) = latent | rope key     the rope key is one head, shared by all
    k nope | v = kv_b(norm(latent))      softmax scale 1 / sqrt(nope + rope), sharper under yarn

The cache keeps the normalized latent and the turned rope key. Values are padded to the width of the keys, since the
fused product of a CPU wants both alike and is a third faster with them (docs/LOG.md).

Shapes: B = batch, T = new tokens, S = all tokens, H = heads, N = nope, R = rope, V = value channels, C = latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.errors import InternalError
from pedigree.model.attention import attend
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import LatentAttention
from pedigree.model.context import Context
from pedigree.model.groups import copied
from pedigree.model.linear import Linear
from pedigree.model.norm import RMSNorm
from pedigree.model.rope import rotate


class MultiHeadLatentAttention(nn.Module):
    """Latent attention of one layer.

    Args:
        config: the decoder's.
        layer: number of the layer, the key of its cache.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        a = config.attention
        if not isinstance(a, LatentAttention):
            raise InternalError("Latent attention was asked to be grouped", got=a.kind)
        d, self.layer, self.shape, self.dropout = config.d_model, layer, a, config.dropout
        scaling = config.rope.scaling if config.rope is not None else None
        self.sharpness = 1.0 if scaling is None else scaling.softmax_factor
        if a.q_rank is None:
            self.q = Linear(d, a.n_heads * a.qk_dim, bias=False)
        else:
            self.q_a = Linear(d, a.q_rank, bias=False)
            self.q_a_norm = RMSNorm(a.q_rank, a.latent_eps)
            self.q_b = Linear(a.q_rank, a.n_heads * a.qk_dim, bias=False)
        self.kv_a = Linear(d, a.kv_rank + a.rope_dim, bias=False)
        self.kv_a_norm = RMSNorm(a.kv_rank, a.latent_eps)
        self.kv_b = Linear(a.kv_rank, a.n_heads * (a.nope_dim + a.v_dim), bias=False)
        self.o = Linear(a.n_heads * a.v_dim, d, bias=False)

    def forward(self, x_BTd: Tensor, context: Context) -> Tensor:
        """The branch's output."""
        a, group = self.shape, self.o.tensor_group
        if a.q_rank is None:
            q = self.q(copied(x_BTd, group))
        else:
            q = self.q_b(copied(self.q_a_norm(self.q_a(x_BTd)), group))
        q_nope, q_rope = q.unflatten(-1, (-1, a.qk_dim)).split((a.nope_dim, a.rope_dim), -1)
        latent_BTC, key_BTR = self.kv_a(x_BTd).split((a.kv_rank, a.rope_dim), -1)
        latent_BSC = self.kv_a_norm(latent_BTC.contiguous())
        key_BS1R = rotate(key_BTR[:, :, None], context.turn)
        if context.cache is not None:
            latent_BSC, key_BS1R = context.cache.append(self.layer, latent_BSC, key_BS1R)
        latent_BSC, key_BS1R = copied(latent_BSC, group), copied(key_BS1R, group)
        kv = self.kv_b(latent_BSC).unflatten(-1, (-1, a.nope_dim + a.v_dim))
        k_nope, v_BSHV = kv.split((a.nope_dim, a.v_dim), -1)
        q_BTHD = torch.cat([q_nope, rotate(q_rope, context.turn)], -1)
        k_BSHD = torch.cat([k_nope, key_BS1R.expand(-1, -1, k_nope.shape[2], -1)], -1)
        missing = a.qk_dim - a.v_dim
        if missing > 0:
            v_BSHV = functional.pad(v_BSHV, (0, missing))
        mixed = attend(q_BTHD, k_BSHD, v_BSHV, context, self.dropout if self.training else 0.0, self.sharpness)
        if missing > 0:
            mixed = torch.unflatten(mixed, -1, (-1, a.qk_dim))[..., : a.v_dim].flatten(2)
        out: Tensor = self.o(mixed)
        return out
