"""Whether the first model of a family is one, or a child of a first model that is not among the given ones.

Where the first model is missing, its least trained child comes before all others by every pair: a pair knows only who
drifted less. But then the ways from it to all others begin with one and the same way, back to where they parted, and
that way is the false first model's own. It shows in two places:

- in the ways: they have a cosine, beside what like texts teach;
- in the model itself: what it has learned on its own is in its numbers, and missing in all others. A mixture of the
  others lies near to the point where they parted (what each learned apart is averaged out), so that the share of the
  difference from it that belongs to the model (`share`) is larger than in any pair, and has a sign: what the others
  learned alike counts against.

Null   the model came before its children: the share is zero (below it, where training goes on in directions in which
       the model is strong), and their ways have in common what like texts teach.
A model on a grid of few-bit integers was rounded from another one; its children that are on none may have been made
from that.
A child that has nothing in common with the others but chance (the model with noise, rounded, or with an adapter) is
the model's own and no sibling; it tells nothing of the others, and takes no part.
Neither can be told from a child that undid a part of the noise of its parent's last steps (docs/LOG.md, 2026-11-30,
"First models"): so a hidden ancestor is drawn only where a pair says, too, that the model was not before a child.

Shapes  K = children.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pedigree.forensics.comparison.direction import ABSTAIN_BELOW
from pedigree.forensics.trees.ways import Ways

Floats = npt.NDArray[np.float64]

MOST_DOUBT = 0.37
"""Doubt up to which a model counts as the first: true ones of families for development have up to 0.36 (one 0.38),
false ones 0.38 and more."""

PER_ODDS = 0.1
"""Doubt for each unit of log-odds that the least certain child lacks for an arrow."""

NO_SHARE = 0.15
"""Share, two standard errors added, up to which a model has next to nothing of its own, whatever its children learned
alike."""

OWN_SHARE, MOST_ERROR, NOT_BEFORE = 0.1, 0.2, 1.0
"""Share, two standard errors taken off (of so much at the most), from which a model has a way of its own, and log-odds
below which it is not before a child; both together show an ancestor of the two that is not among the models."""

LIKE_SIBLINGS = 1 / 3
"""Part of the cosine that the others have with a sure sibling, from which a model is a sibling, too."""


@dataclass(frozen=True)
class FirstModel:
    """What the ways from a model to its children say of it.

    Attributes:
        share: of the difference from a mixture of the children, what is the model's own.
        error: its standard error.
        cosine: of the ways of two children, in the bulk, mean over pairs.
        least_odds: log-odds that it was before the least certain of its children.
        rounded: whether it was rounded from another model, and its children were not.
        siblings: children that are none, where it is not the first model for sure.
        is_asked: whether there were two trained children at least whose ways could be laid beside each other.
    """

    share: float = 0.0
    error: float = 0.0
    cosine: float = 0.0
    least_odds: float = ABSTAIN_BELOW
    rounded: bool = False
    siblings: list[int] = field(default_factory=list)
    is_asked: bool = False

    @property
    def doubt(self) -> float:
        """What may be the model's own of its way to the others, and what these have in common; see `MOST_DOUBT`."""
        return self.share + self.error / 2 + self.cosine + PER_ODDS * max(0.0, ABSTAIN_BELOW - self.least_odds)

    @property
    def holds(self) -> bool:
        """Whether arrows may begin at it."""
        if self.rounded:
            return False
        return self.share + 2 * self.error <= NO_SHARE or self.doubt <= MOST_DOUBT


def first_model_of(root: int, groups: Sequence[Sequence[int]], ways: Ways, odds_NN: Floats) -> FirstModel:
    """Ask whether a model is the first of a family.

    Args:
        root: the model.
        groups: models right below it, merges left out, each alone; those below one hidden ancestor together: what they
            have in common is that one's, and the model's own part shows in their differences from it all the same.
        ways: of the family.
        odds_NN: log-odds that the first came before the second, if one descends from the other.
    """
    children = [k for group in groups for k in group]
    if ways.is_rounded(root) and not all(ways.is_rounded(k) for k in children):
        return FirstModel(rounded=True)
    changed = [k for k in children if not ways.reshaped(root, k)]
    trained = [k for k in changed if not _stands_alone(root, k, changed, ways)]
    if len(trained) < 2:
        return FirstModel()
    pairs = list(itertools.combinations(sorted(trained), 2))
    share = ways.own_share(root, trained)
    if share is None:
        return FirstModel()
    cosine = {pair: bulk.cosine for pair in pairs if (bulk := ways.in_the_bulk(root, *pair)) is not None}
    together = {pair for group in groups for pair in itertools.combinations(sorted(group), 2)}
    apart = [value for pair, value in cosine.items() if pair not in together]
    mean = float(np.mean(apart or [0.0]))
    least = min(trained, key=lambda k: odds_NN[root, k])
    found = FirstModel(share.of_a, share.error, max(0.0, mean), float(odds_NN[root, least]), is_asked=bool(apart))
    own = found.error <= MOST_ERROR and found.share - 2 * found.error >= OWN_SHARE
    if found.holds or not own or found.least_odds >= NOT_BEFORE or together:
        return found
    with_it = {k: cosine.get((min(least, k), max(least, k)), 0.0) for k in trained if k != least}
    most = max(with_it.values())
    found.siblings.extend([least, *(k for k, value in with_it.items() if value >= LIKE_SIBLINGS * most)])
    return found


def _stands_alone(root: int, k: int, children: Sequence[int], ways: Ways) -> bool:
    """Whether a child has nothing but chance in common with all others."""
    fits = [ways.by_chance(root, k, j) for j in children if j != k]
    return bool(fits) and all(fit is not None and fit[1].is_chance for fit in fits)
