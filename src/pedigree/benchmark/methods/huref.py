"""Invariant terms of HuRef (2312.04828, ICS): products of weights around the rows of rare tokens, last two layers.

    M_a = X Wq^T Wk X^T      M_b = X Wv^T Wo^T X^T      M_f = X (G^T o U^T) D^T X^T

Norm gains are ignored, as published. Keys and values are repeated for grouped queries, which the released code lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model

if TYPE_CHECKING:
    from torch import Tensor

RARE_TOKENS = 4096
LAST_LAYERS = 2


@dataclass(frozen=True)
class HuRef(Described):
    """Cosine of the stacked, standardized terms."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Terms of both models on the same token numbers, and their cosine."""
        one, two = a.embedding(), b.embedding()
        if one is None or two is None:
            return Answer(None, why_not="no embeddings")
        # Trained byte pairs are numbered by frequency: the last rows are the rarest tokens.
        rows = min(len(one), len(two))
        taken = slice(max(0, rows - min(RARE_TOKENS, rows // 2)), rows)
        first, second = terms(a, one[taken]), terms(b, two[taken])
        names = sorted(first.keys() & second.keys())
        if not names:
            return Answer(None, why_not="no term can be formed in both")
        import torch

        x, y = (torch.cat([side[name].flatten() for name in names]) for side in (first, second))
        return Answer(float((x @ y) / (x.norm() * y.norm()).clamp_min(1e-30)))


def terms(model: Model, x_ND: Tensor) -> dict[str, Tensor]:
    """The invariant terms of the last layers, standardized; those whose matrices are missing are left out."""
    found: dict[str, Tensor] = {}
    x_ND = x_ND.double()
    for back in range(1, min(LAST_LAYERS, model.n_layers) + 1):
        layer = model.n_layers - back
        parts = {name: matrix.double() for name, matrix in model.grouped(layer).items()}
        if {"q", "k"} <= parts.keys() and parts["q"].shape == parts["k"].shape:
            found[f"a{back}"] = _standard((x_ND @ parts["q"].T) @ (parts["k"] @ x_ND.T))
        if {"v", "o"} <= parts.keys() and parts["v"].shape[0] == parts["o"].shape[1]:
            found[f"b{back}"] = _standard((x_ND @ parts["v"].T) @ (parts["o"].T @ x_ND.T))
        networks = model.networks(layer)
        if len(networks) == 1 and {"gate", "up", "down"} <= networks[0].keys():
            gate, up, down = (networks[0][name].double() for name in ("gate", "up", "down"))
            found[f"f{back}"] = _standard((x_ND @ (gate * up).T) @ (down.T @ x_ND.T))
    return found


def _standard(m_NN: Tensor) -> Tensor:
    return (m_NN - m_NN.mean()) / m_NN.std().clamp_min(1e-30)


METHOD = HuRef("huref", "HuRef invariants, ICS (2024)", "2312.04828, ICS")
