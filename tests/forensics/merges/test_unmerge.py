"""Taking merges apart: weights and methods come back, relatives by descent are never taken for parents of a merge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tests.forensics.merge_shop import (
    SIZES,
    Shop,
    breadcrumbs,
    dare,
    directions,
    layer_of,
    learned,
    linear,
    masked,
    rounded,
    selected,
    spherical,
    stocked,
    ties,
    tuned,
    write_model,
)
from tests.forensics.tiny_models import Tensors, random_rotation, signed_permutation, turned
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.forensics.merges.decomposition import Decomposition
from pedigree.forensics.merges.mixture import BRANCH_RATIO, fit_mixture, select_sources
from pedigree.forensics.merges.unmerge import unmerge


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("merges"))


def apart(shop: Shop, model: Path, parents: str, base: str | None = None) -> Decomposition:
    found, _, _ = unmerge(model, [shop.path(p) for p in parents.split()], base=shop.path(base) if base else None)
    return found


def weights(found: Decomposition) -> list[float]:
    return [source.weight for source in found.sources]


def test_linear_weights_come_back_and_the_decoy_is_at_zero(shop: Shop) -> None:
    model = shop.add("linear", linear((0.6, shop["A"]), (0.3, shop["B"]), (0.1, shop["C"])))
    found = apart(shop, model, "D A stranger B C")
    assert (found.verdict, found.method) == ("merge", "linear")
    assert weights(found) == pytest.approx([0, 0.6, 0, 0.3, 0.1], abs=1e-3)
    assert weights(found)[0] == weights(found)[2] == 0.0
    assert found.explained.exact
    assert found.explained.rounding_ratio == pytest.approx(1.0, abs=0.1)


def test_a_fifth_of_a_stranger_is_found(shop: Shop) -> None:
    found = apart(shop, shop.add("fifth", linear((0.8, shop["A"]), (0.2, shop["stranger"]))), "A B stranger")
    assert weights(found) == pytest.approx([0.8, 0, 0.2], abs=1e-3)


def test_training_after_the_merge_leaves_the_weights_readable_and_is_said(shop: Shop) -> None:
    found = apart(shop, shop.add("later", tuned(linear((0.7, shop["A"]), (0.3, shop["B"])), 0.08, 20)), "A B D")
    assert found.verdict == "merge"
    assert not found.explained.exact
    assert weights(found) == pytest.approx([0.7, 0.3, 0], abs=0.01)
    assert all(s.standard_error is not None and s.standard_error < 0.01 for s in found.sources[:2])
    assert any("changed after the merge" in reason for reason in found.reasons)


@pytest.mark.parametrize("base", [None, "base"])
def test_a_sibling_is_not_a_merge_of_its_siblings(shop: Shop, base: str | None) -> None:
    found = apart(shop, shop.add(f"sibling-{base}", tuned(shop["base"], 0.3, 21)), "A B C", base)
    assert found.verdict == ("not-explained" if base is None else "one-parent")
    assert weights(found) == ([0.0] * 3 if base is None else [0.0, 0.0, 0.0, 1.0])


def test_a_child_continues_one_parent(shop: Shop) -> None:
    found = apart(shop, shop.add("child", tuned(shop["B"], 0.2, 22)), "A B C")
    assert (found.verdict, weights(found)) == ("one-parent", [0.0, 1.0, 0.0])


def test_a_twin_of_one_random_start_has_no_parent(tmp_path: Path) -> None:
    """Nearer to the other than many a child is to its parent, and nothing that the other learned is in it."""
    shop = Shop(tmp_path)
    start = shop["base"]
    first, twin = shop.add("first", learned(start, 31)), shop.add("twin", learned(start, 32))
    found, _, _ = unmerge(twin, [first, shop.path("stranger")])
    assert found.verdict == "not-explained"
    assert weights(found) == [0.0, 0.0]
    assert "no descent from it is shown" in found.reasons[0]
    child = shop.add("later", tuned(learned(start, 31), 0.05, 33))
    found, _, _ = unmerge(child, [first, shop.path("stranger")])
    assert (found.verdict, weights(found)) == ("one-parent", [1.0, 0.0])


def test_a_base_without_a_share_does_not_change_the_method(shop: Shop) -> None:
    model = shop.add("plain", linear((0.7, shop["A"]), (0.3, shop["B"])))
    found = apart(shop, model, "A B", "base")
    assert (found.verdict, found.method) == ("merge", "linear")
    assert weights(found) == pytest.approx([0.7, 0.3, 0.0], abs=1e-3)


def test_a_stranger_is_not_in_the_frame(shop: Shop) -> None:
    found = apart(shop, shop.path("stranger"), "A B")
    assert (found.verdict, found.recipe) == ("not-in-frame", None)


def _reordered(model: Tensors, turn: Tensor, seed: int) -> Tensors:
    """The stream turned, and feed-forward units in another order."""
    out, g = turned(model, turn), torch.Generator().manual_seed(seed)
    for layer in range(SIZES.layers):
        order = torch.randperm(SIZES.inner, generator=g)
        for name in ("gate", "up", "down"):
            key = f"model.layers.{layer}.mlp.{name}_proj.weight"
            out[key] = out[key][:, order] if name == "down" else out[key][order]
    return out


@pytest.mark.parametrize("turn", [signed_permutation, random_rotation])
def test_a_disguised_merge_is_taken_apart_in_the_frame_of_its_parents(shop: Shop, turn: Callable[..., Tensor]) -> None:
    """Four fifths of a model alone would draw the frame of the merge toward themselves."""
    merge = linear((0.8, shop["A"]), (0.2, shop["B"]))
    model = shop.add(f"turned-{turn.__name__}", _reordered(merge, turn(SIZES.d, 3), 5))
    found = apart(shop, model, "A B C stranger")
    assert (found.verdict, found.method, found.recipe) == ("merge", "linear", None)
    assert weights(found) == pytest.approx([0.8, 0.2, 0, 0], abs=2e-3)
    assert weights(found)[2:] == [0.0, 0.0]
    assert not found.explained.exact
    assert "laid in the order and frame of A" in found.reasons[0]


def test_a_disguised_parent_is_found_and_not_taken_for_absent(shop: Shop) -> None:
    shop.add("A-turned", _reordered(shop["A"], random_rotation(SIZES.d, 4), 6))
    found = apart(shop, shop.add("of-A", linear((0.6, shop["A"]), (0.4, shop["B"]))), "A-turned B C")
    assert weights(found) == pytest.approx([0.6, 0.4, 0], abs=2e-3)


def test_a_disguised_child_of_one_parent_is_no_merge(shop: Shop) -> None:
    child = _reordered(tuned(shop["A"], 0.2, 77), random_rotation(SIZES.d, 3), 5)
    found = apart(shop, shop.add("turned-child", child), "A B C")
    assert (found.verdict, weights(found)) == ("not-in-frame", [0.0] * 3)
    assert "reordered or rotated" in found.reasons[0]


def test_spherical_interpolation_is_told_from_linear(shop: Shop) -> None:
    found = apart(shop, shop.add("slerp", spherical(shop["A"], shop["stranger"], lambda name: 0.35)), "A stranger B")
    assert (found.verdict, found.method) == ("merge", "slerp")
    assert weights(found) == pytest.approx([0.65, 0.35, 0], abs=1e-3)


def test_a_curve_of_t_over_the_layers_comes_back(shop: Shop) -> None:
    def t_of(name: str) -> float:
        layer = layer_of(name)
        return 0.5 if layer is None else (0.2 + 0.2 * layer if "attn" in name else 0.9 - 0.2 * layer)

    found = apart(shop, shop.add("curve", spherical(shop["A"], shop["B"], t_of)), "A B")
    assert found.method == "slerp"
    curve = {(g.layer, g.component): g.t for g in found.groups}
    for layer in range(4):
        assert curve[layer, "attn"] == pytest.approx(0.2 + 0.2 * layer, abs=0.005)
        assert curve[layer, "mlp"] == pytest.approx(0.9 - 0.2 * layer, abs=0.005)


def test_layers_of_two_models_are_a_passthrough(shop: Shop) -> None:
    spliced = {n: (shop["B"] if (layer_of(n) or 0) >= 2 else shop["A"])[n] for n in shop["A"]}
    found = apart(shop, shop.add("spliced", spliced), "A B C")
    assert found.method == "passthrough"
    slices = yaml.safe_load(found.recipe or "")["slices"]
    assert [s["sources"][0]["layer_range"] for s in slices] == [[0, 2], [2, 4]]
    assert [Path(s["sources"][0]["model"]).name for s in slices] == ["A", "B"]


def test_task_arithmetic_has_a_base_and_weights_of_its_own(shop: Shop) -> None:
    base = shop["base"]
    model = {n: t + 0.7 * (shop["A"][n] - t) + 0.5 * (shop["B"][n] - t) for n, t in base.items()}
    found = apart(shop, shop.add("task", model), "A B D", "base")
    assert found.method == "task_arithmetic"
    assert weights(found)[:3] == pytest.approx([0.7, 0.5, 0.0], abs=1e-3)


def test_dare_weights_and_densities(shop: Shop) -> None:
    model = masked(shop["base"], dare([0.6, 0.4], [0.5, 0.7], 5), [shop["A"], shop["B"]])
    found = apart(shop, shop.add("dare", model), "A B D", "base")
    assert found.method == "dare_linear"
    assert weights(found)[:3] == pytest.approx([0.6, 0.4, 0.0], abs=0.01)
    assert [s.density for s in found.sources[:2]] == pytest.approx([0.5, 0.7], abs=0.02)


def test_ties_weights(shop: Shop) -> None:
    found = apart(
        shop, shop.add("ties", masked(shop["base"], ties([0.6, 0.4], 0.5), [shop["A"], shop["B"]])), "A B D", "base"
    )
    assert found.method == "ties"
    assert weights(found)[:3] == pytest.approx([0.6, 0.4, 0.0], abs=0.01)
    assert [s.density for s in found.sources[:2]] == pytest.approx([0.5, 0.5], abs=0.06)


def test_weights_that_do_not_sum_to_one_leave_decoys_at_zero(shop: Shop) -> None:
    """Forced to sum to one, the fit gave strangers what was missing."""
    model = shop.add("heavy", linear((0.6, shop["A"]), (0.5, shop["B"])))
    found = apart(shop, model, "A B D stranger")
    assert (found.verdict, found.method, found.parameters) == ("merge", "linear", {"normalize": False})
    assert weights(found) == pytest.approx([0.6, 0.5, 0.0, 0.0], abs=0.01)
    assert weights(found)[2:] == [0.0, 0.0]
    assert yaml.safe_load(found.recipe or "")["parameters"] == {"normalize": False}


def test_a_mixture_on_a_sphere_leaves_a_stranger_at_zero(shop: Shop) -> None:
    shop.models.setdefault("other", rounded(tuned(shop["stranger"], 4.0, 8)))
    model = shop.add("bent", spherical(shop["A"], shop["stranger"], lambda name: 0.3))
    found = apart(shop, model, "A B other stranger")
    assert found.method == "slerp"
    assert weights(found) == pytest.approx([0.7, 0.0, 0.0, 0.3], abs=0.005)
    found = apart(shop, shop.add("mean", directions([(0.6, shop["A"]), (0.4, shop["stranger"])])), "A B other stranger")
    assert found.method == "multislerp"
    assert weights(found) == pytest.approx([0.6, 0.0, 0.0, 0.4], abs=0.005)


def test_model_stock_follows_from_the_angles(shop: Shop) -> None:
    for seed, name in enumerate(("A1", "A2", "A3"), start=40):  # angles differ from layer to layer
        moved = tuned(shop["A"], 0.3, seed)
        mixed = {n: t + (0.1 + 0.3 * (layer_of(n) or 0)) * (moved[n] - t) for n, t in shop["A"].items()}
        shop.models[name] = rounded(mixed)
    found = apart(shop, shop.add("stock", stocked(shop["base"], [shop["A1"], shop["A2"]])), "A1 A2 A3 D", "base")
    assert (found.method, weights(found)) == ("model_stock", [0.5, 0.5, 0.0, 0.0, 1.0])
    assert yaml.safe_load(found.recipe or "")["models"] == [{"model": str(shop.path(n))} for n in ("A1", "A2")]


@pytest.mark.parametrize("decoys", ["D stranger", "C D stranger"])
def test_masks_are_read_beside_siblings_and_strangers_that_took_no_part(shop: Shop, decoys: str) -> None:
    model = masked(shop["base"], dare([0.6, 0.4], [0.5, 0.7], 5), [shop["A"], shop["B"]])
    found = apart(shop, shop.add(f"dare {decoys}", model), f"A B {decoys}", "base")
    assert found.method == "dare_linear"
    assert weights(found)[:2] == pytest.approx([0.6, 0.4], abs=0.01)
    assert set(weights(found)[2:-1]) == {0.0}


def test_what_was_left_out_by_size_or_by_spread_names_the_method(shop: Shop) -> None:
    model = masked(shop["base"], breadcrumbs([0.6, 0.4], 0.8, 0.05), [shop["A"], shop["B"]])
    found = apart(shop, shop.add("crumbs", model), "A B D", "base")
    assert (found.method, found.each["gamma"]) == ("breadcrumbs", pytest.approx(0.05, abs=0.01))
    assert weights(found)[:3] == pytest.approx([0.6, 0.4, 0.0], abs=0.01)
    assert [s.density for s in found.sources[:2]] == pytest.approx([0.8, 0.8], abs=0.02)
    model = masked(shop["base"], selected(0.4), [shop["A"], shop["B"]])
    found = apart(shop, shop.add("sce", model), "A B D", "base")
    assert found.method == "sce"
    assert found.parameters["select_topk"] == pytest.approx(0.4, abs=0.02)
    assert weights(found)[2] == 0.0


def test_masks_are_read_through_a_little_training(shop: Shop) -> None:
    model = tuned(masked(shop["base"], ties([0.6, 0.4], 0.5), [shop["A"], shop["B"]]), 0.004, 50)
    found = apart(shop, shop.add("ties later", model), "A B D", "base")
    assert found.method == "ties"
    assert weights(found)[:3] == pytest.approx([0.6, 0.4, 0.0], abs=0.01)
    assert not found.explained.exact
    assert any("changed after the merge" in reason for reason in found.reasons)


def test_changes_that_stop_at_a_limit_are_told(shop: Shop) -> None:
    model = masked(shop["base"], lambda deltas: deltas[0].clamp(-0.01, 0.01), [shop["A"]])
    found = apart(shop, shop.add("near", model), "A D", "base")
    assert (found.method, weights(found)) == ("nearswap", [1.0, 0.0, 1.0])
    assert found.parameters["t"] == pytest.approx(0.01, rel=0.02)


def test_a_deeper_stack_of_layers_is_a_passthrough(shop: Shop, tmp_path: Path) -> None:
    sizes = replace(SIZES, layers=6)
    taken = [("A", 0), ("A", 1), ("A", 2), ("B", 1), ("B", 2), ("B", 3)]
    outside = {n: t for n, t in shop["A"].items() if layer_of(n) is None}
    layers = {
        name.replace(f"layers.{i}.", f"layers.{j}."): t
        for j, (source, i) in enumerate(taken)
        for name, t in shop[source].items()
        if layer_of(name) == i
    }
    found = apart(shop, write_model(tmp_path / "deep", outside | layers, sizes), "D A B")
    assert (found.verdict, found.method, weights(found)) == ("merge", "passthrough", [0.0, 0.5, 0.5])
    slices = yaml.safe_load(found.recipe or "")["slices"]
    assert [s["sources"][0]["layer_range"] for s in slices] == [[0, 3], [1, 4]]


def test_tables_have_weights_of_their_own_in_the_recipe(shop: Shop) -> None:
    def share(name: str) -> float:
        layer = layer_of(name)
        return (0.9 if "embed" in name else 0.1) if layer is None else 0.2 + 0.2 * layer

    model = {n: share(n) * t + (1 - share(n)) * shop["B"][n] for n, t in shop["A"].items()}
    found = apart(shop, shop.add("gradient", model), "A B D")
    values = yaml.safe_load(found.recipe or "")["models"][0]["parameters"]["weight"]
    assert {v.get("filter"): v["value"] for v in values} == {
        "embed_tokens": pytest.approx(0.9, abs=0.005),
        "lm_head": pytest.approx(0.1, abs=0.005),
        None: pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.005),
    }
    assert weights(found) == pytest.approx([0.5, 0.5, 0.0], abs=0.01)


def test_the_recipe_makes_the_merge_again(shop: Shop) -> None:
    model = linear((0.55, shop["A"]), (0.45, shop["C"]))
    found = apart(shop, shop.add("again", model), "A B C")
    recipe = yaml.safe_load(found.recipe or "")
    assert (recipe["merge_method"], recipe["dtype"]) == ("linear", "bfloat16")
    terms = [(entry["parameters"]["weight"], shop[Path(entry["model"]).name]) for entry in recipe["models"]]
    again, there = rounded(linear(*terms)), rounded(model)
    # Four digits of a weight cost less than the last place of bfloat16.
    assert max(float((again[n] - there[n]).abs().max() / there[n].abs().max()) for n in again) < 2**-8


def test_one_candidate_is_refused(shop: Shop) -> None:
    with pytest.raises(UsageError, match="one candidate cannot be told"):
        unmerge(shop.path("A"), [shop.path("B")])


def random_tree(g: torch.Generator, n_parents: int, n_numbers: int = 1500) -> list[torch.Tensor]:
    """Gram matrices, one for each of ten tensors, of a child and parents that share random ancestors and no merge."""
    grams = []
    lengths = torch.rand(2 * n_parents + 2, generator=g) * 2 + 0.05
    hosts = [int(torch.randint(0, k, (1,), generator=g)) for k in range(1, n_parents + 1)]
    # Every model is a leaf below one of the inner points; the child is the first of them.
    hang = torch.randint(0, n_parents + 1, (n_parents + 1,), generator=g).tolist()
    for _ in range(10):
        nodes = [torch.randn(n_numbers, generator=g)]
        for k in range(n_parents):
            nodes.append(nodes[hosts[k]] + lengths[k] * torch.randn(n_numbers, generator=g))
        leaves = [nodes[at] + lengths[n_parents + m] * torch.randn(n_numbers, generator=g) for m, at in enumerate(hang)]
        stack = torch.stack(leaves).double()
        grams.append(stack @ stack.T)
    return grams


def test_no_family_tree_looks_like_a_merge() -> None:
    """Two hundred random trees of two to five relatives: descent never passes the branch ratio."""
    g = torch.Generator().manual_seed(0)
    for trial in range(200):
        n_parents = 2 + trial % 4
        grams = random_tree(g, n_parents)
        found = select_sources(grams, list(range(1, n_parents + 1)))
        assert len(found.sources) == 1, (trial, found)


def test_the_branch_ratio_of_a_star_is_one_and_more() -> None:
    g = torch.Generator().manual_seed(1)
    center = torch.randn(200_000, generator=g).double()
    leaves = [center + s * torch.randn(200_000, generator=g) for s in (0.0, 0.5, 1.0, 2.0)]
    stack = torch.stack(leaves)
    ratios = fit_mixture(stack @ stack.T, [1, 2, 3]).branch_ratios
    assert ratios == pytest.approx([1.0] * 3, abs=0.03)
    assert min(ratios) > 1.9 * BRANCH_RATIO
