"""Fixed points: do units that resemble each other also bear the same number?

Question  A matching of the units of A and B, made without looking at indices, sends unit i to unit i how often?
Null      A's units could have been numbered in any other order, independently of B and of each other's layers
Assumes   random initialization is exchangeable over the units of a layer, and so is training (every
          coordinatewise optimizer; permuting units permutes the trained weights); the matching sees no index
Source    forensics study, section 9.4 a; proof below
Shapes    K = matched pairs, 2 = (unit of A, unit of B)

Proof. Write the matching of one layer as pairs (s(f_t), j_t), s the numbering of A's n units. Under the null s is
uniform on the n! numberings given everything else. A set of k pairs is fixed throughout only if its j_t are k
different numbers below n, and then with probability (n-k)!/n!. When no unit of A, or no unit of B, occurs twice,
at most C(n, k) sets qualify, so E[C(K, k)] <= 1/k!. Nothing asks the matching to be complete or the layers to be
equally wide: for an injection of m <= n units the product is (m)_k / ((n)_k k!), which is smaller still; partial
matchings, child units that are a subset or a superset of the parent's, and many-to-one matches are all covered.
Numberings of different layers are independent, so for the total K over L layers
    E[C(K, j)] <= sum over j_1 + ... + j_L = j of prod 1/j_l! = L^j / j!,
and by Markov P(K >= k) <= L^j / (j! C(k, j)) = L^j (k-j)! / k! for every j <= k. The choice j = k is the
study's L^k / k!; the best choice j = k - L gives L^(k-L) L! / k!, about e^L times smaller: that one is reported.
It does not increase with k and equals one up to k = L, hence is a valid p-value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pedigree.errors import UsageError
from pedigree.forensics.exact.card import TestCard, TestOutcome
from pedigree.forensics.exact.tails import LN10

CARD = TestCard(
    name="fixed-points",
    version=1,
    null="the numbering of A's units is independent of B",
    assumes="initialization and training of A treat the units of a layer alike; layers are numbered independently; "
    "the matching used no index and left ties out",
    source="P(K >= k) <= L^(k-L) L!/k! by factorial moments; forensics study 9.4 a",
    unit="matched units with equal index, summed over layers",
)


def fixed_points(pairs_per_layer: Sequence[Tensor]) -> TestOutcome:
    """Count equal indices in index-free matchings and bound the chance of that many.

    Args:
        pairs_per_layer: one integer tensor pairs_K2 per layer pair, from `mutual_nearest` or `assign` (or
            `best_match`, many to one). Layers without a pair are left out of the count of layers: how many
            units can be matched does not depend on how they are numbered.

    Returns:
        statistic K, n the number of pairs, log10_p an upper bound on log10 P(K or more), valid whatever the widths.

    Raises:
        UsageError: a tensor is not K x 2 of integers.
    """
    for layer, pairs_K2 in enumerate(pairs_per_layer):
        check_pairs(pairs_K2, where=f"layer {layer}")
    filled = [pairs_K2 for pairs_K2 in pairs_per_layer if len(pairs_K2)]
    n = sum(len(pairs_K2) for pairs_K2 in filled)
    if not filled:
        return TestOutcome.not_applicable(CARD, "no unit could be matched without ambiguity")
    if not all(is_one_sided(pairs_K2) for pairs_K2 in filled):
        return TestOutcome.not_applicable(CARD, "the matching repeats units on both sides", n=n)
    per_layer = [int((pairs_K2[:, 0] == pairs_K2[:, 1]).sum()) for pairs_K2 in pairs_per_layer]
    return TestOutcome(
        CARD,
        statistic=float(sum(per_layer)),
        n=n,
        log10_p=fixed_points_log10_p(sum(per_layer), layers=len(filled)),
        extra={"layers": len(filled), "per_layer": per_layer},
    )


def fixed_points_log10_p(k: int, *, layers: int = 1) -> float:
    """log10 of L^(k-L) L!/k!, the bound on the chance of k or more fixed points in L layers; 0 up to k = L."""
    if k <= layers:
        return 0.0
    return min(0.0, ((k - layers) * math.log(layers) + math.lgamma(layers + 1) - math.lgamma(k + 1)) / LN10)


def check_pairs(pairs_K2: Tensor, *, where: str) -> None:
    """Raise UsageError unless the tensor is K x 2 of integers."""
    if pairs_K2.ndim != 2 or pairs_K2.shape[1] != 2 or pairs_K2.is_floating_point():
        raise UsageError(
            "A matching must be a tensor of index pairs",
            where=where,
            got=f"{tuple(pairs_K2.shape)} of {pairs_K2.dtype}",
            expected="(K, 2) of integers",
        )


def is_one_sided(pairs_K2: Tensor) -> bool:
    """Whether no unit of A, or else no unit of B, occurs twice (what the bound needs)."""
    return any(len(set(side_K.tolist())) == len(pairs_K2) for side_K in pairs_K2.T)
