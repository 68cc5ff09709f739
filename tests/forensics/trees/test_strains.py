"""Families and hybrids where a disguise hides one of two relations, and hybrids of the same parents."""

from __future__ import annotations

import itertools

import numpy as np

from pedigree.forensics.trees.kinship import Kinship
from pedigree.forensics.trees.strains import split
from pedigree.forensics.trees.tree_merges import first_hand
from pedigree.forensics.trees.ways import Ways
from pedigree.records.comparison import Verdict

SHAPE = (4, 128, 64, 32, 0)


def kin(distance2: float, log_odds: float = 0.0, verdict: Verdict = "related") -> Kinship:
    return Kinship(verdict, log_odds, distance2=distance2, matched=1000, lengths=(1.0, 1.0), shapes=(SHAPE, SHAPE))


def two_families(hidden: Kinship, to_other: Verdict) -> dict[tuple[int, int], Kinship]:
    """0 and 1 of one family, 2 and 3 of another, 4 a merge of 0 and 2; 5, related to 0 and to the merge (`hidden`), and
    `to_other` to the other family."""
    pairs = {pair: Kinship("unrelated") for pair in itertools.combinations(range(6), 2)}
    pairs |= {(0, 1): kin(0.1, 4.0), (2, 3): kin(0.1, 4.0), (0, 4): kin(0.2), (2, 4): kin(1.2)}
    pairs |= {(1, 4): kin(0.3), (3, 4): kin(1.3), (0, 5): kin(0.3, 1.0), (4, 5): hidden}
    return pairs | {(2, 5): Kinship(to_other), (3, 5): Kinship(to_other)}


def test_a_copy_of_a_hybrid_is_one_though_a_disguise_hides_its_minor_parent() -> None:
    strains = split(6, two_families(kin(1e-9), "inconclusive"))
    assert (strains.families, strains.hybrids) == ([[0, 1], [2, 3]], [[4, 5]])


def test_what_descends_from_a_disguised_hybrid_is_one_where_the_other_family_is_not_told_apart() -> None:
    assert split(6, two_families(kin(0.1, 2.0), "inconclusive")).hybrids == [[4, 5]]


def test_a_child_of_a_parent_of_a_hybrid_stays_in_its_family() -> None:
    for hidden, to_other in ((kin(0.1, 2.0), "unrelated"), (kin(0.5, 2.0), "inconclusive")):
        strains = split(6, two_families(hidden, to_other))
        assert (strains.families, strains.hybrids) == ([[0, 1, 5], [2, 3]], [[4]])


def test_every_hybrid_that_its_parents_explain_number_by_number_was_merged_by_itself() -> None:
    """Three merges of the same strangers are nearer to each other than to any parent."""
    pairs = {pair: kin(0.6) for pair in itertools.product((0, 1), (2, 3, 4))}
    pairs |= {pair: kin(0.01) for pair in itertools.combinations((2, 3, 4), 2)}
    heads, odds = [2, 3, 4], np.array([[0.0, 1.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, -1.0, 0.0]])
    ways = Ways.of(np.full((3, 3), 0.01))
    assert first_hand(heads, [0, 1], ways, odds, pairs) == [0]
    assert first_hand(heads, [0, 1], ways, odds, pairs, exact=[1, 2]) == [1, 2]
