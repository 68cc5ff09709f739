"""Which experts a token goes to, and with what weight: four routers, one answer.

    softmax   weights are the k largest of a softmax; `renormalize` divides them by their sum (Mixtral, Qwen2-MoE)
    sigmoid   groups are ranked by the sum of their two best sigmoids plus bias, the k best experts of the best groups
              are chosen by sigmoid plus bias, weights are sigmoids without it (DeepSeek-V3, arXiv 2412.19437)
    grouped   the best k / groups experts of every group by one softmax over all (MoGE, arXiv 2505.21411): equal load
              on every group by construction
    random    the domain picks the group, a fixed table picks the expert by token id (PanGu-Sigma, arXiv 2303.10845)

Logits, scores and weights are float32 whatever the type of the model.

Shapes: N = tokens, d = channels, E = experts, K = chosen experts, G = groups, P = experts of a group, V = vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.errors import UsageError
from pedigree.model.config_parts import Experts
from pedigree.model.precision import without_autocast

_SUM_EPS = 1e-20  # as in the reference code of DeepSeek-V3


class Choice(NamedTuple):
    """The answer of a router.

    `probability_NE` sums to one for each token and carries the gradient of the balance loss; it and the logits are None
    for a router without parameters.
    """

    experts_NK: Tensor
    weights_NK: Tensor
    probability_NE: Tensor | None
    logits_NE: Tensor | None


class LearnedRouter(nn.Module):
    """The three routers with a gate: softmax, sigmoid, grouped.

    `expert_bias` is a buffer: it takes part in the choice only and is moved by the trainer, never by gradients.
    """

    expert_bias: Tensor | None

    def __init__(self, width: int, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(experts.n_experts, width))
        self.scale = nn.Parameter(torch.ones(experts.n_experts)) if experts.learned_scale else None
        bias = torch.zeros(experts.n_experts, dtype=torch.float32) if experts.expert_bias else None
        self.register_buffer("expert_bias", bias)

    def forward(self, x_Nd: Tensor) -> Choice:
        """Experts and weights for each token."""
        e = self.experts
        with without_autocast(x_Nd):
            logits = functional.linear(x_Nd.float(), self.weight.float())
            if e.router == "sigmoid":
                scores = logits.sigmoid()
                probability = scores / (scores.sum(-1, keepdim=True) + _SUM_EPS)
            else:
                scores = probability = logits.softmax(-1)
            chosen = self._choose(scores.detach())
            weights = scores.gather(-1, chosen)
            if e.renormalize:
                weights = weights / (weights.sum(-1, keepdim=True) + _SUM_EPS)
            if self.scale is not None:
                weights = weights * self.scale.float()[chosen]
            if e.scale != 1.0:
                weights = weights * e.scale
        return Choice(chosen, weights, probability, logits)

    def _choose(self, scores_NE: Tensor) -> Tensor:
        """Numbers of the chosen experts, [N, K]."""
        e = self.experts
        if self.expert_bias is not None:
            scores_NE = scores_NE + self.expert_bias
        grouped_NGP = torch.unflatten(scores_NE, -1, (e.n_groups, e.per_group))
        if e.router == "grouped":
            best_NGk = grouped_NGP.topk(e.top_k // e.n_groups, dim=-1).indices
            first_G1 = torch.arange(e.n_groups, device=best_NGk.device)[:, None] * e.per_group
            return (best_NGk + first_G1).flatten(-2)
        if e.topk_groups < e.n_groups:
            rank_NG = grouped_NGP.topk(min(2, e.per_group), dim=-1).values.sum(-1)
            kept_NG = rank_NG.topk(e.topk_groups, dim=-1).indices
            open_NG = torch.zeros_like(rank_NG, dtype=torch.bool).scatter_(-1, kept_NG, True)
            scores_NE = grouped_NGP.masked_fill(~open_NG[..., None], float("-inf")).flatten(-2)
        return scores_NE.topk(e.top_k, dim=-1).indices


class RandomRouter(nn.Module):
    """A fixed table from token id to expert, one for each layer; the domain picks the group.

    The table is a buffer that `pedigree.model.init` fills and that is saved with the weights.
    """

    table: Tensor

    def __init__(self, experts: Experts, vocab_size: int) -> None:
        super().__init__()
        self.experts = experts
        self.register_buffer("table", torch.zeros(vocab_size, dtype=torch.int64))

    def forward(self, tokens_N: Tensor, domain_N: Tensor | None) -> Choice:
        """The expert of each token, weight one.

        Raises:
            UsageError: there are several groups and no domain ids.
        """
        e = self.experts
        chosen_N = self.table[tokens_N]
        if domain_N is not None:
            chosen_N = chosen_N + domain_N.remainder(e.n_groups) * e.per_group
        elif e.n_groups > 1:
            raise UsageError(
                "Random routing needs the domain of each token",
                where="domain_BT",
                got=None,
                expected=f"ids below {e.n_groups}",
                fix="pass domain_BT",
            )
        chosen_NK = chosen_N[:, None]
        return Choice(chosen_NK, torch.ones_like(chosen_NK, dtype=torch.float32), None, None)
