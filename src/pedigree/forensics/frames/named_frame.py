"""The frame that vocabulary rows give, and whether somebody steered it.

Whoever turns the residual stream of a model turns its vocabulary rows with it, and tokens name them: a frame fitted on
them is no choice of his. But rows of tokens that no text has can be set at will. Set to agree with a victim's in one
frame, they pull the fit there; and he is free to choose a frame in which what is compared agrees as well as the rows
that he has to leave alone, so that these do not contradict it. What gives him away is that few rows have to pull for
all: in a merge every row agrees a little and by the same law, set rows agree much more than the others. So most tokens
have to agree in a frame fitted on others, and agreement may not scatter more than that of rows that agree alike.

Shapes: T = shared tokens, D and E = residual widths, K = directions looked through, N = tables, P = positions.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from pedigree.forensics.sides.anchors import SharedTokens, leading_directions, read_table
from pedigree.forensics.sides.gauge import polar, unit_rows
from pedigree.forensics.sides.side import Side
from pedigree.forensics.units.shared_units import whitened

MOST_TOKENS = 8192
"""Vocabulary rows that take part; the frame of 2,048 coordinates needs no more."""

ROWS_PER_DIRECTION = 4
"""Shared tokens for each coordinate, all tables together, that a frame is fitted on at least."""

LOUD_SHARE = 0.25
"""Share of the width, the leading directions of B's vocabulary rows, that is not looked at: models of one language
agree there. On strangers of the calibration kinds the planes are as independent with a quarter left out as with a
half."""

EVEN_TOKENS = (0.7, 0.85)
"""Share of tokens that have to agree in a frame fitted on others, with one table and with two. In merges of the
calibration kinds 0.73 to 0.79 (one table) and 0.91 to 0.95 (two) of the tokens agree; in strangers of which three of
ten rows were set 0.68 and 0.79 at most, as long as the others were not thought of."""

MOST_SPREAD = 1.25
"""Variance of the agreement of single tokens, that of independent rows being one, beyond which the frame counts as
steered. 0.9 to 1.2 in 20/80 merges of the calibration kinds; 1.28 and more in strangers of which up to three of ten
rows were set, at whatever strength, and which would have been told (docs/LOG.md, 2026-11-30)."""

LOW, WHOLLY, NEARLY_ALL = 0.05, 0.7, 0.99
"""More than that is allowed where tables were handed down and trained on, for rows moved more or less: there nearly all
tokens agree, and the agreement of the first share of them, the least alike, is at least the second of the median. 0.79
and more in children trained up to three times as long as their parents, 0.25 to 0.65 where half to nine of ten rows
were set."""

FOLDS = 10

Tables = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Evenness:
    """How tokens agree in a frame that was fitted on others.

    Attributes:
        share: of tokens that agree, all tables together.
        spread: variance of the agreement of single rows over that of independent ones.
        low: agreement of the tokens that are the least alike (`LOW`) over that of the median one.
    """

    share: float
    spread: float
    low: float

    def steered(self, least: float) -> bool:
        """Whether the frame may be that of a few rows."""
        whole = self.share >= NEARLY_ALL and self.low >= WHOLLY
        return self.share < least or (self.spread > MOST_SPREAD and not whole)


def tables_of(a: Side, b: Side, tokens: SharedTokens) -> Tables:
    """Centered rows of the tokens that both have, one pair for each table; none where they are too few for a frame."""
    chosen = tokens.spread(MOST_TOKENS)
    found = []
    for role in ("embed", "head"):
        left, right = read_table(a.anatomy, role, chosen.a_T), read_table(b.anatomy, role, chosen.b_T)
        if left is not None and right is not None and len(left):
            found.append((left - left.mean(0), right - right.mean(0)))
    enough = bool(found) and len(found) * len(found[0][0]) >= ROWS_PER_DIRECTION * max(a.width, b.width)
    return found if enough else []


def turned(tables: Tables) -> Tables:
    """The same seen from the other model."""
    return [(right, left) for left, right in tables]


def frame_of(tables: Tables) -> tuple[Tensor, Tensor]:
    """Map from the first model's frame to directions of the second that are looked through, [D, K]; these, [E, K]."""
    x_TD, y_TK, lens_EK = _rows(tables)
    return polar(x_TD.T @ y_TK).double(), lens_EK.double()


KNEE = 0.5
"""Singular value of the fit, over the largest, at which a direction counts by 0.7 of what the surest count."""


HALFWAY = 0.5
"""How far rows of the model that may be the parent are whitened for the sure frame. What is left of a parent is a share
of its rows as they are, beside rows of another model: long directions hold more of it. Wholly whitened 5.2 and 9.5 are
the mean scores of heads in merges (gpt2, gpt_neox), halfway 5.7 and 9.9; not at all 6.0 and 9.4, but strangers of one
language come to 0.8 there (docs/LOG.md, 2026-11-30)."""


def sure_frame(tables: Tables) -> tuple[Tensor, Tensor]:
    """The same with its directions by how sure they are, [D, K] and [E, K]: where a fifth is left, half are guesses."""
    x_TD, y_TK, lens_EK = _rows(tables, HALFWAY)
    left_DK, values_K, right_KK = torch.linalg.svd((x_TD.T @ y_TK).double(), full_matrices=False)
    share_K = values_K / values_K[0].clamp_min(1e-300)
    root_K = (share_K / (share_K.square() + KNEE**2).sqrt()).sqrt()
    return left_DK * root_K, lens_EK.double() @ (right_KK.T * root_K)


def evenness(tables: Tables, more: tuple[Tensor, Tensor] | None = None) -> Evenness:
    """How tokens agree in a frame fitted on nine tenths of the others; the mean of both ways to look.

    Args:
        tables: as `tables_of` gives them.
        more: other rows of both models that are named, [P, D] and [P, E], which take part in every fit.
    """
    ways = [_even(tables, more), _even(turned(tables), None if more is None else (more[1], more[0]))]
    return Evenness(*(sum(numbers) / 2 for numbers in zip(*map(astuple, ways), strict=True)))


MORE_WEIGHT = 2.0
"""How often rows that help in the fit count against those of tokens."""


def _even(tables: Tables, more: tuple[Tensor, Tensor] | None) -> Evenness:
    x_TD, y_TK, lens_EK = _rows(tables)
    x_NTD, y_NTK = (rows.reshape(len(tables), -1, rows.shape[1]) for rows in (x_TD, y_TK))
    fixed_DK = torch.zeros(x_TD.shape[1], y_TK.shape[1])
    if more is not None:
        fixed_DK = MORE_WEIGHT * unit_rows(whitened(more[0])).T @ (unit_rows(whitened(more[1])) @ lens_EK)
    fold_T = torch.randperm(x_NTD.shape[1], generator=torch.Generator().manual_seed(0)) % FOLDS
    along_NT, cosine_NT = torch.zeros(x_NTD.shape[:2]), torch.zeros(x_NTD.shape[:2])
    chance = 0.0
    for fold in range(FOLDS):
        out_T = fold_T == fold
        frame_DK = polar(torch.einsum("ntd,ntk->dk", x_NTD[:, ~out_T], y_NTK[:, ~out_T]) + fixed_DK)
        seen_NTK = x_NTD[:, out_T] @ frame_DK
        along_NT[:, out_T] = (seen_NTK * y_NTK[:, out_T]).sum(2)
        length_NT = seen_NTK.norm(dim=2) * y_NTK[:, out_T].norm(dim=2)
        cosine_NT[:, out_T] = along_NT[:, out_T] / length_NT.clamp_min(1e-30)
        chance += float(length_NT.square().sum()) / y_TK.shape[1]
    spread = float(along_NT.var(dim=1).mean()) / max(chance / along_NT.numel(), 1e-30)
    low, middle = (float(cosine_NT.mean(0).quantile(share)) for share in (LOW, 0.5))
    return Evenness(float((along_NT.sum(0) > 0.0).double().mean()), spread, low / max(middle, 1e-30))


def _rows(tables: Tables, part: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Whitened rows of all tables (of the first model by so much), those of the second model as they are looked at, and
    the directions for that."""
    bare_TE = torch.cat([right / right.norm().clamp_min(1e-30) for _, right in tables])
    width = bare_TE.shape[1]
    lens_EK = _outside(leading_directions(bare_TE, max(1, round(LOUD_SHARE * width))))
    x_TD = torch.cat([unit_rows(whitened(left, part)) for left, _ in tables])
    y_TK = torch.cat([unit_rows(whitened(right)) for _, right in tables]) @ lens_EK
    return x_TD, y_TK, lens_EK


def _outside(loud_KE: Tensor) -> Tensor:
    """Orthonormal directions outside of given ones, as columns."""
    whole_EE: Tensor = torch.linalg.qr(loud_KE.T.double(), mode="complete")[0]
    return whole_EE[:, loud_KE.shape[0] :].float()
