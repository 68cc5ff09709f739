"""Random families: both looks are scored against the truth of their seeds, whole and with ancestors left out."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tests.experiments.scripts import script

from pedigree.benchmark.families.sizes import scale_of
from pedigree.benchmark.zoo.random_family import Family, random_family
from pedigree.forensics.trees.kinship import Kinship

trees = script("trees")
SEED = 2


@pytest.fixture(scope="module")
def family() -> Family:
    return random_family(scale_of("pico"), SEED)


def pairs(family: Family) -> dict[tuple[str, str], Kinship]:
    """What a comparison would say that sees families and nothing else."""

    def starts(name: str) -> set[str]:
        above = family.recipes[name].parents
        return {name} if not above else set().union(*(starts(parent) for parent in above))

    related = {(a, b): bool(starts(a) & starts(b)) for a in family.order for b in family.order if a < b}
    return {
        pair: Kinship("related", 0.0, 0.0, 0.1, 1.0, None, 100, (1.0, 1.0)) if kin else Kinship("unrelated")
        for pair, kin in related.items()
    }


def test_a_look_counts_what_a_tree_got_wrong(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "common_rows", lambda *a, **k: None)
    whole = trees.look(family, "pico", SEED, pairs(family), (), tmp_path)
    assert whole.tally.lines == sum(len(recipe.parents) for recipe in family.recipes.values())
    assert (whole.tally.strangers, whole.tally.arrows_right, whole.tally.perfect) == (0, 0, 0)
    assert any(fault.startswith("missing ") for fault in trees.faults(whole))
    fewer = trees.look(family, "pico", SEED, pairs(family), family.left_out, tmp_path)
    assert fewer.tally.hidden == len(family.left_out)
    table = trees.summed([whole, fewer])
    assert [line[0] for line in table] == ["development, whole", "development, models left out"]
    assert trees.record(fewer)["left_out"] == list(family.left_out)


@pytest.mark.slow
def test_a_family_that_no_one_looked_at_has_no_line_between_strangers(tmp_path: Path) -> None:
    """One small family from its seed to the page; the sweep over many is the experiment itself."""
    told = argparse.Namespace(place=tmp_path, sizes="pico", first=900, seeds=1, draw=False, workers=1)
    found = list(trees.looks(told))
    whole = found[0].tally
    assert (whole.strangers, whole.trees) == (0, 1)
    assert whole.right >= 0.7 * whole.lines
    assert whole.arrows_wrong + whole.arrows_false <= 1
    again = list(trees.looks(argparse.Namespace(**{**vars(told), "draw": True})))
    assert [one.tally for one in again] == [one.tally for one in found]
    assert "s a pair" in trees.seconds(tmp_path / "trees")
