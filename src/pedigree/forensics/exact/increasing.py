"""Longest increasing subsequence: did the units keep their order?

Question  After pruning, widening or insertion the numbers no longer agree; is the order still that of the parent?
Null      A's units (or layers) could have been numbered in any other order, independently of B
Assumes   random initialization is exchangeable over the units, and so is training; the matching sees no index
Source    forensics study, section 9.4 b; proof below
Shapes    K = matched pairs, 2 = (unit of A, unit of B)

Proof. Take m pairs and let N_j count the sets of j pairs that increase strictly in both columns. Under the null a
given set does so with probability at most 1/j! (none if it repeats a unit), so E[N_j] <= C(m, j)/j!. A longest
increasing subsequence of l pairs contains C(l, j) such sets, hence by Markov, for every j <= l,
    P(LIS >= l) <= C(m, j) / (j! C(l, j)).
The study's bound is j = l; the smallest over j is reported. It does not increase with l and never exceeds one
(j = 0), so it is a valid p-value. Partial and many-to-one matchings are covered.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable

from torch import Tensor

from pedigree.forensics.exact.card import TestCard, TestOutcome
from pedigree.forensics.exact.fixed_points import check_pairs
from pedigree.forensics.exact.tails import LN10, log_choose

CARD = TestCard(
    name="increasing-subsequence",
    version=1,
    null="the order of A's units is independent of B",
    assumes="initialization and training of A treat the units alike; the matching used no index and left ties out",
    source="P(LIS >= l) <= min over j of C(m,j)/(j! C(l,j)); forensics study 9.4 b",
    unit="matched units in parental order",
)


def longest_increasing(values: Iterable[int]) -> int:
    """Length of the longest strictly increasing subsequence, by patience sorting in O(n log n)."""
    pile_tops: list[int] = []
    for value in values:
        pile = bisect_left(pile_tops, value)
        if pile == len(pile_tops):
            pile_tops.append(value)
        else:
            pile_tops[pile] = value
    return len(pile_tops)


def increasing_subsequence(pairs_K2: Tensor) -> TestOutcome:
    """How many matched units stand in the same order in both models, and the chance of that many.

    Args:
        pairs_K2: integer index pairs of one layer (or of the layers themselves), from a matching that used no index.

    Returns:
        statistic l, n the number of pairs, log10_p an upper bound on log10 P(LIS >= l).

    Raises:
        UsageError: the tensor is not K x 2 of integers.
    """
    check_pairs(pairs_K2, where="increasing_subsequence")
    m = len(pairs_K2)
    if m == 0:
        return TestOutcome.not_applicable(CARD, "no unit could be matched without ambiguity")
    # Equal first entries run downwards, so that a chain can use only one of them.
    ordered = sorted((int(a), -int(b)) for a, b in pairs_K2.tolist())
    length = longest_increasing(-b for _, b in ordered)
    return TestOutcome(
        CARD,
        statistic=float(length),
        n=m,
        log10_p=increasing_log10_p(m, length),
        extra={"share": length / m, "expected_by_chance": 2.0 * math.sqrt(m)},
    )


def increasing_log10_p(m: int, length: int) -> float:
    """log10 of min over j <= length of C(m,j)/(j! C(length,j)): bounds P(LIS of m exchangeable pairs >= length)."""
    bounds = (log_choose(m, j) - math.lgamma(j + 1) - log_choose(length, j) for j in range(length + 1))
    return min(0.0, min(bounds) / LN10)
