"""The best order of heads: it is found, it is no worse than the one that stands, and it is paid for.

Shapes: G = groups of heads, C = planes of a head, V = query heads of a group and their key, D = width.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pedigree.forensics.exact.head_agreement import NEIGHBORS, cosines, forms_score
from pedigree.forensics.exact.plane_agreement import PlaneMeter, plane_ratios
from pedigree.forensics.exact.tails import LN10, normal_log10_sf
from pedigree.forensics.frames.head_order import order_of_forms, planes_in_order

FORMS = [(2, 4, 3, 48), (4, 4, 2, 48), (1, 8, 6, 32), (4, 3, 5, 24)]
"""Groups, planes, rows of a plane, width."""


def planes(groups: int, count: int, views: int, width: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(groups, count, views, 2, width, generator=generator, dtype=torch.float64)
    unit: Tensor = drawn / drawn.norm(dim=(3, 4), keepdim=True)
    return unit


def moved(b_GCV2D: Tensor, generator: torch.Generator) -> Tensor:
    """Groups, and query heads inside each of them, in another order."""
    heads = b_GCV2D.shape[2] - 1
    out = []
    for g in torch.randperm(len(b_GCV2D), generator=generator).tolist():
        order_V = [*torch.randperm(heads, generator=generator).tolist(), heads]
        out.append(b_GCV2D[g][:, order_V])
    return torch.stack(out)


@pytest.mark.parametrize("form", FORMS)
def test_heads_that_were_moved_are_laid_side_by_side_again(form: tuple[int, int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    for share in (0.6, 1.0):
        a = planes(*form, generator)
        b = share * a + (1.0 - share) * planes(*form, generator)
        found = planes_in_order(a.flatten(0, 1), moved(b, generator).flatten(0, 1), form[0])
        assert torch.equal(found, b.flatten(0, 1))


def test_the_order_that_stands_is_kept_where_no_other_is_better() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        a, b = (planes(4, 2, 3, 24, generator).flatten(0, 1) for _ in range(2))
        found = planes_in_order(a, b, 4)
        assert float(plane_ratios(a, found).mean()) >= float(plane_ratios(a, b).mean())


@pytest.mark.parametrize("form", FORMS)
def test_orders_chosen_for_independent_planes_are_no_rarer_than_their_p_value(form: tuple[int, int, int, int]) -> None:
    """Three layers of independent planes, the order of each chosen to make them agree, and every order paid for."""
    generator = torch.Generator().manual_seed(2)
    groups, heads = form[0], form[2] - 1
    choices = 3 * (math.lgamma(groups + 1) + groups * math.lgamma(heads + 1))
    plain, paid = [], []
    for _ in range(100):
        meters = PlaneMeter(), PlaneMeter()
        for _ in range(3):
            a, b = (planes(*form, generator).flatten(0, 1) for _ in range(2))
            meters[0].add(a, b)
            meters[1].add(a, planes_in_order(a, b, groups))
        one, best = (meter.log10_tail() for meter in meters)
        assert one is not None
        assert best is not None
        plain.append(one)
        paid.append(best + choices / LN10)
    for level in (0.5, 0.25, 0.1, 0.05):
        most = level + 3.0 * math.sqrt(level * (1.0 - level) / len(paid))
        assert sum(p <= math.log10(level) for p in plain) / len(plain) <= most
        assert sum(p <= math.log10(level) for p in paid) / len(paid) <= most
    assert min(paid) > -3.0


@pytest.mark.parametrize(("heads", "groups", "layers"), [(4, 4, NEIGHBORS), (8, 2, NEIGHBORS), (4, 1, 6)])
def test_orders_chosen_for_independent_heads_are_no_rarer_than_their_p_value(
    heads: int, groups: int, layers: int
) -> None:
    """Heads that do not belong together are the measure: choosing takes the best of them away, but few."""
    generator = torch.Generator().manual_seed(3)
    choices = layers * (math.lgamma(groups + 1) + groups * math.lgamma(heads // groups + 1))
    paid = []
    for _ in range(150):
        drawn = torch.randn(2, layers, 2, heads, 6, 24, generator=generator, dtype=torch.float64)
        left, right = ([(forms[0], forms[1]) for forms in side] for side in drawn)
        orders = [order_of_forms(cosines(x, y), groups) for x, y in zip(left, right, strict=True)]
        moved = [(o.heads(x), o.heads(y)) for o, (x, y) in zip(orders, right, strict=True)]
        score = forms_score(left, moved)
        assert score >= forms_score(left, right)
        paid.append(normal_log10_sf(score) + choices / LN10)
    for level in (0.5, 0.25, 0.1, 0.05):
        assert sum(p <= math.log10(level) for p in paid) / len(paid) <= level + 3.0 * math.sqrt(level / len(paid))
    assert min(paid) > -3.0
