"""MATCH (Zhu et al., 2502.12292, section 3.2): do gate and up activations ask for the same matching of units?

Gate activations of two models at the ends of the same prompts give one matching, up activations another; Spearman's
correlation between the two is the score. All pairs of layers are tried, as the paper does to localize. Its p-value is
no exact one. Expert layers: every expert of one with every expert of the other. Networks without a gate are not
distilled into ones that have it, as the paper does at great cost: such pairs have no score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.matching import assign, cosines, fisher_log10, log10_p_of_rank_agreement
from pedigree.benchmark.methods.model import Model
from pedigree.benchmark.methods.prompts import PROMPTS, prompts

if TYPE_CHECKING:
    from torch import Tensor

MAP_LOG10_P = -4.0
"""Below this a pair of layers belongs together (the paper's threshold)."""

Activations = list[tuple["Tensor", "Tensor"]]


@dataclass(frozen=True)
class Match(Described):
    """Minus log10 of the combined p-value of B's layers, each with its best layer of A."""

    def ask(self, a: Model, b: Model) -> Answer:
        """All pairs of layers; the best one of each layer of B is paid for by the number tried."""
        import math

        if not a.n_layers or not b.n_layers:
            return Answer(None, why_not="no layers")
        if not all(any("gate" in network for network in model.networks(0)) for model in (a, b)):
            return Answer(None, why_not="a feed-forward network without a gate")
        one, two = (activations(model) for model in (a, b))
        best: list[float] = []
        layer_map: list[int | None] = []
        for networks in two:
            tried = [(agreement(other, networks), i) for i, other in enumerate(one)]
            log10_p, i = min(tried)
            best.append(min(0.0, log10_p + math.log10(len(tried))))
            layer_map.append(i if log10_p < MAP_LOG10_P else None)
        return Answer(-fisher_log10(best), layer_map=layer_map)


def activations(model: Model) -> list[Activations]:
    """Gate and up activations [units, prompts] of every network of every layer; layers without a gate are empty."""
    inputs = model.network_inputs([model.encode(text) for text in prompts(PROMPTS)], "prompts")
    found: list[Activations] = []
    for layer in range(model.n_layers):
        states = inputs.get(layer)
        networks = [n for n in model.networks(layer) if {"gate", "up"} <= n.keys()] if states is not None else []
        found.append([(n["gate"] @ states.T, n["up"] @ states.T) for n in networks if states is not None])
    return found


def agreement(first: Activations, second: Activations) -> float:
    """Smallest log10 p over pairs of networks, paid for by their number; 0 where there is none."""
    import math

    found = []
    for gate, up in first:
        for other_gate, other_up in second:
            rows, by_gate = assign(cosines(gate, other_gate))
            _, by_up = assign(cosines(up, other_up).abs())
            found.append(log10_p_of_rank_agreement(by_gate, by_up) if len(rows) > 3 else 0.0)
    return min(0.0, min(found) + math.log10(len(found))) if found else 0.0


METHOD = Match("match", "Zhu et al., MATCH (2025)", "2502.12292, section 3.2")
