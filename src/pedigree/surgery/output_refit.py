"""Output projections fitted so that a model with fewer key/value heads follows the one it was made from.

Both run layer by layer on the same tokens. In each layer the heads are turned and averaged, and the output projection
O' is the ridge solution of |M O'^T + x' - (x + y)|^2 + r |O' - O|^2: M what the narrower attention mixes, x' and x the
states of both in front of it, y what the attention of the wider one adds. So every layer also mends what the layers
before it did wrong. A part of the tokens is kept back from the fit, for the loss of both.

Source  least squares on activations as in 2306.00978 and its kin; the sequential target is derived for the project.

Shapes  B = sequences, T = tokens, N = B * T, d = channels, H = query heads, K = key/value heads, e = head dimension
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pedigree.errors import InternalError
from pedigree.model.attention import Attention
from pedigree.model.block import Block
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention
from pedigree.model.context import Context
from pedigree.surgery.head_alignment import alignment
from pedigree.surgery.streamed import StreamedModel
from pedigree.weights.checkpoint import Checkpoint

_HELD_OUT = 8  # every so many sequences one is kept back


@dataclass(frozen=True)
class FittedLayer:
    """What one layer becomes: turns of keys and of values, float64 [K, e, e] or None, and the output [d, H e]."""

    turns: tuple[Tensor | None, Tensor | None]
    output: Tensor


@dataclass(frozen=True)
class Fit:
    """All layers, and the loss of both models on the tokens kept back, nats."""

    layers: list[FittedLayer]
    before: float
    after: float
    tokens: int


@torch.no_grad()
def fit_outputs(checkpoint: Checkpoint, tokens_BT: Tensor, changed: ModelConfig, *, align: bool, ridge: float) -> Fit:
    """Run the source beside the narrower model and fit every output.

    Args:
        checkpoint: the source.
        tokens_BT: what both read; two sequences or more.
        changed: the narrower model.
        align: whether heads are turned before they are averaged.
        ridge: weight of staying near the old output, relative to the mean square of what is mixed.
    """
    wide = StreamedModel(checkpoint)
    tokens_BT = tokens_BT[:, : wide.config.n_positions]
    kept_B = torch.arange(tokens_BT.shape[0]) % _HELD_OUT == min(_HELD_OUT, tokens_BT.shape[0]) - 1
    wide_BTd, context = wide.begin(tokens_BT)
    narrow_BTd = wide_BTd
    layers = []
    for layer in range(wide.config.n_layers):
        block = wide.layer(layer)
        narrow, turns = narrowed(block, changed, layer, align=align)
        aim_BTd = wide_BTd + block.attention_branch(block.attn_norm(wide_BTd), context)
        _refit(narrow, narrow_BTd, aim_BTd, context, kept_B, ridge)
        layers.append(FittedLayer(turns, narrow.attn.o.weight.detach().clone()))
        wide_BTd, _ = block(wide_BTd, context)
        narrow_BTd, _ = narrow(narrow_BTd, context)
    losses = [_loss(wide, x_BTd[kept_B], tokens_BT[kept_B]) for x_BTd in (wide_BTd, narrow_BTd)]
    return Fit(layers, losses[0], losses[1], int(tokens_BT[kept_B].numel()))


def narrowed(
    block: Block, changed: ModelConfig, layer: int, *, align: bool
) -> tuple[Block, tuple[Tensor | None, Tensor | None]]:
    """A block with turned and averaged heads, and the turns."""
    attention, shape = block.attn, changed.attention
    if not isinstance(attention, Attention) or not isinstance(shape, GroupedAttention):
        raise InternalError("latent attention has no heads to average", got=type(attention).__name__)
    narrow = Block(changed, layer).eval()
    state = {name: tensor.detach() for name, tensor in block.state_dict().items()}
    dim = shape.head_dim
    n_kv = state["attn.k.weight"].shape[0] // dim
    group, per_query = n_kv // shape.n_kv_heads, shape.n_heads // n_kv
    normed = shape.q_norm or shape.k_norm
    gain = state["attn_norm.weight"].double()
    turns: list[Tensor | None] = [None, None]
    if align:
        by_head = {part: (state[f"attn.{part}.weight"].double() * gain).unflatten(0, (-1, dim)) for part in "kv"}
        turns[0] = None if normed else alignment(by_head["k"], group, changed.rotary_dim)
        turns[1] = alignment(by_head["v"], group, 0)
    for part, turn in (("q", turns[0]), ("k", turns[0]), ("v", turns[1])):
        for leaf in ("weight", "bias"):
            name = f"attn.{part}.{leaf}"
            if name in state:
                found = state[name].double().unflatten(0, (-1, dim))
                by = turn if turn is None or part != "q" else turn.repeat_interleave(per_query, 0)
                if by is not None:
                    found = by @ (found if leaf == "weight" else found[..., None])
                    found = found if leaf == "weight" else found[..., 0]
                if part != "q":
                    found = found.unflatten(0, (-1, group)).mean(1)
                state[name] = found.flatten(0, 1).float()
    if turns[1] is not None:
        columns = state["attn.o.weight"].double().unflatten(1, (-1, dim))
        turned = torch.einsum("dhe,hfe->dhf", columns, turns[1].repeat_interleave(per_query, 0))
        state["attn.o.weight"] = turned.flatten(1).float()
    narrow.load_state_dict(state)
    return narrow, (turns[0], turns[1])


def _refit(block: Block, x_BTd: Tensor, aim_BTd: Tensor, context: Context, kept_B: Tensor, ridge: float) -> None:
    """Move the output projection to the ridge solution on the sequences that are not kept back."""
    mixed: list[Tensor] = []
    hook = block.attn.o.register_forward_pre_hook(lambda _module, inputs: mixed.append(inputs[0]))
    branch_BTd = block.attention_branch(block.attn_norm(x_BTd), context)
    hook.remove()
    if block.attn_post_norm is not None:  # what stands behind a norm is not linear in the projection
        return
    m_Nh = mixed[0][~kept_B].flatten(0, 1).double()
    left_Nd = (aim_BTd - x_BTd - branch_BTd)[~kept_B].flatten(0, 1).double()
    gram = m_Nh.T @ m_Nh
    gram.diagonal().add_(ridge * float(gram.diagonal().mean()) + 1e-12)
    change_hd = torch.linalg.solve(gram, m_Nh.T @ left_Nd)
    block.attn.o.weight.add_(change_hd.T.to(block.attn.o.weight.dtype))


def _loss(model: StreamedModel, x_BTd: Tensor, tokens_BT: Tensor) -> float:
    logits_NV = model.head(x_BTd[:, :-1])
    return float(functional.cross_entropy(logits_NV, tokens_BT[:, 1:].reshape(-1)))
