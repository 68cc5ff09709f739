"""Sources that were made so that a mixture is read wrongly: copies and near copies of a true parent, a parent that was
made from the child, one with the sign or the size of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.forensics.merge_shop import Shop, linear, rounded, tuned
from tests.forensics.tiny_models import Tensors

from pedigree.forensics.merges.decomposition import Decomposition
from pedigree.forensics.merges.unmerge import unmerge


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    shop.add("child", child(shop))
    return shop


def child(shop: Shop) -> Tensors:
    return rounded(linear((0.6, shop["A"]), (0.4, shop["B"])))


def noisy(tensors: Tensors, share: float) -> Tensors:
    g = torch.Generator().manual_seed(5)
    return {
        n: t + share * t.std() * torch.randn(t.shape, generator=g) if t.ndim == 2 else t for n, t in tensors.items()
    }


CRAFTED = {
    "near a parent": lambda shop: noisy(shop["A"], 0.01),
    "nearer still": lambda shop: noisy(shop["A"], 0.0005),
    "a parent, negated": lambda shop: {n: -t for n, t in shop["A"].items()},
    "a parent, a million times as large": lambda shop: {n: 1e6 * t for n, t in shop["B"].items()},
    "the child with noise": lambda shop: noisy(child(shop), 0.05),
    "the child in a stranger": lambda shop: linear((0.5, child(shop)), (0.5, shop["stranger"])),
}


def weights(found: Decomposition) -> dict[str, float]:
    return {Path(source.location).name: round(source.weight or 0.0, 2) for source in found.sources}


@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_a_crafted_source_beside_the_true_parents_takes_no_weight(name: str, first: bool, shop: Shop) -> None:
    crafted = shop.add(name, CRAFTED[name](shop))
    sources = [shop.path("A"), shop.path("B")]
    found, _, _ = unmerge(shop.folder / "child", [crafted, *sources] if first else [*sources, crafted])
    assert weights(found) == {"A": 0.6, "B": 0.4, name: 0.0}


def test_a_copy_of_a_parent_is_named_as_one(shop: Shop) -> None:
    copy = shop.add("copy", shop["A"])
    found, _, _ = unmerge(shop.folder / "child", [copy, shop.path("A"), shop.path("B")])
    shares = weights(found)
    assert shares.pop("copy") + shares.pop("A") == 0.6
    assert found.warnings == [
        "copy and A are the same in every number that was read: the weight of one stands for both"
    ]


def test_a_source_that_was_made_from_a_trained_merge_is_no_proof_of_who_came_first(shop: Shop) -> None:
    later = tuned(child(shop), 0.2, 9)
    made = shop.add("made", noisy(later, 0.02))
    found, _, _ = unmerge(shop.add("later", later), [shop.path("A"), shop.path("B"), made])
    assert found.verdict == "one-parent"
    assert any("which came first" in words for words in found.also_possible)
