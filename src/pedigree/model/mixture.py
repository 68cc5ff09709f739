"""A mixture of experts in the place of the feed-forward part.

Shapes: B = batch, T = tokens, N = B * T, d = channels, K = chosen experts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pedigree.errors import InternalError
from pedigree.model.balance import LayerRouting, judge
from pedigree.model.config import ModelConfig
from pedigree.model.context import Context
from pedigree.model.dispatch import collect, order_by_expert, send
from pedigree.model.experts import StackedExperts
from pedigree.model.feed_forward import DenseFeedForward
from pedigree.model.linear import Linear
from pedigree.model.router import LearnedRouter, RandomRouter


class Mixture(nn.Module):
    """Routed experts, and a shared one where the config has it.

    `balance_group` is the process group of the `group` balance scope; the trainer sets it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, d = config.experts, config.d_model
        if e is None:
            raise InternalError("A mixture was asked of a config without experts", got=config.name)
        self.part = e
        self.balance_group: Any = None
        self.router = RandomRouter(e, config.vocab_size) if e.router == "random" else LearnedRouter(d, e)
        self.experts = StackedExperts(d, config.feed_forward, e)
        self.shared = DenseFeedForward(d, config.feed_forward, e.d_shared) if e.d_shared else None
        self.shared_gate = Linear(d, 1, bias=False) if e.shared_gate else None

    def forward(self, x_BTd: Tensor, context: Context) -> tuple[Tensor, LayerRouting]:
        """The branch's output, and what the router did."""
        x_Nd = x_BTd.flatten(0, 1)
        if isinstance(self.router, RandomRouter):
            domain = context.domain_BT
            choice = self.router(context.tokens_BT.flatten(), None if domain is None else domain.flatten())
        else:
            choice = self.router(x_Nd)
        order = order_by_expert(choice.experts_NK, self.part.n_experts)
        answers_Md = self.experts(send(x_Nd, order), order.load_E)
        y_BTd = collect(answers_Md, choice.weights_NK, order).view_as(x_BTd).to(x_BTd.dtype)
        if self.shared is not None:
            common = self.shared(x_BTd)
            if self.shared_gate is not None:
                common = common * self.shared_gate(x_BTd).sigmoid()
            y_BTd = y_BTd + common
        return y_BTd, judge(self.part, choice, order.load_E, x_BTd.shape[0], self.balance_group)
