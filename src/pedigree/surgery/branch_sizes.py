"""How large the branches of a model are on a text: what a norm behind them would divide by.

A norm behind a branch divides each token's output y by its own size rms(y), so no gain stands for it exactly. The best
constant in the mean square is E[rms] for a norm put in, and E[rms] / E[rms^2] for one taken out; the coefficient of
variation of rms over the tokens says what is lost.

Shapes  B = sequences, T = tokens, d = channels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.errors import InternalError
from pedigree.model.block import Block
from pedigree.model.context import Context
from pedigree.model.mixture import Mixture
from pedigree.surgery.streamed import StreamedModel
from pedigree.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class BranchSize:
    """One branch: mean of rms(y) over the tokens, of its square, and its coefficient of variation."""

    mean: float
    mean_square: float
    variation: float


@torch.no_grad()
def branch_sizes(checkpoint: Checkpoint, tokens_BT: Tensor) -> list[tuple[BranchSize, BranchSize]]:
    """Sizes in front of any norm behind them, of attention and of the feed-forward part, layer by layer."""
    model = StreamedModel(checkpoint)
    x_BTd, context = model.begin(tokens_BT[:, : model.config.n_positions])
    found = []
    for layer in range(model.config.n_layers):
        block = model.layer(layer)
        attention_BTd, feed_forward_BTd = _branches(block, x_BTd, context)
        found.append((_size(attention_BTd), _size(feed_forward_BTd)))
        x_BTd = model.through(layer, x_BTd, context, block)
    return found


def _branches(block: Block, x_BTd: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Both branches without the norms behind them."""
    seen: dict[str, Tensor] = {}
    hooks = [
        norm.register_forward_pre_hook(lambda _module, inputs, name=name: seen.__setitem__(name, inputs[0]))
        for name, norm in (("attention", block.attn_post_norm), ("feed-forward", block.ffn_post_norm))
        if norm is not None
    ]
    branch_BTd = block.attention_branch(block.attn_norm(x_BTd), context)
    inner_BTd = block.ffn_norm(x_BTd + branch_BTd)
    if isinstance(block.ffn, Mixture):
        out_BTd = block.ffn(inner_BTd, context)[0]
    else:
        out_BTd = block.ffn(inner_BTd)
    for hook in hooks:
        hook.remove()
    if hooks and "attention" not in seen:
        raise InternalError("a norm behind a branch was not called", got=[*seen])
    return seen.get("attention", branch_BTd), out_BTd


def _size(y_BTd: Tensor) -> BranchSize:
    rms = y_BTd.double().square().mean(-1).sqrt().flatten()
    mean = float(rms.mean())
    return BranchSize(mean, float(rms.square().mean()), float(rms.std() / mean) if mean else 0.0)
