"""Vocabulary rows agree in place: were they taken over, or only drawn from the same seed?

Models of one seed begin with the same tables wherever the width is the same, whatever their depth and inner width, if
tables are drawn first. Rows agree then although nothing that was learned was handed down. Survival as it is measured on
matrices of the body does not tell: residual coordinates are shared by both tables, so twins learn the same directions
in them, too (docs/LOG.md, 2026-11-30). What tells is

 - copies: the rows are the same but for rounding;
 - the difference: a table that was trained on keeps the strongest directions of the one it came from, so seen from
   there the difference does not take them away. Twins take away, seen from either, what that one has. But a twin that
   was trained much longer, or at a higher rate, hides that: what the short training learned is a small part of what the
   long one did, and both learned it from one language. So the difference also has to be small beside what had been
   learned. This says nothing of a table whose strongest direction is no stronger than chance makes it.

Siblings through a common table look like twins here, and stay open.

Word vectors that were computed (the leading directions of co-occurrence counts) are another matter. Two of them
estimate the same directions of one language, numbered by strength, and come as near to each other as their texts are
long, though nobody has them from anybody. They are known by their coordinates, which stand at right angles.

Shapes: T = shared tokens, D = residual width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pedigree.forensics.descent.additions import WHITE
from pedigree.forensics.descent.survival import SurvivalMeter, learning_of
from pedigree.forensics.sides.linear import singular_values

PRINCIPAL = 0.1
"""Mean square of the correlations between coordinates, over what it is by chance (one over the rows), below which
nobody drew these coordinates: of drawn or trained tables none is below a half."""

TableOrigin = Literal["copy", "descent", "unknown"]

COPY_DISTANCE = 0.02
"""Distance of two tables over the length of one, up to which they are copies; bf16 rounds at 0.002, fp8 at 0.02."""

KEEPS = -0.15
"""Cosine of the difference with the strongest directions above which a table was not drawn on but trained on. Twins of
20 to 700 steps have -0.23 to -0.56 from the better side, children -0.01 to 0.52 (one of ten -0.19)."""

STEP = 0.2
"""Most energy of the difference, over that of what can be seen to be learned. Tables of one seed in models of other
bodies, of 10 to 800 steps: 0.21 and more (508 of 512; the other four are runs of one text in one order that differ in
the start of their queries). A table that was trained on for as long as it had been has more, too, and stays open."""

LEARNED = 1.25
"""The strongest direction over the median one, in units of what chance gives, from which it was learned. Tables that
began alike pass 1.2 about where their difference begins to tell."""


def table_origin(a_TD: Tensor, b_TD: Tensor) -> TableOrigin:
    """Where rows that agree come from.

    Args:
        a_TD, b_TD: centered rows of shared tokens in one frame.

    Returns:
        "copy" for equal rows, "descent" where one was trained on from the other, "unknown" where a shared random start
        is as likely.
    """
    if float((b_TD - a_TD).norm()) <= COPY_DISTANCE * float(a_TD.norm()):
        return "copy"
    for x_TD, y_TD in ((a_TD, b_TD), (b_TD, a_TD)):
        meter = SurvivalMeter()
        meter.add(x_TD, y_TD)
        kept = meter.result()
        learned = _spread(x_TD) >= LEARNED * _spread_by_chance(x_TD)
        if kept is not None and kept.own >= KEEPS and learned and _is_small_step(x_TD, y_TD):
            return "descent"
    return "unknown"


def are_principal_axes(rows_VD: Tensor) -> bool:
    """Whether the coordinates of a whole table are those of a decomposition, which anybody computes from like texts.

    Args:
        rows_VD: all rows, as they are or without their mean.
    """
    for table_VD in (rows_VD, rows_VD - rows_VD.mean(dim=0)):
        columns_VD = table_VD.double() / table_VD.double().norm(dim=0).clamp_min(1e-300)
        width = columns_VD.shape[1]
        beside = float((columns_VD.T @ columns_VD).fill_diagonal_(0.0).square().sum())
        if width > 1 and beside * len(rows_VD) < PRINCIPAL * width * (width - 1):
            return True
    return False


def _is_small_step(a_TD: Tensor, b_TD: Tensor) -> bool:
    """Whether the difference is small beside what the first had learned; noise is, if not learned itself."""
    moved_TD = b_TD - a_TD
    if _learned(moved_TD) < WHITE:
        return True
    return float(moved_TD.square().sum()) <= STEP * _learned(a_TD) * float(a_TD.square().sum())


def _learned(rows_TD: Tensor) -> float:
    """Share of energy that was learned; all of it where there are few directions and nothing beside them."""
    share = learning_of(singular_values(rows_TD), *rows_TD.shape)
    return 1.0 if share is None else share


def _spread(rows_TD: Tensor) -> float:
    """Largest singular value over the median one."""
    values_K = singular_values(rows_TD)
    return float(values_K[0] / values_K[(len(values_K) - 1) // 2].clamp_min(1e-30))


def _spread_by_chance(rows_TD: Tensor) -> float:
    """The same of numbers drawn by chance, whatever their distribution (Marchenko and Pastur)."""
    drawn = torch.randn(rows_TD.shape, generator=torch.Generator().manual_seed(0))
    return _spread(drawn - drawn.mean(dim=0))
