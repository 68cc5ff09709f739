"""Weights where a parent is not among the sources: what it had stays unassigned, and no sibling of it gets that."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.forensics.merge_shop import SIZES, Shop, learned, linear, rounded, tuned
from tests.forensics.tiny_models import llama

from pedigree.forensics.merges.decomposition import Decomposition
from pedigree.forensics.merges.unmerge import unmerge


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("missing"))
    made.models["outsider"] = rounded(llama(19, SIZES))
    return made


def apart(shop: Shop, model: Path, parents: str) -> Decomposition:
    return unmerge(model, [shop.path(p) for p in parents.split()], in_place=True)[0]


def weights(found: Decomposition) -> list[float]:
    return [source.weight for source in found.sources]


def test_half_of_a_missing_sibling_is_nobodys(shop: Shop) -> None:
    found = apart(shop, shop.add("half", linear((0.6, shop["A"]), (0.4, shop["D"]))), "A B C")
    assert (found.verdict, found.recipe) == ("not-explained", None)
    assert weights(found) == pytest.approx([0.6, 0.0, 0.0], abs=0.02)
    assert found.explained.unassigned == pytest.approx(0.4, abs=0.02)
    assert any("unassigned: 0.4" in words for words in found.reasons)


def test_a_sibling_has_nothing_of_its_siblings(shop: Shop) -> None:
    found = apart(shop, shop.add("one-more", tuned(shop["base"], 0.3, 51)), "A B C")
    assert weights(found) == [0.0, 0.0, 0.0]
    assert found.explained.unassigned == 1.0


def test_two_of_three_parents_keep_their_weights_beside_a_decoy(shop: Shop) -> None:
    model = shop.add("two-of-three", linear((0.4, shop["A"]), (0.4, shop["B"]), (0.2, shop["D"])))
    found = apart(shop, model, "A B C")
    assert (found.verdict, found.recipe) == ("merge", None)
    assert weights(found) == pytest.approx([0.4, 0.4, 0.0], abs=0.03)
    assert weights(found)[2] == 0.0
    assert found.explained.unassigned == pytest.approx(0.2, abs=0.05)


def test_a_missing_stranger_leaves_its_part(shop: Shop) -> None:
    shop.models["first"] = learned(shop["base"], 31)
    model = shop.add("with-stranger", linear((0.6, shop["first"]), (0.4, shop["stranger"])))
    found = apart(shop, model, "outsider first")
    assert found.verdict == "not-explained"
    assert weights(found) == pytest.approx([0.0, 0.6], abs=0.01)
    assert found.explained.unassigned == pytest.approx(0.4, abs=0.01)


def test_no_part_is_given_where_no_descent_is_shown(shop: Shop) -> None:
    """What nobody trained shares numbers with what it was mixed into, and cannot be told from its start."""
    found = apart(shop, shop.add("untrained", linear((0.6, shop["A"]), (0.4, shop["stranger"]))), "A outsider")
    assert (found.verdict, weights(found), found.explained.unassigned) == ("not-explained", [0.0, 0.0], 1.0)


def test_training_after_a_merge_beside_a_decoy_leaves_nothing_unassigned(shop: Shop) -> None:
    later = tuned(linear((0.7, shop["A"]), (0.3, shop["B"])), 0.08, 20)
    found = apart(shop, shop.add("later", later), "A B D")
    assert weights(found) == pytest.approx([0.7, 0.3, 0], abs=0.01)
    assert found.explained.unassigned == pytest.approx(0.0, abs=0.02)
    assert found.recipe is not None


def test_an_exact_merge_says_nothing_of_missing_parents(shop: Shop) -> None:
    found = apart(shop, shop.add("whole", linear((0.7, shop["A"]), (0.3, shop["B"]))), "A B")
    assert found.explained.exact
    assert found.explained.unassigned in (None, 0.0)
