"""AWM (2510.06738): residual coordinates matched on embeddings, then unbiased CKA of query and key matrices.

Columns of the embeddings of shared tokens are matched by absolute cosine (signs from the matched cosines), which undoes
a signed permutation of the residual stream and nothing more. Samples of the CKA are residual coordinates, features are
head dimensions. Layers one to one where the depths agree, by the best assignment of layers otherwise. Scores are raw:
the published z has constants of 7 B models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.matching import assign, cosines, unbiased_cka
from pedigree.benchmark.methods.model import Model, shared_rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Awm(Described):
    """Mean unbiased CKA of Q and K over matched layers."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Align the residual coordinates, then compare layers."""
        import torch

        if a.anatomy.d_model == 0 or b.anatomy.d_model == 0:
            return Answer(None, why_not="no residual width")
        order_a, order_b, sign = coordinates(a, b)
        table = torch.zeros(a.n_layers, b.n_layers, dtype=torch.float64)
        for i in range(a.n_layers):
            for j in range(b.n_layers):
                if a.n_layers != b.n_layers or i == j:
                    table[i, j] = layer_score(a.attention(i), b.attention(j), order_a, order_b, sign)
        if a.n_layers == b.n_layers:
            return Answer(float(table.diagonal().mean()), layer_map=range(a.n_layers))
        rows, columns = assign(table)
        found = {int(j): int(i) for i, j in zip(rows, columns, strict=True)}
        return Answer(float(table[rows, columns].mean()), layer_map=[found.get(j) for j in range(b.n_layers)])


def coordinates(a: Model, b: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Residual coordinates of A, those of B they are matched with, and the sign between them."""
    import torch

    one, two = shared_rows(a, b)
    if not len(one):
        n = min(a.anatomy.d_model, b.anatomy.d_model)
        return torch.arange(n), torch.arange(n), torch.ones(n, dtype=torch.float64)
    cosine = cosines(one.T.contiguous(), two.T.contiguous())
    rows, columns = assign(cosine.abs())
    return torch.tensor(rows), torch.tensor(columns), torch.sign(cosine[rows, columns])


def layer_score(
    one: dict[str, Tensor], two: dict[str, Tensor], order_a: Tensor, order_b: Tensor, sign: Tensor
) -> float:
    """Unbiased CKA of Q and of K, averaged."""
    found = [
        unbiased_cka(one[name].double().T[order_a], two[name].double().T[order_b] * sign[:, None])
        for name in ("q", "k")
        if name in one and name in two
    ]
    return sum(found) / len(found) if found else 0.0


METHOD = Awm("awm", "AWM (2026)", "2510.06738")
