"""A glance that a deeper look follows: it ends where nothing stands in place, and settles layers that are left over."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.benchmarks.test_compare_script import load_checkpoints

from pedigree.forensics import compare as comparing
from pedigree.forensics.compare import compare
from pedigree.forensics.sides.sampling import WHOLE_MODEL_BYTES, Depth, Sample, choose_sample
from pedigree.forensics.units.evidence import holds_all
from pedigree.records.comparison import Comparison


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, checkpoints = tmp_path_factory.mktemp("models"), load_checkpoints()
    for kind in ("parent", "deepened", "disguised", "stranger"):
        checkpoints.write_checkpoint(folder / kind, checkpoints.SHAPES["tiny"], kind)
    return folder


@pytest.fixture(autouse=True)
def as_of_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(depth: Depth, size: int) -> Sample:
        return choose_sample(depth, size + WHOLE_MODEL_BYTES)

    monkeypatch.setattr(comparing, "choose_sample", chosen)
    monkeypatch.setattr(comparing, "WHOLE_MODEL_BYTES", 0)


def words(record: Comparison) -> tuple[object, ...]:
    result = record.result
    # Fewer numbers are read at a first look, so how much noise there is comes out a little different.
    return result.verdict, result.layer_map, [change.model_dump(exclude={"sigma"}) for change in result.transformations]


def test_a_deepened_model_that_holds_all_layers_is_told_from_a_glance(models: Path) -> None:
    found = compare(models / "parent", models / "deepened")
    deeper = compare(models / "parent", models / "deepened", depth="standard")
    assert found.result.depth == "glance"
    assert found.result.read.bytes < deeper.result.read.bytes
    assert words(found) == words(deeper)
    # The child is its parent under white noise.
    assert [change.kind for change in found.result.transformations] == ["layers-inserted", "noise-added"]
    # A glance that is asked for by name reads no layer whole, so it does not say what was inserted.
    named = compare(models / "parent", models / "deepened", depth="glance").result.transformations
    assert [change.kind for change in named] == ["noise-added"]


def test_a_parent_seen_from_its_deepened_child_misses_no_layer_at_all(models: Path) -> None:
    found = compare(models / "deepened", models / "parent")
    assert found.result.verdict == "related"
    assert None not in found.result.layer_map


@pytest.mark.parametrize(("kind", "verdict"), [("disguised", "related"), ("stranger", "unrelated")])
def test_a_first_look_that_sees_nothing_in_place_reads_little_and_changes_no_answer(
    models: Path, kind: str, verdict: str
) -> None:
    found = compare(models / "parent", models / kind)
    standard = compare(models / "parent", models / kind, depth="standard")
    glance = compare(models / "parent", models / kind, depth="glance")
    assert found.result.verdict == verdict
    assert words(found) == words(standard)
    assert found.result.tests == standard.result.tests
    first = found.result.depths[0]
    assert (first.depth, first.verdict) == ("glance", glance.result.verdict) == ("glance", "inconclusive")
    assert any("of those looked at first" in words for words in first.could_not_see)
    assert not any("of those looked at first" in words for words in glance.result.not_checked)


def test_a_first_look_within_a_budget_is_a_whole_one(models: Path) -> None:
    glance = compare(models / "parent", models / "stranger", depth="glance")
    budget = max(glance.result.read.bytes, 1)
    found = compare(models / "parent", models / "stranger", budget_bytes=budget)
    assert not any("of those looked at first" in words for words in found.result.depths[0].could_not_see)


@pytest.mark.parametrize(
    ("path", "layers", "held"),
    [
        ([0, 1, None, 2, 3], 4, True),
        ([0, 1, None, 3, 3], 4, False),  # layer 2 may be what stands there in another order
        ([0, None, None, 1, 2], 3, False),  # too much is foreign
        ([*range(30), *[None] * 5], 30, False),  # more than are read whole
        ([0, 1, 2], 3, True),
    ],
)
def test_few_layers_beside_all_of_the_others(path: list[int | None], layers: int, held: bool) -> None:
    assert holds_all(path, layers) is held
