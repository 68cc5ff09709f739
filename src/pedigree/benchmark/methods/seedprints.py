"""SeedPrints (2509.26404): do two models rank the same random inputs alike in the dimensions both leave smallest?

Random token sequences, hidden state of the last token behind the last layer; the tenth of the dimensions of smallest
mean in each model, and of these the ones both name; softmax at temperature 10 over them; Kendall's tau over the inputs
in each dimension; z of their mean. Dimension j is held against dimension j, so widths must agree. The paper takes 2000
sequences of 1024 tokens, here 300 of 24 for models that see 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model

INPUTS, TOKENS, SHARE, TEMPERATURE = 300, 24, 0.1, 10.0
FIRST_ID, LAST_ID = 2, 256
"""Ids that every tokenizer of the benchmark has."""


@dataclass(frozen=True)
class SeedPrints(Described):
    """z of the mean rank correlation; 0 where fewer than two dimensions are named by both."""

    def ask(self, a: Model, b: Model) -> Answer:
        """States of both on the same sequences."""
        import torch

        one, two = (model.last_states(sequences(), "random")[-1].double() for model in (a, b))
        if one.shape[1] != two.shape[1]:
            return Answer(None, why_not="hidden sizes differ")
        count = max(1, round(SHARE * one.shape[1]))
        chosen = [set(state.mean(0).argsort()[:count].tolist()) for state in (one, two)]
        shared = sorted(chosen[0] & chosen[1])
        if len(shared) < 2:
            return Answer(0.0)
        from scipy.stats import kendalltau

        x, y = (torch.softmax(state[:, shared] / TEMPERATURE, dim=1) for state in (one, two))
        taus = [float(kendalltau(x[:, j], y[:, j]).statistic) for j in range(len(shared))]
        taus = [tau if math.isfinite(tau) else 0.0 for tau in taus]
        n = len(x)
        deviation = math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))
        return Answer(sum(taus) / len(taus) * math.sqrt(len(taus)) / deviation)


@lru_cache(maxsize=1)
def sequences() -> tuple[tuple[int, ...], ...]:
    """The random inputs, the same for ever."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(FIRST_ID, LAST_ID, size=(INPUTS, TOKENS))
    return tuple(tuple(int(i) for i in row) for row in drawn)


METHOD = SeedPrints("seedprints", "SeedPrints (2026)", "2509.26404")
