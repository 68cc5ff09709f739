"""Do vocabulary rows of two models bear the same names?

The frame of vocabulary rows (`named_frame.py`) rests on names, and whoever gives single rows the names that suit him
chooses it. But output rows of models of one language stand to each other alike whatever they began as: what follows
what is a fact of the language. So the inner products among output rows of one model are laid beside those of the
other, name by name. No frame takes part. Rows of one kind of token (words with a space before them, parts of words,
digits, marks, capitals, bytes outside ASCII) are alike in any case, and names that change places within a kind leave
that as it is; so what two kinds have in common is taken out on both sides.

Not evidence of kinship: strangers agree as much as relatives do. And no bound: names of 512 rows can be given in
10^1166 ways, and a framer who gives each row the name of one that the language uses alike keeps this agreement, at the
cost of most of his choices (docs/guide/attacks.md).

Shapes: T = shared tokens, G = kinds, D and E = residual widths.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pedigree.forensics.sides.anchors import SharedTokens, read_table
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.side import Side

MOST_TOKENS = 2048
"""Tokens that are looked at."""

ONE_LANGUAGE = 0.7
"""Correlation of inner products from which rows bear the same names. Strangers of one design and of two have 0.90 to
0.95, 20/80 merges beside models of their design 0.78 to 0.96 up to the training that the parents had and 0.63 to 0.80
after three times that; strangers renamed row by row -0.01 to 0.08 (docs/LOG.md, 2026-11-30)."""


def bear_one_naming(a: Side, b: Side, tokens: SharedTokens) -> float:
    """How far output rows of two models stand to each other alike, name by name.

    Args:
        a, b: the two models; of one whose output is tied the input rows are its output rows.
        tokens: tokens that both have, by surface form.

    Returns:
        the correlation of inner products; 0 where there are no rows or no names.
    """
    if a.vocabulary is None or tokens.by != "surface form":
        return 0.0
    chosen = tokens.spread(MOST_TOKENS)
    left, right = (_output_rows(side, rows_T) for side, rows_T in ((a, chosen.a_T), (b, chosen.b_T)))
    if left is None or right is None or len(left) < 2:
        return 0.0
    return naming_agreement(left, right, kinds_of(a.vocabulary.tokens, chosen.a_T))


def naming_agreement(a_TD: Tensor, b_TE: Tensor, kind_T: Tensor) -> float:
    """Correlation of the inner products among rows of one model with those among rows of the other.

    Args:
        a_TD, b_TE: rows side by side.
        kind_T: number of the kind of each token.
    """
    return products_agree(products_beside_kinds(a_TD, kind_T), products_beside_kinds(b_TE, kind_T))


def products_beside_kinds(rows_TD: Tensor, kind_T: Tensor) -> Tensor:
    """Inner products among rows without what two kinds have in common, zeros on the diagonal, [T, T]."""
    member_TG = torch.nn.functional.one_hot(kind_T).double()
    mean_TG = member_TG / member_TG.sum(0).clamp_min(1.0)
    unit = unit_rows(rows_TD - rows_TD.mean(0)).double()
    alike_TT = unit @ unit.T
    alike_TT -= member_TG @ (mean_TG.T @ alike_TT)
    alike_TT -= (alike_TT @ mean_TG) @ member_TG.T
    return alike_TT.fill_diagonal_(0.0)


def products_agree(a_TT: Tensor, b_TT: Tensor) -> float:
    """Correlation of inner products of two models; 0 where one has none."""
    lengths = float(a_TT.norm() * b_TT.norm())
    return float((a_TT * b_TT).sum()) / lengths if lengths > 0.0 else 0.0


def kinds_of(rows: Mapping[bytes, int], row_T: Tensor) -> Tensor:
    """Numbers of the kinds of the tokens that rows stand for."""
    named = {row: _kind(token) for token, row in rows.items()}
    number = {kind: n for n, kind in enumerate(sorted(set(named.values())))}
    return torch.tensor([number[named[int(row)]] for row in row_T], dtype=torch.long)


def _output_rows(side: Side, row_T: Tensor) -> Tensor | None:
    rows_TD = read_table(side.anatomy, "head", row_T)
    return read_table(side.anatomy, "embed", row_T) if rows_TD is None else rows_TD


def _kind(token: bytes) -> tuple[bool, str]:
    """Whether a space comes before, and what the rest is made of."""
    bare = token.strip()
    if not bare:
        what = "space"
    elif max(bare) > 127:
        what = "beyond ASCII"
    elif bare.isdigit():
        what = "digits"
    elif bare.isalpha():
        what = "small letters" if bare.islower() else "capitals"
    else:
        what = "marks"
    return token[:1] == b" ", what
