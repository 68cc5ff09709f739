"""One layer of the decoder: attention and feed-forward, each a branch beside the stream.

    pre        x = x + branch(norm(x))
    sandwich   x = x + post_norm(branch(norm(x)))

The query layer of PanGu-alpha is a block whose attention takes its queries from a second table of positions, without a
norm; keys, values and the sum stay with the stream.

Shapes: B = batch, T = tokens, d = channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.errors import InternalError
from pedigree.model.attention import Attention
from pedigree.model.balance import LayerRouting
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import LatentAttention
from pedigree.model.context import Context
from pedigree.model.feed_forward import AugmentedShortcut, DenseFeedForward
from pedigree.model.latent_attention import MultiHeadLatentAttention
from pedigree.model.mixture import Mixture
from pedigree.model.norm import build_norm, mixed


class Block(nn.Module):
    """One layer.

    Args:
        config: the decoder's.
        layer: its number; layers of multi-token prediction follow the main ones.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        latent = isinstance(config.attention, LatentAttention)
        sandwich, shortcut = config.norm.sandwich, config.shortcut
        self.is_query, self.dropout = config.is_query(layer), config.dropout
        self.attn_norm = build_norm(config)
        self.attn = MultiHeadLatentAttention(config, layer) if latent else Attention(config, layer)
        self.attn_post_norm = build_norm(config) if sandwich else None
        self.ffn_norm = build_norm(config)
        sparse = config.is_sparse(layer)
        self.ffn = Mixture(config) if sparse else DenseFeedForward(config.d_model, config.feed_forward)
        self.ffn_post_norm = build_norm(config) if sandwich else None
        count = 0 if shortcut is None else shortcut.count
        self.shortcuts = nn.ModuleList(AugmentedShortcut(config) for _ in range(count))

    def forward(self, x_BTd: Tensor, context: Context) -> tuple[Tensor, LayerRouting | None]:
        """The stream behind this layer, and what its router did, if it has one."""
        x_BTd = x_BTd + self.attention_branch(self.attn_norm(x_BTd), context)
        inner_BTd = self.ffn_norm(x_BTd)
        routing = None
        if isinstance(self.ffn, Mixture):
            branch_BTd, routing = self.ffn(inner_BTd, context)
        else:
            branch_BTd = self.ffn(inner_BTd)
        branch_BTd = self._dropped(branch_BTd)
        if self.ffn_post_norm is not None:
            branch_BTd = mixed(branch_BTd, self.ffn_post_norm, context.homotopy.post_norms)
        return x_BTd + branch_BTd, routing

    def attention_branch(self, inner_BTd: Tensor, context: Context) -> Tensor:
        """What attention and shortcuts add to the stream, of a normalized input."""
        if self.is_query:
            if context.queries_BTd is None or not isinstance(self.attn, Attention):
                raise InternalError("A query layer got no position queries", got=type(self.attn).__name__)
            queries_BTd, share = context.queries_BTd.to(inner_BTd.dtype), context.homotopy.queries
            if share != 1:
                queries_BTd = torch.lerp(inner_BTd, queries_BTd, share)
            branch_BTd: Tensor = self.attn(inner_BTd, context, queries_BTd)
        else:
            branch_BTd = self.attn(inner_BTd, context)
        branch_BTd = self._dropped(branch_BTd)
        for shortcut in self.shortcuts:
            branch_BTd = branch_BTd + shortcut(inner_BTd)
        if self.attn_post_norm is not None:
            branch_BTd = mixed(branch_BTd, self.attn_post_norm, context.homotopy.post_norms)
        return branch_BTd

    def _dropped(self, branch_BTd: Tensor) -> Tensor:
        if not self.dropout or not self.training:
            return branch_BTd
        return functional.dropout(branch_BTd, self.dropout)
