"""What was done, read off maps made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forensics.hand_made import Path, bits, found, grid, tokens, unit_map
from forensics.tiny_models import Sizes, generator, llama, random_rotation, side, signed_permutation

from pedigree.forensics.comparison.changes import expert_origins, list_changes
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.side import Side

PLAIN: Path = [0, 1, 2, 3]


def model(layers: int = 4, config: dict[str, Any] | None = None, **sizes: int) -> Side:
    shape = Sizes(layers=layers, **sizes)
    return side(llama(0, shape), {**shape.config(), **(config or {})})


FOUR = model(4)


def all_layers(path: Path, n_a: int = 4, **more: Any) -> Findings:
    return found(path, {"ffn": grid(path, n_a), "vo": grid(path, n_a)}, **more)


def changes(b: Side, findings: Findings, a: Side = FOUR) -> dict[str, dict[str, Any]]:
    return {change.kind: change.detail() for change in list_changes(a, b, findings)}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (PLAIN, {}),
        ([0, 1, None, 2, 3], {"layers-inserted": {"at": [2], "copied_from": [None]}}),
        ([0, 1, 1, 2, 3], {"layers-inserted": {"at": [2], "copied_from": [1]}}),
        ([None, 0, 1, 2, 3, None], {"layers-inserted": {"at": [0, 5], "copied_from": [None, None]}}),
        ([0, 1, 2, 1, 2, 3], {"layers-duplicated": {"at": [3, 4], "source": [1, 2]}}),
        ([0, 1, 3], {"layers-dropped": {"dropped": [2]}}),
        ([2, 3], {"layers-dropped": {"dropped": [0, 1]}}),
        ([0, 1, None, 3], {"layers-replaced": {"at": [2]}}),
        ([0, 1, None, None], {"layers-replaced": {"at": [2, 3]}}),
        ([0, 2, 1, 3], {"layers-reordered": {"order": [0, 2, 1, 3]}}),
        ([0, None, 3], {"layers-replaced": {"at": [1]}, "layers-dropped": {"dropped": [2]}}),
        ([None, None, None, None], {}),
    ],
)
def test_edits_of_the_layer_order_are_named(path: Path, expected: dict[str, dict[str, Any]]) -> None:
    seen = changes(model(len(path)), all_layers(path))
    assert {kind: detail for kind, detail in seen.items() if kind.startswith("layers-")} == expected


def test_of_a_layer_and_its_silent_copy_the_silent_one_is_the_insertion() -> None:
    path: Path = [0, 1, 1, 2, 3]
    silent = unit_map(range(8), 8, silent=range(8))
    for quiet, at in ((1, 1), (2, 2)):
        maps = {j: unit_map(range(8), 8) for j in range(5)} | {quiet: silent}
        seen = changes(model(5), all_layers(path, unit_maps=maps))
        assert seen["layers-inserted"] == {"at": [at], "copied_from": [1]}


def test_width_heads_and_inner_width_are_read_from_shapes() -> None:
    seen = changes(model(d=48), all_layers(PLAIN))
    assert seen["hidden-widened"] == {"from": 32, "to": 48}
    seen = changes(FOUR, all_layers(PLAIN), a=model(d=48))
    assert seen["hidden-pruned"] == {"from": 48, "to": 32}
    seen = changes(model(heads=6), all_layers(PLAIN))
    assert seen["heads-added"] == {"from": 4, "to": 6}
    seen = changes(model(kv_heads=4), all_layers(PLAIN))
    assert seen["kv-heads-changed"] == {"from": 2, "to": 4}


def test_a_wider_inner_layer_says_whether_its_new_units_are_copies() -> None:
    copied = {j: unit_map([*range(8), 0, 1, 2, 3], 8, layers=(j, j)) for j in range(4)}
    seen = changes(model(inner=96), all_layers(PLAIN, unit_maps=copied))
    assert seen["ffn-widened"] == {"from": 8, "to": 12, "layers": PLAIN, "how": "copied units"}
    fresh = {j: unit_map([*range(8), -1, -1, -1, -1], 8, layers=(j, j)) for j in range(4)}
    seen = changes(model(inner=96), all_layers(PLAIN, unit_maps=fresh))
    assert seen["ffn-widened"]["how"] == "new units"


def test_a_pruned_inner_layer_tells_the_share_it_kept() -> None:
    maps = {j: unit_map([0, 2, 4, 6], 8, layers=(j, j)) for j in range(4)}
    seen = changes(model(inner=32), all_layers(PLAIN, unit_maps=maps))
    assert seen["ffn-pruned"] == {"from": 8, "to": 4, "layers": PLAIN, "kept_share": 0.5}


def test_moved_units_and_rescaled_units_are_named_and_units_that_stand_still_are_not() -> None:
    still = {j: unit_map(range(40), 40) for j in range(4)}
    assert not changes(FOUR, all_layers(PLAIN, unit_maps=still)).keys() & {"units-permuted", "units-rescaled"}
    order = torch.randperm(40, generator=generator(0)).tolist()
    moved = {j: unit_map(order if j else range(40), 40) for j in range(4)}
    assert changes(FOUR, all_layers(PLAIN, unit_maps=moved))["units-permuted"] == {"layers": [1, 2, 3]}
    scale = torch.randn(40, generator=generator(1))
    scaled = {j: unit_map(range(40), 40, log_scale=scale) for j in range(4)}
    assert changes(FOUR, all_layers(PLAIN, unit_maps=scaled))["units-rescaled"] == {"layers": PLAIN}
    sign = torch.where(torch.arange(40) % 2 > 0, -1.0, 1.0)
    negated = {j: unit_map(range(40), 40, sign=sign) for j in range(4)}
    assert changes(FOUR, all_layers(PLAIN, unit_maps=negated))["units-rescaled"] == {"layers": PLAIN}


def test_units_of_experts_are_moved_inside_their_expert_and_not_by_moving_the_expert() -> None:
    labels = [0] * 20 + [1] * 20
    order = torch.randperm(20, generator=generator(2)).tolist()
    swapped = [*range(20, 40), *range(20)]
    for origin, is_moved in (([*order, *(20 + k for k in order)], True), (swapped, False)):
        maps = {j: unit_map(origin, 40, label_a=labels, label_b=labels) for j in range(4)}
        assert ("units-permuted" in changes(FOUR, all_layers(PLAIN, unit_maps=maps))) == is_moved
    halves = {j: unit_map([*order, *order], 20, label_b=labels) for j in range(4)}
    assert "units-permuted" not in changes(FOUR, all_layers(PLAIN, unit_maps=halves))


@pytest.mark.parametrize(
    ("gauge", "word"),
    [
        (Gauge("orthogonal", random_rotation(32, 0), "embedding rows of shared tokens"), "orthogonal"),
        (Gauge("signed-permutation", signed_permutation(32, 0), "embedding rows"), "signed-permutation"),
    ],
)
def test_a_frame_that_had_to_be_undone_is_a_disguise(gauge: Gauge, word: str) -> None:
    assert changes(FOUR, all_layers(PLAIN, gauge=gauge))["gauge-disguise"]["gauge"] == word


def test_coordinates_in_place_are_no_disguise() -> None:
    assert "gauge-disguise" not in changes(FOUR, all_layers(PLAIN))
    assert "gauge-disguise" not in changes(model(d=48), all_layers(PLAIN))


def test_a_branch_that_is_foreign_while_the_other_agrees_was_drawn_afresh() -> None:
    mixed = found(PLAIN, {"ffn": grid(PLAIN, 4, on=[0, 1]), "vo": grid(PLAIN, 4)})
    assert changes(FOUR, mixed)["component-reinitialized"] == {"component": "mlp", "layers": [2, 3]}
    mixed = found(PLAIN, {"ffn": grid(PLAIN, 4), "vo": grid(PLAIN, 4, on=[0])})
    assert changes(FOUR, mixed)["component-reinitialized"] == {"component": "attn", "layers": [1, 2, 3]}


def test_a_branch_with_few_units_that_agrees_faintly_was_not_drawn_afresh() -> None:
    """One key/value head of twelve dimensions reaches z = 6 where all of it agrees."""
    faint = grid(PLAIN, 4, on=[0, 1])
    for j in (2, 3):
        faint.z_IJ[j, j], faint.effect_IJ[j, j] = 6.0, 0.3
    assert "component-reinitialized" not in changes(FOUR, found(PLAIN, {"ffn": grid(PLAIN, 4), "vo": faint}))


def mixture(n_experts: int) -> Side:
    sizes = Sizes(layers=2, inner=16)
    tensors = {n: t for n, t in llama(0, sizes).items() if ".mlp." not in n}
    g = generator(0)
    for layer in range(2):
        p = f"model.layers.{layer}.block_sparse_moe."
        tensors[p + "gate.weight"] = torch.randn(n_experts, sizes.d, generator=g)
        for e in range(n_experts):
            for name, shape in (("w1", (8, sizes.d)), ("w3", (8, sizes.d)), ("w2", (sizes.d, 8))):
                tensors[f"{p}experts.{e}.{name}.weight"] = torch.randn(*shape, generator=g)
    return side(tensors, {**sizes.config("mixtral"), "num_local_experts": n_experts, "intermediate_size": 8})


def moe_changes(a: Side, b: Side, **maps: Any) -> dict[str, dict[str, Any]]:
    path: Path = [0, 1]
    shown = {j: unit_map(layers=(j, j), **maps) for j in range(2)}
    return changes(b, found(path, {"ffn": grid(path, 2), "vo": grid(path, 2)}, unit_maps=shown), a)


def test_upcycling_names_where_each_expert_came_from() -> None:
    dense, sparse = model(2, inner=16), mixture(2)
    seen = moe_changes(dense, sparse, origin=[*range(16), *range(16)], n_a=16, label_b=[0] * 16 + [1] * 16)
    assert seen["upcycled"]["experts"] == 2
    assert seen["upcycled"]["how"] == "full copies"
    assert seen["upcycled"]["layers"] == [0, 1]
    first = seen["upcycled"]["origins"][0]
    assert (first["layer"], first["from_layer"]) == (0, 0)
    for row in first["experts"]:
        assert row["from"] == 0
        assert row["matched"] == row["of_parent"] == row["in_place"] == 1.0
    halves = moe_changes(dense, sparse, origin=range(16), n_a=16, label_b=[0] * 8 + [1] * 8)
    assert halves["upcycled"]["how"] == "parts of the layer"
    worn = moe_changes(dense, sparse, origin=[*range(4), *[-1] * 4, *range(8, 12), *[-1] * 4], n_a=16,
                       label_b=[0] * 8 + [1] * 8)  # fmt: skip
    assert worn["upcycled"]["how"] == "parts of the layer, partly re-initialized"


def test_a_mixture_made_dense_is_named() -> None:
    assert "densified" in moe_changes(
        mixture(2), model(2, inner=16), origin=range(16), n_a=16, label_a=[0] * 8 + [1] * 8
    )


def test_experts_that_changed_places_are_named_and_ones_that_did_not_are_not() -> None:
    labels = {"label_a": [0] * 8 + [1] * 8, "label_b": [0] * 8 + [1] * 8}
    assert not moe_changes(mixture(2), mixture(2), origin=range(16), n_a=16, **labels).keys() & {"experts-permuted"}
    seen = moe_changes(mixture(2), mixture(2), origin=[*range(8, 16), *range(8)], n_a=16, **labels)
    assert [row["from"] for row in seen["experts-permuted"]["origins"][0]["experts"]] == [1, 0]


def test_an_expert_without_origin_says_so() -> None:
    rows = expert_origins(unit_map([*range(8), *[-1] * 8], 8, label_b=[0] * 8 + [1] * 8))
    assert [row["from"] for row in rows] == [0, None]
    assert rows[1]["matched"] == 0.0


def test_biases_tying_and_norms_are_compared() -> None:
    tensors = llama(0, Sizes(layers=4))
    biased = dict(tensors)
    for layer in range(4):
        biased[f"model.layers.{layer}.self_attn.q_proj.bias"] = torch.randn(32)
    b = side(biased, Sizes(layers=4).config("qwen2"))
    assert changes(b, all_layers(PLAIN))["biases-added"] == {"roles": ["attn.q.bias"]}
    assert changes(FOUR, all_layers(PLAIN), a=b)["biases-removed"] == {"roles": ["attn.q.bias"]}
    tied = side(
        {n: t for n, t in tensors.items() if n != "lm_head.weight"},
        {**Sizes(layers=4).config(), "tie_word_embeddings": True},
    )
    assert "tied" in changes(tied, all_layers(PLAIN))
    assert "untied" in changes(FOUR, all_layers(PLAIN), a=tied)


@pytest.mark.parametrize(
    ("shared", "kind", "facts"),
    [
        (tokens(500, 500, 500), None, {}),
        (tokens(500, 500, 540), "vocabulary-extended", {"added": 40}),
        (tokens(500, 540, 500), "vocabulary-trimmed", {"removed": 40}),
        (tokens(300, 500, 520), "vocabulary-swapped", {"shared": 300}),
        (tokens(500, same=False), "vocabulary-reordered", {"tokens_a": 500}),
        (tokens(500, 500, 900, by="row number"), None, {}),
    ],
)
def test_changes_of_the_vocabulary_are_named(shared: Any, kind: str | None, facts: dict[str, int]) -> None:
    seen = changes(FOUR, all_layers(PLAIN, tokens=shared))
    named = {k: v for k, v in seen.items() if k.startswith("vocabulary")}
    assert list(named) == ([] if kind is None else [kind])
    if kind is not None:
        assert facts.items() <= named[kind].items()


def test_embeddings_that_share_nothing_while_the_body_does_were_drawn_afresh() -> None:
    assert "embeddings-reinitialized" in changes(FOUR, all_layers(PLAIN, tables={"embed": 0.01}))
    assert "embeddings-reinitialized" not in changes(FOUR, all_layers(PLAIN, tables={"embed": 0.5}))


def test_frozen_tensors_are_listed_and_a_plain_copy_has_none() -> None:
    frozen = bits(equal=["embed", "layers.0.attn.q"], different=["head"])
    seen = changes(FOUR, all_layers(PLAIN, bits=frozen))
    assert seen["tensors-frozen"]["tensors"] == ["embed", "layers.0.attn.q"]
    assert (seen["tensors-frozen"]["count"], seen["tensors-frozen"]["of"]) == (2, 3)
    assert not changes(FOUR, all_layers(PLAIN, bits=bits(equal=["embed"])))


def test_a_cast_is_named() -> None:
    coarse = side({n: t.to(torch.bfloat16) for n, t in llama(0, Sizes(layers=4)).items()}, Sizes(layers=4).config())
    assert changes(coarse, all_layers(PLAIN))["cast"] == {"from": "F32", "to": "BF16"}


def test_nothing_is_said_of_layers_where_no_layer_agrees() -> None:
    strangers = found([None] * 4, {"ffn": grid([None] * 4, 4)})
    assert changes(model(5, d=48), strangers) == {}
