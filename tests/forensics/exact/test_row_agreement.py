"""Row agreement: level under the null, also for the best pairing that can be found, and what relatives reach."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from tests.forensics.tiny_models import generator
from torch import Tensor

from pedigree.forensics.exact.gram_agreement import log_pairings
from pedigree.forensics.exact.row_agreement import RowMeter


def rows(seed: int, n: int = 96, d: int = 32, crowded: float = 0.0) -> Tensor:
    """Unit rows; `crowded` stretches the first quarter of the directions."""
    g = generator(seed)
    out = torch.randn(n, d, generator=g) * (1.0 + crowded * (torch.arange(d) < d // 4))
    return out / out.norm(dim=1, keepdim=True)


def meter(pairs: list[tuple[Tensor, Tensor]], at_K: Tensor, there_K: Tensor) -> RowMeter:
    out = RowMeter()
    out.units = len(at_K)
    for a_UD, b_WD in pairs:
        out.add(a_UD, b_WD, at_K, there_K)
    return out


def test_a_pairing_that_nobody_chose_keeps_its_level() -> None:
    """Two hundred pairings of independent rows, crowded or not: below one in ten as often as that, or less."""
    p = []
    for seed in range(200):
        a, b = rows(2 * seed, crowded=seed % 3), rows(2 * seed + 1, crowded=seed % 3)
        outcome = meter([(a, b)], torch.arange(40), torch.arange(40)).outcome(0.0)
        assert outcome.log10_p is not None
        p.append(10**outcome.log10_p)
    assert float(np.mean(np.array(p) < 0.1)) < 0.1
    assert max(p) <= 1.0


def test_the_best_pairing_of_strangers_is_paid_for() -> None:
    for seed in range(20):
        views = [(rows(10 * seed + v, crowded=seed % 3), rows(10 * seed + 5 + v, crowded=seed % 3)) for v in range(3)]
        suit_UW = torch.stack([(a @ b.T).square() for a, b in views]).sum(0)
        at, there = linear_sum_assignment(suit_UW.numpy(), maximize=True)
        found = meter(views, torch.from_numpy(at), torch.from_numpy(there))
        choices = log_pairings(96, 96, 96, signed=False)
        outcome = found.outcome(choices)
        assert outcome.log10_p == 0.0
        assert outcome.statistic > 2.0
        assert -outcome.extra["log10_p_given"] < 0.7 * choices / math.log(10)


def test_noisy_copies_are_beyond_any_pairing() -> None:
    first = [rows(v) for v in range(3)]
    views = [(a, torch.nn.functional.normalize(a + 0.1 * torch.randn(a.shape, generator=generator(9)))) for a in first]
    whole = meter(views, torch.arange(96), torch.arange(96)).outcome(log_pairings(96, 96, 96, signed=False))
    assert whole.log10_p is not None
    assert whole.log10_p < -100.0
    turned = [(a, -b) for a, b in views]
    assert (
        meter(turned, torch.arange(96), torch.arange(96)).outcome(0.0).log10_p
        == meter(views, torch.arange(96), torch.arange(96)).outcome(0.0).log10_p
    )


def test_few_units_or_silent_ones_are_not_tested() -> None:
    a = rows(1)
    assert not meter([(a, a)], torch.arange(7), torch.arange(7)).outcome(0.0).applicable
    silent = torch.zeros_like(a)
    assert not meter([(a, silent)], torch.arange(40), torch.arange(40)).outcome(0.0).applicable
