"""Which pairs are asked, and why. The list follows from the members; it is the same for every method.

- each derivative against the root of its family, and merges against the donor too;
- every two independent roots of a split, whatever their design: the strangers;
- derivatives against roots of other families: strangers that were operated on;
- twins of one random start; students that learned from a teacher's predictions;
- siblings: derivatives of one root against each other.

In half of the pairs the descendant stands first. Pairs whose experts are asked for keep the ancestor first.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pedigree.benchmark.families.members import Member, SplitName
from pedigree.benchmark.families.rungs import LADDER
from pedigree.benchmark.families.split import Split
from pedigree.benchmark.families.truth import Known, TruthBook, parents_of

FOREIGN_ROOTS = 2
"""Roots of other families that a derivative is held against."""
FOREIGN_EVERY = 4
"""Every so many derivatives one is held against strangers."""
SIBLING_EVERY = 12
"""Every so many derivatives one is held against the next such one of its family."""


@dataclass(frozen=True)
class Question:
    """One pair with its truth.

    Args:
        split: of both models.
        known: the truth.
    """

    split: SplitName
    known: Known

    @property
    def a(self) -> str:
        """The first model."""
        return self.known.pair.a

    @property
    def b(self) -> str:
        """The second model, the one that is explained."""
        return self.known.pair.b

    @property
    def key(self) -> str:
        """Names of both."""
        return f"{self.a}|{self.b}"


def questions(book: TruthBook, split: Split) -> list[Question]:
    """All questions of a split, each once, relatives first."""
    seen: dict[tuple[str, str], Question] = {}
    for a, b in itertools.chain(_relatives(split), _strangers(book, split), _siblings(split)):
        if (a, b) not in seen and (b, a) not in seen:
            known = book.known(a, b)
            if known.pair.direction != "undetermined" and not known.experts and _is_turned(a, b):
                known = book.known(b, a)
            seen[a, b] = Question(split.name, known)
    return list(seen.values())


def _is_turned(a: str, b: str) -> bool:
    """Whether the descendant stands first: half of the pairs, so that "the first one" is no way to guess directions."""
    return bool(hashlib.sha256(f"{a}|{b}".encode()).digest()[0] & 1)


def _derivatives(split: Split) -> list[Member]:
    return [member for member in split.members if member.rung is not None]


def _relatives(split: Split) -> Iterator[tuple[str, str]]:
    for member in split.members:
        if member.row != "root":
            yield member.family.name, member.name
        if member.rung is not None and member.rung.partner and member.family.donor:
            yield member.family.donor, member.name


def _strangers(book: TruthBook, split: Split) -> Iterator[tuple[str, str]]:
    roots = [member.name for member in split.members if member.row == "root"]
    yield from itertools.combinations(roots, 2)
    for number, member in enumerate(_derivatives(split)[::FOREIGN_EVERY]):
        design = member.family.architecture
        others = [
            root for root in roots
            if root != member.family.name and root.startswith(f"{design}-") and not book.joined(root, member.name)
        ]  # fmt: skip
        for k in range(min(FOREIGN_ROOTS, len(others))):
            yield others[(number + k) % len(others)], member.name


def _siblings(split: Split) -> Iterator[tuple[str, str]]:
    chosen = _derivatives(split)[::SIBLING_EVERY]
    for one, two in itertools.pairwise(chosen):
        if one.family == two.family and one.rung != two.rung:
            yield one.name, two.name


def unmerging(book: TruthBook, split: Split) -> list[tuple[Member, tuple[str, ...], tuple[str, ...]]]:
    """Merges whose weights are known, with their parents and two decoys of the same design."""
    roots = [member for member in split.members if member.row == "root"]
    found: list[tuple[Member, tuple[str, ...], tuple[str, ...]]] = []
    for member in _derivatives(split):
        if member.rung is None or not member.rung.weights or member.distance:
            continue
        parents = member.recipe.parents
        decoys = [
            root.name for root in roots
            if root.name not in parents and root.family.architecture == member.family.architecture
            and root.recipe.sizes == book.members[parents[0]].recipe.sizes
        ]  # fmt: skip
        found.append((member, parents, tuple(decoys[:2])))
    return found


TREE_STEMS = (
    "", ".continued.x0.3", ".continued.x1", ".hot.x1", ".noisy.x0", ".noisy.x0.3", ".quantized.x0", ".quantized.x0.3",
    ".inserted.x0", ".inserted.x0.3",
)  # fmt: skip


def tree(book: TruthBook, split: Split) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Models of one family in which parents and children both stand, a root of another family, and the true edges."""
    named = {member.name for member in split.members}
    homes = [member.family.name for member in split.members if member.family.rungs is LADDER]
    if not homes:
        return (), ()
    home = homes[0]
    stranger = f"{home[:-1]}{int(home[-1]) + 1}"
    names = tuple(name for name in (*(home + stem for stem in TREE_STEMS), stranger) if name in named)
    edges = tuple(
        (names.index(parent), j)
        for j, name in enumerate(names)
        for parent in parents_of(book, name)
        if parent in names
    )  # fmt: skip
    return names, edges
