"""Who came first, of every two models of a family: what their pairs say, and what only exact relations do.

Shapes  N = models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pedigree.forensics.comparison.direction import ABSTAIN_BELOW
from pedigree.forensics.trees.strains import Pairs, kinship
from pedigree.forensics.trees.ways import Ways

Floats = npt.NDArray[np.float64]

CHANCE_ODDS = 6.0
"""Log-odds of a model that stands at a right angle to what another has on top of it; see `CommonRows`."""

WORN_ODDS = 6.0
"""Log-odds of a model whose untouched rows are longer."""

CUT_ODDS = 4.0
"""Log-odds of a model that has all numbers of another and more beside them, which are no copies and do write: nobody
adds such parts and leaves everything else to the last digit."""


def all_odds(groups: Sequence[Sequence[int]], pairs: Pairs) -> Floats:
    """Log-odds of every two groups that the first came before the second, if one descends from the other."""
    out = np.zeros((len(groups), len(groups)))
    for x in range(len(groups)):
        for y in range(len(groups)):
            if x != y:
                out[x, y] = pair_odds(groups[x], groups[y], pairs, True)
    return out


def before_most(odds: Floats, k: int) -> float:
    """How much speaks for a model as the first one: no pair counts for more than a decision, so that many sure pairs
    below one model do not outweigh the pair that it has with the model above it."""
    return float(np.clip(odds[k], -ABSTAIN_BELOW, ABSTAIN_BELOW).sum())


def drift_odds(heads: Sequence[int], pairs: Pairs) -> Floats:
    """The same of single models, without structural evidence in favor, which a sibling would have as well.

    Structural evidence against a model that is larger (it has copies, for which the other has no place) stands alone:
    whose the difference is says who came first if one descends from the other, and nothing of two siblings. Of two of
    one size the copies of the other may have parted by training.
    """
    out = np.zeros((len(heads), len(heads)))
    for x, i in enumerate(heads):
        for y, j in enumerate(heads):
            if x != y:
                pair = kinship(pairs, i, j)
                drift = pair.log_odds - max(0.0, pair.structural)
                larger = any(one > two for one, two in zip(*pair.shapes, strict=False))
                out[x, y] = min(drift, pair.structural) if larger and pair.structural <= -ABSTAIN_BELOW else drift
    return out


def told_odds(heads: Sequence[int], odds: Floats, drift: Floats, ways: Ways) -> Floats:
    """What an arrow may rest on: evidence of who came first that a sibling would not have as well.

    A rounded copy is one of the model that it was rounded from and of no sibling of it. A model that was only grown or
    cut has the numbers of the one before it.
    """
    n = len(heads)
    grown_NN = np.array([[x != y and ways.reshaped(x, y) for y in range(n)] for x in range(n)], dtype=np.bool_)
    return np.where(ways.rounded_NN | grown_NN, odds, np.minimum(odds, drift))


def exact_odds(heads: Sequence[int], pairs: Pairs, ways: Ways) -> Floats:
    """What exact relations add to the log-odds: changes that were independent of a model, and parts taken away from one
    that was not changed otherwise."""
    out: Floats = CHANCE_ODDS * ways.first_by_chance()
    for x, i in enumerate(heads):
        for y, j in enumerate(heads):
            if x != y and ways.reshaped(x, y) and kinship(pairs, i, j).structural == 0.0:
                more = [one - two for one, two in zip(ways.shapes[x], ways.shapes[y], strict=False)]
                if min(more) >= 0:
                    out[x, y], out[y, x] = CUT_ODDS, -CUT_ODDS
    return out


def worn_odds(ways: Ways, drift: Floats) -> Floats:
    """What rows that no step touched add to them: the shorter came later if one descends from the other (`worn_rows`).
    Where a pair clearly says the contrary neither is believed: they are no ancestor and descendant, or were changed by
    other means. Children of a model that is not there have such an order, too: so it helps to place a model and takes
    arrows away, gives none by itself, and has no part in the question who is a first model."""
    later = ways.came_later()
    return np.where(later * drift <= -ABSTAIN_BELOW, -drift, WORN_ODDS * later)


def pair_odds(first: Sequence[int], second: Sequence[int], pairs: Pairs, direct: bool) -> float:
    """Log-odds between two groups of equal weights: the pair that says most."""
    found = [kinship(pairs, i, j) for i in first for j in second]
    values = [pair.log_odds if direct else pair.structural for pair in found]
    return max(values, key=abs)
