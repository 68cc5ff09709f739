"""Planes of queries and keys brought beside each other: heads in one order, planes turned by one angle.

A rotary plane may be turned, queries and key alike, and heads stand in any order; both leave the function. To follow
learned directions through matrices they are brought back. Where no position turns planes nothing is gained or lost: an
angle is one number for each plane, and a plane has two for each coordinate of queries and of keys. But there whoever
likes may give a head any other basis; then a plane of one model is spread over all planes of the other, side by side
they look dead, and nothing is brought back.

Shapes: G and H = heads of A and of B, P = planes of a head, W = width, U = 2 G P rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pedigree.forensics.sides.views import UnitSet

STANDING_SHARE = 0.5
"""Share of planes of a layer that have to be nearest to the one in their place. Of heads of eight planes in another
basis a sixth are, and 0.38 at most in 90 draws; of planes that agree at a cosine of a quarter 0.44 at least."""


def planes_side_by_side(a: UnitSet, b: UnitSet) -> list[tuple[Tensor, Tensor]]:
    """Rows of A and of B, [G P, 2 W] for each projection, B's in A's order and at A's angles; none where shapes differ,
    or where planes do not stand where they stood in their heads.

    Args:
        a, b: query/key dimensions of two layers in one frame, of each head first the first dimensions of all planes,
            then the second ones.
    """
    heads = len(torch.unique(a.label_U))
    names = [name for name in a.names if name in b.names]
    if a.count != b.count or heads != len(torch.unique(b.label_U)) or not names or a.count % (2 * heads):
        return []
    planes = {name: (_planes(a.rows(name), heads), _planes(b.rows(name), heads)) for name in names}
    suit_GHP = torch.zeros(heads, heads, a.count // (2 * heads), dtype=torch.complex128)
    for a_GPW, b_HPW in planes.values():
        suit_GHP += torch.einsum("gpw,hpw->ghp", _to_unit(a_GPW).conj(), _to_unit(b_HPW))
    from scipy.optimize import linear_sum_assignment

    order_G = torch.from_numpy(linear_sum_assignment(suit_GHP.abs().sum(2).numpy(), maximize=True)[1])
    if _standing_share([(a_GPW, b_HPW[order_G]) for a_GPW, b_HPW in planes.values()]) < STANDING_SHARE:
        return []
    angle_GP = torch.sgn(suit_GHP[torch.arange(heads), order_G]).conj()
    return [(_rows(a_GPW), _rows(b_HPW[order_G] * angle_GP[..., None])) for a_GPW, b_HPW in planes.values()]


def _standing_share(planes: list[tuple[Tensor, Tensor]]) -> float:
    """Share of planes whose nearest in their head is the one in their place; heads in one order, [G, P, W] complex."""
    near = [torch.einsum("gpw,gqw->gpq", _to_unit(a_GPW).conj(), _to_unit(b_GPW)).abs() for a_GPW, b_GPW in planes]
    near_GPP = torch.stack(near).sum(dim=0)
    return float((near_GPP.argmax(dim=2) == torch.arange(near_GPP.shape[2])).double().mean())


def _planes(rows_UW: Tensor, heads: int) -> Tensor:
    """Planes as complex numbers, [H, P, W]."""
    first_HPW, second_HPW = rows_UW.double().reshape(heads, 2, -1, rows_UW.shape[1]).unbind(1)
    return torch.complex(first_HPW, second_HPW)


def _to_unit(planes: Tensor) -> Tensor:
    unit: Tensor = planes / planes.norm(dim=2, keepdim=True).clamp_min(1e-30)
    return unit


def _rows(planes_GPW: Tensor) -> Tensor:
    return torch.cat([planes_GPW.real, planes_GPW.imag], dim=2).flatten(0, 1).float()
