"""A mixture of experts in the place of the feed-forward part.

Shapes: B = batch, T = tokens, N = B * T, d = channels, K = chosen experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from pedigree.errors import InternalError
from pedigree.model.balance import LayerRouting, judge
from pedigree.model.config import ModelConfig
from pedigree.model.context import Context
from pedigree.model.dispatch import collect, order_by_expert, send
from pedigree.model.exchange import answered, block_order, natural_order
from pedigree.model.experts import StackedExperts
from pedigree.model.feed_forward import DenseFeedForward
from pedigree.model.groups import ALONE, Groups, copied, summed
from pedigree.model.linear import Linear
from pedigree.model.router import Choice, LearnedRouter, RandomRouter


class Mixture(nn.Module):
    """Routed experts, and a shared one where the config has it.

    `groups` are the processes that hold the other experts and see the other tokens; the trainer sets them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, d = config.experts, config.d_model
        if e is None:
            raise InternalError("A mixture was asked of a config without experts", got=config.name)
        self.part = e
        self.groups: Groups = ALONE
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
        y_Nd, load_E = self._routed(x_Nd, choice)
        y_BTd = y_Nd.view_as(x_BTd).to(x_BTd.dtype)
        if self.shared is not None:
            common = self.shared(x_BTd)
            if self.shared_gate is not None:
                common = common * self.shared_gate(x_BTd).sigmoid()
            y_BTd = y_BTd + common
        return y_BTd, judge(self.part, choice, load_E, x_BTd.shape[0], self.groups)

    def _routed(self, x_Nd: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        """What the chosen experts answered, and the choices of each expert."""
        groups, n_experts = self.groups, self.part.n_experts
        if groups.tensor is None and groups.expert is None:
            order = order_by_expert(choice.experts_NK, n_experts)
            answers_Md = self.experts(send(x_Nd, order), order.load_E)
            return collect(answers_Md, choice.weights_NK, order), order.load_E
        order = order_by_expert(block_order(choice.experts_NK, n_experts, groups), n_experts)
        rows_Md = send(copied(x_Nd, groups.tensor), order)
        answers_Md = answered(self.experts, rows_Md, order.load_E, groups)
        weights_NK = copied(choice.weights_NK, groups.tensor)
        y_Nd = summed(collect(answers_Md, weights_NK, order), groups.tensor)
        return y_Nd, natural_order(order.load_E, groups)
