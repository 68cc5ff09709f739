"""Sign flips: do blocks of weights that could have had either sign agree in sign?

Question  Blocks (FFN units, V/O dimensions, RoPE planes, residual coordinates) whose sign is free at birth and stays
          free through training: do their inner products with B lean to the positive side?
Null      the signs of A's blocks are fair coins, independent of B and of each other
Assumes   initialization of A is symmetric under the flips and its training commutes with them (all coordinatewise
          optimizers; bit-exact in floating point). Not for FFN units without a gate, nor for the residual
          coordinates of models with LayerNorm. Families lie on disjoint tensors
Source    forensics study, section 9.4 c; Hoeffding 1963
Shapes    R = rows, C = columns, N = blocks

Given all magnitudes, S = sum a_b is a sum of independent fair signs times |a_b|, so by Hoeffding
    P(S >= s) <= exp(-s^2 / (2 sum a_b^2)),  s > 0.
The test is one-sided: a negative association is no descent; it is reported as z < 0 with p = 1 beside the two-sided
bound. Families on disjoint tensors, each super-uniform given the others' signs, may be combined by Fisher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.forensics.exact.card import TestCard, TestOutcome
from pedigree.forensics.exact.tails import LN10, fisher_log10

CARD = TestCard(
    name="sign-flip",
    version=1,
    null="the signs of A's blocks are fair coins, independent of B",
    assumes="initialization of A is symmetric under flipping a block and training commutes with it; families of "
    "blocks lie on disjoint tensors",
    source="Hoeffding's inequality for Rademacher sums, Fisher over families; forensics study 9.4 c",
    unit="z of the strongest family, sum a_b / sqrt(sum a_b^2)",
)

ENTRIES_AT_ONCE = 1 << 22  # entries of a slab; keeps the float64 product of two embeddings small


@dataclass(frozen=True, slots=True)
class FamilyFlip:
    """The sign-flip test of one family: z, log10 of the one-sided and the two-sided bound, informative blocks,
    blocks left out because a product was zero or not finite."""

    z: float
    log10_p: float
    log10_p_two_sided: float
    n: int
    n_dropped: int


def block_products(a_RC: Tensor, b_RC: Tensor, axis: int) -> Tensor:
    """Inner product of each block of A with the same block of B.

    Args:
        a_RC, b_RC: matrices of one role on a shared index set, same shape (slice before calling when widths differ).
        axis: 0 when rows are blocks, 1 when columns are.

    Returns:
        float64 tensor with one product per block, on the device of A. Products of several tensors of one family
        are to be added up by the caller before testing.

    Raises:
        UsageError: shapes differ, the tensors are not matrices, or the axis is neither 0 nor 1.
    """
    if a_RC.ndim != 2 or a_RC.shape != b_RC.shape:
        raise UsageError("Two matrices of one shape are needed", got=f"{tuple(a_RC.shape)} and {tuple(b_RC.shape)}")
    if axis not in (0, 1):
        raise UsageError("Blocks are rows or columns", got=f"axis {axis}", expected="0 or 1")
    step = max(1, ENTRIES_AT_ONCE // max(1, a_RC.shape[1]))
    parts = [
        (a_RC[start : start + step].double() * b_RC[start : start + step].double()).sum(1 - axis)
        for start in range(0, len(a_RC), step)
    ]
    if not parts:
        return torch.zeros(a_RC.shape[axis], dtype=torch.float64, device=a_RC.device)
    return torch.cat(parts) if axis == 0 else torch.stack(parts).sum(0)


def family_flip(products_N: Tensor) -> FamilyFlip | None:
    """The sign-flip test of one family of blocks.

    Args:
        products_N: one inner product per block, over all layers and tensors of the family.

    Returns:
        the result, or None where no block carries a nonzero finite product.
    """
    flat_N = products_N.detach().double().flatten()
    live_N = flat_N[torch.isfinite(flat_N) & (flat_N != 0)]
    if not len(live_N):
        return None
    live_N = live_N / live_N.abs().max()  # the statistic is scale-free; this keeps squares clear of underflow
    z = float(live_N.sum() / live_N.square().sum().sqrt())
    log10_tail = -z * z / (2.0 * LN10)
    return FamilyFlip(
        z=z,
        log10_p=log10_tail if z > 0 else 0.0,
        log10_p_two_sided=min(0.0, math.log10(2.0) + log10_tail),
        n=len(live_N),
        n_dropped=len(flat_N) - len(live_N),
    )


def sign_flip(products: Mapping[str, Tensor]) -> TestOutcome:
    """Test every family of blocks and combine the families.

    Args:
        products: family name ("ffn", "vo", "planes", "residual") to the inner products of its blocks. No tensor
            of the model may contribute to two families, or Fisher's combination would count it twice.

    Returns:
        statistic the largest z of any family (for the eye: the p-value is Fisher's, over all of them); n the number
        of informative blocks; extra["families"] the numbers of each family, `why_not` for the ones left out.
    """
    tested = {family: result for family, value in products.items() if (result := family_flip(value)) is not None}
    left_out = {family: "no block with a nonzero, finite product" for family in products if family not in tested}
    extra = {"families": {family: asdict(result) for family, result in tested.items()}, "left_out": left_out}
    if not tested:
        return TestOutcome.not_applicable(CARD, "no family has a block with a nonzero, finite product", extra=extra)
    return TestOutcome(
        CARD,
        statistic=max(result.z for result in tested.values()),
        n=sum(result.n for result in tested.values()),
        log10_p=fisher_log10(result.log10_p for result in tested.values()),
        extra=extra,
    )
