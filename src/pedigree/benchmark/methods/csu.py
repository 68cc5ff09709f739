"""Cosine of up-projections matched and held against their order (Zhu et al., 2502.12292, phi_CSU).

In each layer the rows of the up projection are matched by cosine; Spearman's correlation of the matching with the
identity has an exact null where initialization and training do not know the order of units. Layers are combined by
Fisher's rule. One-sided p-values, where the released code takes two sides.
"""

from __future__ import annotations

from dataclasses import dataclass

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.matching import assign, cosines, fisher_log10, log10_p_of_rank_agreement
from pedigree.benchmark.methods.model import Model


@dataclass(frozen=True)
class Csu(Described):
    """Minus log10 of the combined p-value."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Layer by layer in order, expert by expert in order."""
        found = []
        for layer in range(min(a.n_layers, b.n_layers)):
            for one, two in zip(a.networks(layer), b.networks(layer), strict=False):
                if "up" in one and "up" in two:
                    rows, columns = assign(cosines(one["up"], two["up"]))
                    found.append(log10_p_of_rank_agreement(rows, columns))
        if not found:
            return Answer(None, why_not="no up projection in both")
        log10_p = fisher_log10(found)
        return Answer(-log10_p, verdict="relative" if log10_p < -6 else "stranger")


METHOD = Csu("csu", "Zhu et al., CSU (2025)", "2502.12292, section 3, phi_CSU")
