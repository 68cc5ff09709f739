"""Multi-token prediction (DeepSeek-V3, Pangu Ultra MoE): depth k predicts the token k places beyond the next.

    h_k(t) = block(project(concat(norm(embed(token t+k)), norm(h_{k-1}(t)))))       h_0 = normalized main state
    logits_k(t) = head(norm(h_k(t)))                                                target: token t+k+1

Embedding and head are the main model's. Tokens come from the targets, so no token beyond the batch is needed; places
whose tokens are not known, or belong to another document, do not count.

Shapes: B = batch, T = tokens, d = channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.model.balance import LayerRouting
from pedigree.model.block import Block
from pedigree.model.config import ModelConfig
from pedigree.model.context import Context, runs_of
from pedigree.model.cross_entropy import IGNORED
from pedigree.model.linear import Linear
from pedigree.model.norm import build_norm


class MultiTokenLayer(nn.Module):
    """One further depth: joins two streams, one block, its own final norm.

    Args:
        config: the decoder's.
        depth: 0 for the first further token.
    """

    def __init__(self, config: ModelConfig, depth: int) -> None:
        super().__init__()
        self.embed_norm = build_norm(config)
        self.hidden_norm = build_norm(config)
        self.project = Linear(2 * config.d_model, config.d_model, bias=False)
        self.block = Block(config, config.n_layers + depth)
        self.norm = build_norm(config)

    def forward(self, embedded_BTd: Tensor, hidden_BTd: Tensor, context: Context) -> tuple[Tensor, LayerRouting | None]:
        """The normalized state of this depth, and what its router did."""
        joined = torch.cat([self.embed_norm(embedded_BTd), self.hidden_norm(hidden_BTd)], -1)
        x_BTd, routing = self.block(self.project(joined), context)
        return self.norm(x_BTd), routing


def shifted(ids_BT: Tensor, by: int) -> Tensor:
    """Each place gets the id `by` places later; -100 where the row ends."""
    return functional.pad(ids_BT[:, by:], (0, by), value=IGNORED)


def tokens_and_targets(targets_BT: Tensor, document_BT: Tensor | None, depth: int) -> tuple[Tensor, Tensor]:
    """Token ids to embed and targets of one depth (0 for the first further token).

    A target counts where the main loss counts it, and where all tokens between are known and stand in the document of
    the place itself: nothing is predicted through the start of another document.
    """
    tokens_BT = shifted(targets_BT, depth)
    aims_BT = shifted(targets_BT, depth + 1)
    known_BT = torch.ones_like(targets_BT, dtype=torch.bool)
    for step in range(depth + 1):
        known_BT &= shifted(targets_BT, step) != IGNORED
    if document_BT is not None:
        runs_BT = runs_of(document_BT)
        known_BT &= shifted(runs_BT, depth + 1) == runs_BT
    return tokens_BT.clamp_min(0), aims_BT.masked_fill(~known_BT, IGNORED)
