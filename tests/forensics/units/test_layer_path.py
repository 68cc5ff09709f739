"""The layer map: what was done to the order of layers is read back from evidence alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pedigree.forensics.sides.gauge import identity_gauge
from pedigree.forensics.sides.views import UnitKind
from pedigree.forensics.units.evidence import Evidence, Grid
from pedigree.forensics.units.layer_path import NOISE_Z, PathCosts, emission, find_path

Path = list[int | None]
NEW = float(emission(np.array([NOISE_Z]))[0])


def scores(path: Path, n_a: int, seed: int = 0, strength: float = 40.0) -> NDArray[np.float64]:
    """Standard scores [A, B] of a child whose layers came from `path`: noise, and a strong score where they did."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_a, len(path)))
    for j, i in enumerate(path):
        if i is not None:
            z[i, j] = strength * rng.uniform(0.5, 1.5)
    return z


def found(path: Path, n_a: int, seed: int = 0, strength: float = 40.0) -> Path:
    return find_path(emission(scores(path, n_a, seed, strength)), NEW)


CASES: dict[str, tuple[int, Path]] = {
    "nothing done": (4, [0, 1, 2, 3]),
    "one layer": (1, [0]),
    "a layer inserted": (4, [0, 1, None, 2, 3]),
    "layers inserted at both ends": (3, [None, 0, 1, 2, None]),
    "three in a row inserted": (4, [0, None, None, None, 1, 2, 3]),
    "a layer repeated": (4, [0, 1, 1, 2, 3]),
    "every layer repeated": (3, [0, 0, 1, 1, 2, 2]),
    "a layer repeated twice": (3, [0, 1, 1, 1, 2]),
    "a layer dropped": (4, [0, 1, 3]),
    "the first layers dropped": (6, [3, 4, 5]),
    "the last layers dropped": (6, [0, 1, 2]),
    "all but one dropped": (6, [4]),
    "every other layer dropped": (8, [0, 2, 4, 6]),
    "a layer replaced": (5, [0, 1, None, 3, 4]),
    "half replaced": (6, [0, 1, 2, None, None, None]),
    "stacked as SOLAR was": (8, [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]),
    "a jump back and an insertion": (6, [0, 1, 2, 3, None, 2, 3, 4, 5]),
    "turned around": (4, [3, 2, 1, 0]),
    "nothing in common": (4, [None, None, None, None]),
}


@pytest.mark.parametrize(("n_a", "path"), CASES.values(), ids=CASES.keys())
def test_an_edit_is_read_back_exactly(n_a: int, path: Path) -> None:
    assert found(path, n_a) == path


@st.composite
def edit_scripts(draw: st.DrawFn) -> tuple[int, Path]:
    """A random child: layers dropped, replaced, repeated, inserted, blocks replayed."""
    n_a = draw(st.integers(2, 12))
    path: Path = list(range(n_a))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(path) - 1))
        match draw(st.sampled_from(["insert", "repeat", "drop", "replace", "replay"])):
            case "insert":
                path.insert(at, None)
            case "repeat":
                path.insert(at, path[at])
            case "drop" if len(path) > 1:
                del path[at]
            case "replace":
                path[at] = None
            case "replay":
                stop = draw(st.integers(at + 1, len(path)))
                path[stop:stop] = path[at:stop]
    return n_a, path


@given(script=edit_scripts(), seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_any_edit_script_is_read_back_exactly(script: tuple[int, Path], seed: int) -> None:
    n_a, path = script
    assert found(path, n_a, seed) == path


@given(seed=st.integers(0, 1000), n_a=st.integers(1, 12), n_b=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_noise_alone_gives_no_layer_a_place(seed: int, n_a: int, n_b: int) -> None:
    assert found([None] * n_b, n_a, seed) == [None] * n_b


def test_a_model_without_layers_has_an_empty_map() -> None:
    assert find_path(np.zeros((3, 0)), NEW) == []


def test_of_two_equal_copies_in_the_parent_the_map_stays_in_order() -> None:
    """Seen from a stacked model its base could have come from either copy of a block: the straight way is taken."""
    stacked: Path = [0, 1, 2, 1, 2, 3]
    back = find_path(emission(scores(stacked, 4).T), NEW)
    assert [stacked[i] for i in back if i is not None] == [0, 1, 2, 3]
    assert back == sorted(i for i in back if i is not None)


def test_a_weak_layer_between_strong_neighbors_keeps_its_place() -> None:
    z = scores([0, 1, 2, 3], 4)
    z[2, 2] = NOISE_Z + 0.5
    assert find_path(emission(z), NEW) == [0, 1, 2, 3]


def test_a_weak_score_far_from_the_path_is_not_worth_a_jump() -> None:
    z = scores([0, 1, None, 2, 3], 4)
    z[0, 2] = NOISE_Z
    assert find_path(emission(z), NEW) == [0, 1, None, 2, 3]


def test_jumps_that_cost_more_are_taken_less() -> None:
    path: Path = [0, 1, 2, 1, 2, 3]
    evidence = emission(scores(path, 4, strength=8.0))
    dear = PathCosts(duplicate=500.0, skip=500.0, back=500.0, fresh=500.0)
    assert find_path(evidence, NEW) == path
    assert find_path(evidence, NEW, dear) != path


def test_evidence_grows_with_the_score_and_never_below_zero() -> None:
    values = emission(np.array([-50.0, -1.0, 0.0, 3.0, 10.0, 100.0]))
    assert values[:3].tolist() == [0.0, 0.0, 0.0]
    assert (np.diff(values[2:]) > 0).all()
    assert np.isfinite(values).all()


def evidence(**grids: NDArray[np.float64]) -> Evidence:
    kinds: dict[UnitKind, Grid] = {k: Grid(z, z / 100, np.ones(z.shape[1])) for k, z in grids.items()}  # type: ignore[misc]
    return Evidence(identity_gauge(8, 8), kinds)


def test_kinds_of_unit_decide_together_and_one_that_shows_nothing_has_no_say() -> None:
    path: Path = [0, 1, None, 2]
    noise = scores([None] * 4, 3, seed=5)
    assert evidence(ffn=scores(path, 3), vo=noise).path() == path
    assert evidence(ffn=noise, vo=scores(path, 3)).path() == path
    assert evidence(ffn=noise, vo=noise).path() == [None] * 4
    assert evidence().path() == []


def test_layers_that_were_not_compared_by_one_kind_are_placed_by_another() -> None:
    path: Path = [0, 1, 2]
    partial = scores(path, 3)
    partial[1:, :] = np.nan
    assert evidence(ffn=scores(path, 3), vo=partial).path() == path
    assert evidence(ffn=partial).best_z() > 8


def test_a_neighbor_that_merely_resembles_a_missing_layer_does_not_take_its_place() -> None:
    z = scores([0, 1, None, 2, 3], 5, strength=100.0)
    z[1, 2] = 12.0
    assert evidence(ffn=z).path() == [0, 1, None, 2, 3]


@given(script=edit_scripts(), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_seen_from_the_parent_each_layer_finds_a_layer_made_from_it(script: tuple[int, Path], seed: int) -> None:
    n_a, path = script
    back = evidence(ffn=scores(path, n_a, seed)).reverse_path()
    assert len(back) == n_a
    for i, j in enumerate(back):
        assert path[j] == i if j is not None else i not in path
