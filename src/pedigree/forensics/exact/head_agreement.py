"""Head agreement: do heads, and rows that positions name, agree in a frame that nobody could choose?

Question  Are heads of B those of A, and its position rows A's, in the frame that vocabulary rows of both give?
Null      B's heads and position rows were drawn independently of A's and of the vocabulary rows of both; the order of
          heads was then chosen to make them agree
Assumes   heads of different places agree as much as heads of one place do when models are independent
Source    variance of tr(M R) over rotations R (Collins and Sniady, math-ph/0402073, first order), union bound over
          orders of heads, Fisher's combination; measured in docs/LOG.md, 2026-11-30
Shapes    H = heads of both models in one order, C = dimensions of a head, K = directions looked through, N = rows

The dimensions of a head may be mixed by any invertible matrix without change of function, values against outputs and
(where no rotary position turns them) queries against keys. The products O V and Q' K, seen as bilinear forms of the
residual stream, are the same afterwards. Agreement of two forms is the cosine of their numbers, the multiple of the
identity that is in them left out: it is the same in every frame, and heads of one layer tend to have it alike in any
model. Pairs of heads that do not belong together show mean and deviation among independent ones. A form holds the
parent twice, so of a fifth of it some twenty-fifth is left in each: it takes many heads. Every order of heads is paid
for, so they are taken in the one in which they agree best (`frames/head_order.py`).

Rows that positions name have no order. With M the sum of a b' over rows, their agreement is tr(M), of variance
|M|^2 / K over rotations of one model against the other, whatever both have in common among themselves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestCard
from pedigree.forensics.exact.tails import LN10, fisher_log10, normal_log10_sf

CARD = TestCard(
    name="head-agreement",
    version=2,
    null="B's heads and position rows are independent of A's and of all vocabulary rows; the order of heads was then "
    "chosen to make them agree",
    assumes="heads that do not belong together show how far independent ones agree",
    source="variance over rotations, union bound over orders of heads, Fisher's combination; docs/guide/methods.md",
    unit="standard score of heads and position rows together",
)

LEAST_HEADS = 8
"""Fewer heads than this, all layers together, are not put to the test."""

NEIGHBORS = 4
"""Layers of B that heads of a layer of A are held against, its own among them."""

Forms = tuple[Tensor, Tensor]
"""Two factors of the forms of a layer, [H, C, K] each: rows of outputs and values, or of queries and keys."""


def forms_score(a: list[Forms], b: list[Forms]) -> float:
    """Standard score of forms in one place, layer after layer, against those that do not belong together.

    Args:
        a, b: forms of the layers of both models in one frame, heads in one order.

    Returns:
        the score; 0 where there are too few heads to tell.
    """
    same, others = [], []
    for number, left in enumerate(a):
        for step in range(min(NEIGHBORS, len(b))):
            cos_HH = cosines(left, b[(number + step) % len(b)])
            if step:
                others.append(cos_HH.flatten())
                continue
            same.append(cos_HH.diagonal())
            others.append(cos_HH[~torch.eye(len(cos_HH), dtype=torch.bool)])
    mine, rest = torch.cat(same), torch.cat(others)
    if len(mine) < LEAST_HEADS or len(rest) < 2 or float(rest.std()) <= 0.0:
        return 0.0
    deviation = float(rest.std()) * math.sqrt(1.0 / len(mine) + 1.0 / len(rest))
    return float(mine.mean() - rest.mean()) / deviation


def cosines(a: Forms, b: Forms) -> Tensor:
    """Cosines of all forms of one layer with those of another; the forms themselves are never made."""
    left, right = (torch.einsum("hck,gdk->hgcd", x.double(), y.double()) for x, y in zip(a, b, strict=True))
    (trace_H, length_H), (trace_G, length_G) = _facts(a), _facts(b)
    product_HG = (left * right).sum((2, 3)) - trace_H[:, None] * trace_G[None, :] / a[0].shape[-1]
    cos_HG: Tensor = product_HG / (length_H[:, None] * length_G[None, :]).clamp_min(1e-30)
    return cos_HG


def _facts(forms: Forms) -> tuple[Tensor, Tensor]:
    """Traces of forms, and their lengths without the part that is a multiple of the identity."""
    first, second = (rows.double() @ rows.double().mT for rows in forms)
    trace_H = (forms[0].double() * forms[1].double()).sum((1, 2))
    square_H = (first * second).sum((1, 2)) - trace_H.square() / forms[0].shape[-1]
    return trace_H, square_H.clamp_min(0.0).sqrt()


def rows_score(a_NK: Tensor, b_NK: Tensor) -> float:
    """Standard score of rows that stand for the same things, over rotations of one model against the other."""
    moment_KK = a_NK.double().T @ b_NK.double()
    length = float(moment_KK.norm())
    return float(moment_KK.trace()) * math.sqrt(len(moment_KK)) / length if length > 0.0 else 0.0


def together(scores: list[float], log10_ps: list[float], choices: float) -> float:
    """log10 p of everything that was seen, the order of heads paid for.

    Args:
        scores: standard scores of kinds of evidence, normal under the null.
        log10_ps: p-values of other kinds.
        choices: natural logarithm of the number of orders that were open.
    """
    found = [normal_log10_sf(score) for score in scores] + log10_ps
    return min(0.0, fisher_log10(found) + choices / LN10)
