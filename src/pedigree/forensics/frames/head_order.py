"""The order of heads in which two layers agree best.

Heads may be reordered without any change of function, groups as wholes and query heads inside their group. Every such
order is counted and paid for where planes and heads are tested (`carried_planes.py`, `carried_heads.py`), so the best
one may be looked for: it costs nothing more, and a model whose heads were moved agrees as it did before.

How well each query head of one model suits each of the other is an assignment, inside each pair of groups and then of
groups. It is no proof of the best order, nor need it be: any order is among those that were paid for. A plane is turned
as one, its queries and their key alike, so what queries agree in adds to what the key does: a query head suits another
as |key + query|^2 says, the sum over planes.

Shapes: G and H = groups of A and of B, C = planes of a head, V and W = query heads of a group of A and of B (of planes
with their key behind them), N = all query heads, D = width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.exact.plane_agreement import plane_ratios


@dataclass(frozen=True)
class HeadOrder:
    """Heads of B in the order in which they are laid beside A's.

    Attributes:
        group_G: the group of B for each of A.
        query_GV: of that group, the query head for each of A's.
    """

    group_G: Tensor
    query_GV: Tensor

    def planes(self, b_PV2D: Tensor) -> Tensor:
        """B's planes in this order; they run over groups and the planes of their heads, the key last."""
        b_HCV2D = _by_group(b_PV2D, len(self.group_G))
        key_G1 = torch.full((len(self.group_G), 1), self.query_GV.shape[1])
        view_GV = torch.cat([self.query_GV, key_G1], dim=1)
        return torch.cat([b_HCV2D[h][:, view_V] for h, view_V in zip(self.group_G.tolist(), view_GV, strict=True)])

    def heads(self, b_NCD: Tensor) -> Tensor:
        """Rows of all query heads of B in this order."""
        order_GV = self.group_G[:, None] * self.query_GV.shape[1] + self.query_GV
        return b_NCD[order_GV.flatten()]

    @classmethod
    def standing(cls, heads: int, groups: int) -> HeadOrder:
        """The order in which so many query heads of so many groups stand."""
        return cls(torch.arange(groups), torch.arange(heads // groups).expand(groups, -1))


def planes_in_order(a_PV2D: Tensor, b_PV2D: Tensor, groups: int) -> Tensor:
    """B's planes with its heads in the order in which they agree best with A's.

    Args:
        a_PV2D, b_PV2D: planes of a layer of both models in one frame, blocks of length one.
        groups: of heads.

    Returns:
        B's planes, [P, V, 2, D], as they stand where no other order is better.
    """
    suit_GHVW = _suit(_by_group(a_PV2D.double(), groups), _by_group(b_PV2D.double(), groups))
    moved_PV2D = _assigned(suit_GHVW).planes(b_PV2D)
    agree, agree_moved = (float(plane_ratios(a_PV2D, planes).sum()) for planes in (b_PV2D, moved_PV2D))
    return moved_PV2D if agree_moved > agree else b_PV2D


def order_of_forms(suit_NN: Tensor, groups: int) -> HeadOrder:
    """The order in which heads agree best.

    Args:
        suit_NN: how well each query head of A and each of B agree, those of a group one after the other.
        groups: of heads.
    """
    heads = len(suit_NN) // groups
    return _assigned(suit_NN.double().reshape(groups, heads, groups, heads).transpose(1, 2))


def _by_group(b_PV2D: Tensor, groups: int) -> Tensor:
    """Planes that run over groups and the planes of their heads, [G, C, V, 2, D]."""
    return b_PV2D.reshape(groups, -1, *b_PV2D.shape[1:])


def _suit(a_GCV2D: Tensor, b_HCV2D: Tensor) -> Tensor:
    """How well query heads of A and of B agree together with their keys, [G, H, V, W]."""
    turned_HCV2D = torch.stack([b_HCV2D[:, :, :, 1], -b_HCV2D[:, :, :, 0]], dim=3)
    total = torch.zeros(())
    for other_HCV2D in (b_HCV2D, turned_HCV2D):
        key_GHC = torch.einsum("gcid,hcid->ghc", a_GCV2D[:, :, -1], other_HCV2D[:, :, -1])
        query_GHCVW = torch.einsum("gcvid,hcwid->ghcvw", a_GCV2D[:, :, :-1], other_HCV2D[:, :, :-1])
        total = total + (key_GHC[..., None, None] + query_GHCVW).square().sum(dim=2)
    return total


def _assigned(suit_GHVW: Tensor) -> HeadOrder:
    from scipy.optimize import linear_sum_assignment  # most comparisons never come here; it starts slowly

    groups, heads = suit_GHVW.shape[0], suit_GHVW.shape[2]
    query_GHV = torch.zeros(groups, groups, heads, dtype=torch.int64)
    if heads > 1:
        for g in range(groups):
            for h in range(groups):
                query_GHV[g, h] = torch.as_tensor(linear_sum_assignment(suit_GHVW[g, h].numpy(), maximize=True)[1])
    reached_GH = suit_GHVW.gather(3, query_GHV[..., None]).sum((2, 3))
    group_G = torch.as_tensor(linear_sum_assignment(reached_GH.numpy(), maximize=True)[1])
    return HeadOrder(group_G, query_GHV[torch.arange(groups), group_G])
