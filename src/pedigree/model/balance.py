"""Losses that keep experts evenly loaded, and what a router did, in numbers.

    balance   alpha * sum over experts of f_i p_i,  f_i = E / (K T) * choices of i,  p_i = mean probability of i
    z         c * mean(logsumexp(logits)^2)

f carries no gradient; the loss equals alpha at perfect balance. The scope says over which tokens f counts: each
sequence (mean over sequences), the batch over all processes, or the batches of an expert group (EP-group loss of Pangu
Ultra MoE). p is that of the process itself: the mean of the loss over processes is that of their tokens together.
Each layer has its own losses; the decoder sums them.

Shapes: B = batch, T = tokens of a sequence, N = B * T, E = experts, K = choices, L = sparse layers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pedigree.model.config_parts import Experts
from pedigree.model.groups import ALONE, Groups, place_in, total
from pedigree.model.router import Choice


class LayerRouting(NamedTuple):
    """What the router of one layer did: two weighted losses with gradient, and statistics without."""

    balance_loss: Tensor
    z_loss: Tensor
    load_E: Tensor
    """Choices of each expert."""
    probability_E: Tensor
    """Sum over tokens of each expert's probability."""
    entropy: Tensor
    """Sum over tokens of the entropy of a token's probabilities, nats."""


class Routing(NamedTuple):
    """Statistics of all sparse layers; add those of several batches with `joined`."""

    load_LE: Tensor
    probability_LE: Tensor
    entropy_L: Tensor
    n_tokens: int

    def joined(self, other: Routing) -> Routing:
        """Both together, as if all tokens had come in one batch."""
        return Routing(
            self.load_LE + other.load_LE,
            self.probability_LE + other.probability_LE,
            self.entropy_L + other.entropy_L,
            self.n_tokens + other.n_tokens,
        )

    @property
    def share_LE(self) -> Tensor:
        """Share of a layer's choices that each expert got."""
        return self.load_LE / self.load_LE.sum(-1, keepdim=True)

    @property
    def mean_probability_LE(self) -> Tensor:
        """Mean probability of each expert."""
        return self.probability_LE / self.n_tokens

    @property
    def mean_entropy_L(self) -> Tensor:
        """Mean entropy of a token's probabilities, nats; near log E means an indifferent router."""
        return self.entropy_L / self.n_tokens

    @property
    def load_entropy_L(self) -> Tensor:
        """Entropy of the load, nats; well below log E means experts that are not used."""
        entropy_L: Tensor = torch.special.entr(self.share_LE).sum(-1)
        return entropy_L

    @property
    def peak_L(self) -> Tensor:
        """Largest load over mean load of each layer; 1 is perfect balance."""
        return self.load_LE.amax(-1) / self.load_LE.float().mean(-1)

    def imbalance_L(self, n_groups: int) -> Tensor:
        """(largest - smallest load of a group) / tokens: the imbalance score of MoGE, 0 for its router."""
        groups_LG = torch.unflatten(self.load_LE, -1, (n_groups, -1)).sum(-1)
        spread_L: Tensor = groups_LG.amax(-1) - groups_LG.amin(-1)
        return spread_L / self.n_tokens


def judge(experts: Experts, choice: Choice, load_E: Tensor, n_sequences: int, groups: Groups = ALONE) -> LayerRouting:
    """Losses and statistics of one layer's choices.

    Args:
        experts: scope and coefficients.
        choice: what the router chose for N tokens.
        load_E: choices of each expert.
        n_sequences: sequences that the N tokens are (they lie one behind the other).
        groups: over which of them the scope sums loads.
    """
    p_NE, b = choice.probability_NE, experts.balance
    zero = torch.zeros((), device=load_E.device)
    if p_NE is None:
        return LayerRouting(zero, zero, load_E, load_E.float(), zero)
    balance = zero
    if b.scope == "sequence":
        balance = _sequence_balance(experts, choice, n_sequences)
    elif b.scope != "none":
        group = groups.balance if b.scope == "group" else groups.data
        shared_E, n_tokens = total(load_E.float(), group), p_NE.shape[0] * place_in(group)[1]
        balance = (p_NE.mean(0) * shared_E).sum() * (b.coefficient * experts.n_experts / (experts.top_k * n_tokens))
    z_loss = zero
    if b.z_coefficient and choice.logits_NE is not None:
        z_loss = choice.logits_NE.logsumexp(-1).square().mean() * b.z_coefficient
    still_NE = p_NE.detach()
    return LayerRouting(balance, z_loss, load_E, still_NE.sum(0), torch.special.entr(still_NE).sum())


def _sequence_balance(experts: Experts, choice: Choice, n_sequences: int) -> Tensor:
    """The balance loss of each sequence alone, averaged."""
    if choice.probability_NE is None:
        return torch.zeros(())
    p_BTE = torch.unflatten(choice.probability_NE, 0, (n_sequences, -1))
    chosen_BM = torch.unflatten(choice.experts_NK, 0, (n_sequences, -1)).flatten(1)
    load_BE = torch.zeros_like(p_BTE[:, 0]).scatter_add_(1, chosen_BM, torch.ones_like(chosen_BM, dtype=p_BTE.dtype))
    factor = experts.balance.coefficient * experts.n_experts / chosen_BM.shape[1]
    return (p_BTE.mean(1) * load_BE).sum(-1).mean() * factor


def moved_bias(bias_E: Tensor, load_E: Tensor, rate: float) -> Tensor:
    """The selection bias after one step: up for experts below the mean load, down above (arXiv 2408.15664)."""
    load_E = load_E.to(bias_E.dtype)
    return bias_E + rate * torch.sign(load_E.mean() - load_E)
