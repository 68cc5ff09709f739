"""Head agreement: its p-value on independent heads and rows, what cannot change it, and what it sees."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pedigree.forensics.exact.head_agreement import LEAST_HEADS, Forms, forms_score, rows_score, together
from pedigree.forensics.exact.tails import normal_log10_sf
from pedigree.forensics.sides.linear import thin_qr

LEVELS = (0.5, 0.25, 0.1, 0.05, 0.01)


def heads(layers: int, count: int, size: int, width: int, seed: int, uneven: float = 0.0) -> list[Forms]:
    """Forms of heads drawn at random; `uneven` makes directions more common than others."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(1, width + 1).double() ** -uneven

    def rows() -> Tensor:
        return torch.randn(count, size, width, generator=generator, dtype=torch.float64) * lengths

    return [(rows(), rows()) for _ in range(layers)]


def waves(count: int, width: int, seed: int, common: float) -> Tensor:
    """Rows that follow each other smoothly in some directions, the more so the larger `common` is."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, width, generator=generator, dtype=torch.float64)
    place = torch.arange(count).double()[:, None] / count
    smooth = torch.cat([torch.cos(math.pi * k * place) for k in range(1, 5)], dim=1)
    return own + common * smooth @ torch.randn(4, width, generator=generator, dtype=torch.float64)


def turn(width: int, seed: int) -> Tensor:
    return thin_qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def check_level(scores: list[float]) -> None:
    for level in LEVELS:
        share = sum(normal_log10_sf(score) <= math.log10(level) for score in scores) / len(scores)
        assert share <= level + 3.0 * math.sqrt(level * (1.0 - level) / len(scores)), level
    assert max(scores) < 4.5


@pytest.mark.parametrize(
    ("layers", "count", "size", "width", "uneven"), [(4, 4, 4, 24, 0.0), (3, 4, 2, 16, 0.3), (2, 4, 6, 12, 0.0)]
)
def test_independent_heads_are_rejected_no_more_often_than_the_level_says(
    layers: int, count: int, size: int, width: int, uneven: float
) -> None:
    sides = [[heads(layers, count, size, width, 2 * k + side, uneven) for side in (0, 1)] for k in range(300)]
    check_level([forms_score(a, b) for a, b in sides])


@pytest.mark.parametrize(("count", "width", "common"), [(64, 24, 0.0), (64, 24, 2.0), (200, 16, 5.0)])
def test_independent_rows_are_rejected_no_more_often_than_the_level_says(count: int, width: int, common: float) -> None:
    """Rows may have a common course along the positions, as long as its directions are not those of the other model."""
    check_level([
        rows_score(waves(count, width, 2 * k, common), waves(count, width, 2 * k + 1, common)) for k in range(400)
    ])  # fmt: skip


def test_mixing_the_dimensions_of_heads_changes_nothing() -> None:
    """Values against outputs, by any invertible matrix; and both models turned together."""
    a, b = heads(3, 4, 4, 24, 0), heads(3, 4, 4, 24, 1)
    b = [(x + 0.5 * p, y + 0.5 * q) for (x, y), (p, q) in zip(b, a, strict=True)]
    plain = forms_score(a, b)
    assert plain > 5.0
    generator = torch.Generator().manual_seed(2)
    mixed = []
    for left, right in b:
        mix = torch.randn(4, 4, 4, generator=generator, dtype=torch.float64) + 2.0 * torch.eye(4, dtype=torch.float64)
        mixed.append((mix.mT @ left, torch.linalg.inv(mix) @ right))
    assert forms_score(a, mixed) == pytest.approx(plain, rel=1e-9)
    turned = [[tuple(rows @ turn(24, 3) for rows in forms) for forms in side] for side in (a, b)]
    assert forms_score(*turned) == pytest.approx(plain, rel=1e-9)  # type: ignore[arg-type]
    rows = waves(64, 24, 0, 1.0), waves(64, 24, 1, 1.0)
    assert rows_score(rows[0] @ turn(24, 3), rows[1] @ turn(24, 3)) == pytest.approx(rows_score(*rows), rel=1e-9)


def test_the_order_of_heads_is_paid_for() -> None:
    """The best order of independent heads of four layers stays below what orders cost."""
    orders = list(itertools.permutations(range(4)))
    for seed in range(10):
        a, b = heads(4, 4, 4, 24, 2 * seed), heads(4, 4, 4, 24, 2 * seed + 1)
        chosen = []
        for place, (left, right) in enumerate(b):
            alone = [[a[place], *a[:place], *a[place + 1 :]], b[:place] + b[place + 1 :]]

            def score(
                order: tuple[int, ...], x: Tensor = left, y: Tensor = right, rest: list[list[Forms]] = alone
            ) -> float:
                return forms_score(rest[0][:4], [(x[list(order)], y[list(order)]), *rest[1]])

            best = max(orders, key=score)
            chosen.append((left[list(best)], right[list(best)]))
        assert together([forms_score(a, chosen)], [], 4 * math.lgamma(5)) > -3.0


def test_too_few_heads_say_nothing() -> None:
    few = heads(1, LEAST_HEADS - 1, 4, 16, 0)
    assert forms_score(few, few) == 0.0
    assert rows_score(torch.zeros(8, 4), torch.ones(8, 4)) == 0.0


def test_evidence_is_combined_and_choices_count() -> None:
    alone, both = together([6.0], [], 0.0), together([6.0, 6.0], [], 0.0)
    assert both < alone < -8.0
    assert together([6.0], [-3.0], math.log(10.0) * 2.0) == pytest.approx(together([6.0], [-3.0], 0.0) + 2.0)
    assert together([-1.0, 0.0], [0.0], 0.0) > -1.0
