"""`compare` on families of tiny, really trained models whose relations are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from mini_zoo import Compare, Derive

from pedigree.benchmark.zoo import Zoo
from pedigree.benchmark.zoo.catalog_mini import GROUP, PRETRAINING, SIZES, TOKENIZER
from pedigree.benchmark.zoo.orders import MINI_CHARS
from pedigree.benchmark.zoo.recipe import Recipe
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.benchmark.zoo.truth import Pair
from pedigree.benchmark.zoo.workshop import Workshop
from pedigree.forensics.compare import compare
from pedigree.forensics.comparison.findings import CLEAR_Z
from pedigree.records.comparison import Comparison

# derivative of base0 -> what is said of it, what is said of base0 seen from it
DERIVATIVES: dict[str, tuple[set[str], set[str]]] = {
    "resharded": (set(), set()),
    "fused": (set(), set()),
    "permuted": ({"gauge-disguise", "units-permuted", "units-rescaled", "heads-permuted"},) * 2,
    "rotated": ({"gauge-disguise", "units-rescaled"},) * 2,
    "disguised": ({"gauge-disguise", "units-permuted", "units-rescaled", "heads-permuted"},) * 2,
    "inserted": ({"layers-inserted"}, {"layers-dropped"}),
    "stacked": ({"layers-duplicated"}, {"layers-dropped"}),
    "dropped": ({"layers-dropped"}, {"layers-inserted"}),
    "widened": ({"ffn-widened"}, {"ffn-pruned"}),
    "wider": ({"hidden-widened"}, {"hidden-pruned"}),
    "biased": ({"biases-added"}, {"biases-removed"}),
    "moe": ({"upcycled"}, {"densified"}),
    "moe-granular": ({"upcycled", "noise-added"}, {"densified"}),
    "retokenized": ({"vocabulary-swapped"},) * 2,
    "pruned-inner": ({"ffn-pruned"}, {"ffn-widened"}),
    "pruned-residual": ({"hidden-pruned"}, {"hidden-widened"}),
    "noisy": ({"noise-added"}, set()),
    "spliced": ({"layers-replaced"},) * 2,
    "continued": (set(), set()),
    "disguised+": ({"gauge-disguise", "units-permuted", "units-rescaled", "heads-permuted"},) * 2,
    "inserted+": ({"layers-inserted"}, {"layers-dropped"}),
    "moe-granular+": ({"upcycled"}, {"densified"}),
    "retokenized+": ({"vocabulary-swapped"},) * 2,
}
# What these share with another model is as it was in base0: whoever descends from base0 descends from those numbers.
UNMOVED = {
    "permuted", "rotated", "disguised", "inserted", "stacked", "dropped", "widened", "wider", "biased", "moe",
    "retokenized", "pruned-inner", "spliced",
}  # fmt: skip
# What may also be said without being wrong.
HARMLESS = {"tensors-frozen"}

BOTH_WAYS = [(("base0", name), seen[0]) for name, seen in DERIVATIVES.items()] + [
    ((name, "base0"), seen[1]) for name, seen in DERIVATIVES.items()
]


def kinds(comparison: Comparison) -> set[str]:
    return {change.kind for change in comparison.result.transformations} - HARMLESS


def change(comparison: Comparison, kind: str) -> dict[str, Any]:
    found = [change.detail() for change in comparison.result.transformations if change.kind == kind]
    assert len(found) == 1, f"{kind} is named {len(found)} times"
    return found[0]


def largest_z(comparison: Comparison) -> float:
    assert comparison.evidence_map is not None
    return max(z for row in comparison.evidence_map.z for z in row if z is not None)


@pytest.mark.parametrize(("names", "expected"), BOTH_WAYS, ids=["-".join(names) for names, _ in BOTH_WAYS])
def test_a_derivative_is_recognized_both_ways_with_its_layer_map_and_what_was_done(
    names: tuple[str, str], expected: set[str], zoo: Zoo, compared: Compare
) -> None:
    comparison, truth = compared(*names), zoo.pair(*names)
    result = comparison.result
    assert result.verdict == truth.relation
    assert result.layer_map == list(truth.layer_map)
    assert kinds(comparison) == expected
    assert result.direction.verdict in (truth.direction, "undetermined")


@pytest.mark.parametrize("name", ["base0", *sorted(DERIVATIVES.keys() - {"spliced"})])
def test_a_stranger_of_the_same_data_order_recipe_and_tokenizer_is_unrelated(
    name: str, zoo: Zoo, compared: Compare
) -> None:
    assert zoo.pair("base1", name).relation == "unrelated"
    comparison = compared("base1", name)
    assert comparison.result.verdict == "unrelated"
    assert largest_z(comparison) < CLEAR_Z
    assert all(i is None for i in comparison.result.layer_map)
    assert comparison.result.direction.verdict == "undetermined"
    assert {c.verdict for c in comparison.result.components.values()} <= {"unrelated", "not-testable"}
    assert any("would not be seen" in sentence for sentence in comparison.result.not_checked)


@pytest.mark.parametrize("name", ["base0", "disguised+", "moe-granular+", "retokenized+", "pruned-residual"])
def test_strangers_are_unrelated_seen_from_the_other_side_too(name: str, compared: Compare) -> None:
    assert compared(name, "base1").result.verdict == "unrelated"


@pytest.mark.parametrize("names", [("base0", "twin"), ("twin", "base0"), ("continued", "twin"), ("twin", "continued")])
def test_a_twin_of_the_random_start_shares_its_initialization_and_nothing_else(
    names: tuple[str, str], zoo: Zoo, compared: Compare
) -> None:
    assert zoo.pair(*names).relation == "shared-initialization"
    result = compared(*names).result
    assert result.verdict == "shared-initialization"
    assert result.direction.verdict == "undetermined"


@pytest.mark.parametrize(
    "names",
    [
        ("continued", "noisy"),
        ("continued", "disguised+"),
        ("inserted+", "disguised+"),
        ("moe-granular+", "inserted+"),
        ("retokenized+", "permuted"),
        ("dropped", "stacked"),
        ("wider", "rotated"),
        ("pruned-inner", "widened"),
        ("moe", "disguised"),
    ],
)
def test_siblings_are_related_through_both_their_disguises(names: tuple[str, str], zoo: Zoo, compared: Compare) -> None:
    for pair in (names, names[::-1]):
        comparison, truth = compared(*pair), zoo.pair(*pair)
        assert comparison.result.verdict == truth.relation == "related"
        assert comparison.result.layer_map == list(truth.layer_map)


def test_containers_names_shards_and_casts_that_lose_nothing_leave_a_model_identical(
    zoo: Zoo, compared: Compare, derive: Derive
) -> None:
    renamed = derive("rename", "base0", prefix="language_model.", n_shards=3)
    coarse = derive("cast", "base0", dtype="bfloat16")
    for pair in ((zoo.models["base0"], renamed), (renamed, "fused"), (coarse, derive("cast", coarse, dtype="float32"))):
        result = compared(*pair).result
        assert result.verdict == "identical"
        assert result.layer_map == [0, 1, 2, 3]
        assert all(c.verdict == "identical" for c in result.components.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_rounded_copy_is_related_and_the_rounded_one_came_later(
    dtype: str, compared: Compare, derive: Derive
) -> None:
    rounded = derive("cast", "base0", dtype=dtype)
    there, back = compared("base0", rounded).result, compared(rounded, "base0").result
    assert there.verdict == back.verdict == "related"
    assert (there.direction.verdict, back.direction.verdict) == ("a-to-b", "b-to-a")
    assert "cast" in {change.kind for change in there.transformations}


def test_a_quantized_copy_is_related(compared: Compare, derive: Derive) -> None:
    comparison = compared("base0", derive("quantize-int8", "base0"))
    assert comparison.result.verdict == "related"
    assert comparison.result.layer_map == [0, 1, 2, 3]


def test_inserted_and_repeated_layers_are_told_with_their_sources(compared: Compare) -> None:
    assert change(compared("base0", "inserted"), "layers-inserted") == {"at": [2], "copied_from": [1]}
    assert change(compared("base0", "inserted+"), "layers-inserted") == {"at": [2], "copied_from": [1]}
    assert change(compared("base0", "stacked"), "layers-duplicated") == {"at": [3, 4], "source": [1, 2]}
    assert change(compared("base0", "dropped"), "layers-dropped") == {"dropped": [2]}


@pytest.mark.parametrize("name", ["inserted", "inserted+", "stacked", "widened", "moe", "moe-granular", "noisy"])
def test_the_direction_of_a_change_that_only_a_child_can_carry_is_told_both_ways(name: str, compared: Compare) -> None:
    assert compared("base0", name).result.direction.verdict == "a-to-b"
    assert compared(name, "base0").result.direction.verdict == "b-to-a"
    assert compared("base0", name).result.direction.reasons


def test_widths_are_told(compared: Compare) -> None:
    widened = change(compared("base0", "widened"), "ffn-widened")
    assert widened == {"from": 192, "to": 256, "layers": [0, 1, 2, 3], "how": "copied units"}
    assert change(compared("base0", "wider"), "hidden-widened") == {"from": 64, "to": 80}
    pruned = change(compared("base0", "pruned-inner"), "ffn-pruned")
    assert (pruned["from"], pruned["to"]) == (192, 128)
    assert pruned["kept_share"] == pytest.approx(128 / 192, abs=0.02)
    assert change(compared("base0", "pruned-residual"), "hidden-pruned") == {"from": 64, "to": 48}


def test_new_units_without_effect_are_told_from_copies(compared: Compare, derive: Derive) -> None:
    wide = derive("widen-inner-zeros", "base0", n_inner=256)
    assert change(compared("base0", wide), "ffn-widened")["how"] == "new units"


def test_every_expert_of_an_upcycled_model_is_traced(compared: Compare) -> None:
    whole = change(compared("base0", "moe"), "upcycled")
    assert whole["experts"] == 4
    assert whole["how"] == "full copies"
    for name in ("moe", "moe-granular", "moe-granular+"):
        layers = change(compared("base0", name), "upcycled")["origins"]
        assert [(row["layer"], row["from_layer"]) for row in layers] == [(i, i) for i in range(4)]
        for row in layers:
            assert [expert["from"] for expert in row["experts"]] == [0, 0, 0, 0]
            if name != "moe":
                # Half-width experts hold half of the parent's units each.
                assert all(expert["of_parent"] == pytest.approx(0.5, abs=0.05) for expert in row["experts"])
                assert all(expert["matched"] > 0.9 for expert in row["experts"])


def test_shuffled_experts_are_put_back(compared: Compare, derive: Derive) -> None:
    shuffled = derive("permute-experts", "moe-granular")
    comparison = compared("moe-granular", shuffled)
    assert comparison.result.verdict == "related"
    rows = change(comparison, "experts-permuted")["origins"]
    for row in rows:
        assert sorted(expert["from"] for expert in row["experts"]) == [0, 1, 2, 3]
        assert all(expert["matched"] > 0.95 for expert in row["experts"])


def test_changes_of_the_vocabulary_are_told(compared: Compare, derive: Derive) -> None:
    swapped = change(compared("base0", "retokenized"), "vocabulary-swapped")
    assert swapped["tokens_a"] < swapped["tokens_b"]
    assert swapped["shared"] < swapped["tokens_a"]
    extended = derive(
        "extend-vocabulary", "base0", tokens=["<a>", "<b>", "<c>"] + [f"<{i}>" for i in range(20)], n_padding=5
    )
    assert change(compared("base0", extended), "vocabulary-extended")["added"] == 23
    shuffled = derive("shuffle-vocabulary", "base0")
    comparison = compared("base0", shuffled)
    assert "vocabulary-reordered" in kinds(comparison)
    assert comparison.result.verdict == "related"
    assert comparison.result.components["embed"].verdict == "related"


def test_fresh_embeddings_are_told_and_the_body_is_still_recognized(
    zoo: Zoo, compared: Compare, derive: Derive
) -> None:
    tokenizer = (zoo.models["retokenized"] / "tokenizer.json").read_text()
    fresh = derive("fresh-embeddings", "base0", tokenizer=tokenizer)
    comparison = compared("base0", fresh)
    assert comparison.result.verdict == "related"
    assert comparison.result.layer_map == [0, 1, 2, 3]
    assert "embeddings-reinitialized" in kinds(comparison)
    assert comparison.result.components["embed"].verdict != "related"


def test_a_disguise_without_a_single_shared_token_is_undone_from_the_weights_alone(
    zoo: Zoo, compared: Compare, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hidden = Snapshot.load(zoo.models["disguised"])
    generator = torch.Generator().manual_seed(1)
    fresh = {
        name: torch.randn(hidden.tensors[name].shape, generator=generator) * 0.02
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    folder = tmp_path_factory.mktemp("anchorless") / "model"
    hidden.changed(fresh).save(folder)
    for pair in (("base0", folder), (folder, "base0")):
        result = compared(*pair).result
        assert result.verdict == "related"
        assert result.layer_map == [0, 1, 2, 3]
        assert result.gauge.kind == "orthogonal"


def test_the_frame_that_was_undone_is_named(compared: Compare) -> None:
    assert compared("base0", "continued").result.gauge.kind == "identity"
    assert compared("base0", "permuted").result.gauge.kind == "signed-permutation"
    assert compared("base0", "rotated").result.gauge.kind == "orthogonal"
    assert compared("base0", "disguised+").result.gauge.kind == "orthogonal"
    assert compared("base0", "wider").result.gauge.kind == "partial-isometry"
    held_out = compared("base0", "rotated").result.gauge.held_out
    assert held_out is not None
    assert held_out > 0.5


def test_frozen_tensors_of_a_trained_child_are_named(
    zoo: Zoo, compared: Compare, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent, child = Snapshot.load(zoo.models["base0"]), Snapshot.load(zoo.models["continued"])
    frozen = [n for n in parent.tensors if "embed_tokens" in n or ".1.self_attn" in n]
    folder = tmp_path_factory.mktemp("frozen") / "model"
    child.changed({name: parent.tensors[name] for name in frozen}).save(folder)
    comparison = compared("base0", folder)
    assert comparison.result.verdict == "related"
    assert set(change(comparison, "tensors-frozen")["tensors"]) == {"embed", *(f"layers.1.attn.{n}" for n in "qkvo")}
    assert "tensors-frozen" not in {c.kind for c in compared("base0", "continued").result.transformations}


def test_embeddings_alone_make_a_partial_relation_with_the_list(
    zoo: Zoo, compared: Compare, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim, stranger = Snapshot.load(zoo.models["base0"]), Snapshot.load(zoo.models["base1"])
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    folder = tmp_path_factory.mktemp("embeddings") / "model"
    stranger.changed({name: victim.tensors[name] for name in tables}).save(folder)
    for pair in (("base0", folder), (folder, "base0")):
        result = compared(*pair).result
        assert result.verdict == "partly-related"
        assert {k for k, c in result.components.items() if c.verdict == "related"} == {"embed", "head"}
        assert result.components["mlp"].verdict == "unrelated"
        assert result.components["attn"].verdict == "unrelated"
        assert all(i is None for i in result.layer_map)


def test_half_of_the_layers_make_a_partial_relation_with_the_list(compared: Compare) -> None:
    result = compared("base0", "spliced").result
    assert result.verdict == "partly-related"
    assert result.components["mlp"].layers == [0, 1]
    assert result.components["attn"].layers == [0, 1]
    assert change(compared("base0", "spliced"), "layers-replaced") == {"at": [2, 3]}
    other = compared("base1", "spliced").result
    assert other.verdict == "partly-related"
    assert other.layer_map == [None, None, 2, 3]


@pytest.mark.parametrize(("branch", "kept"), [("mlp", "attn"), ("attn", "mlp")])
def test_a_branch_drawn_afresh_in_every_layer_leaves_a_partial_relation(
    branch: str, kept: str, compared: Compare, derive: Derive
) -> None:
    comparison = compared("base0", derive("reinitialize", "base0", branch=branch))
    result = comparison.result
    assert result.verdict == "partly-related"
    assert result.components[kept].verdict == "related"
    assert result.components[branch].verdict == "unrelated"
    assert result.layer_map == [0, 1, 2, 3]
    assert change(comparison, "component-reinitialized")["component"] == branch


def test_a_whole_body_drawn_afresh_leaves_the_embeddings(compared: Compare, derive: Derive) -> None:
    result = compared("base0", derive("reinitialize", "base0", branch="body")).result
    assert result.verdict == "partly-related"
    assert all(i is None for i in result.layer_map)


def test_a_merge_is_related_to_both_of_its_parents(compared: Compare, derive: Derive) -> None:
    half = derive("merge", "base0", "base1", share=0.5)
    for parent in ("base0", "base1"):
        for pair in ((parent, half), (half, parent)):
            result = compared(*pair).result
            assert result.verdict == "related"
            assert result.layer_map == [0, 1, 2, 3]
    result = compared("base1", "merged-20").result
    assert result.verdict == "related"
    body = {name: c.verdict for name, c in result.components.items() if name in ("attn", "mlp")}
    assert "related" in body.values()


def test_the_minor_parent_of_a_merge_of_narrow_models_is_left_open_and_never_cleared(compared: Compare) -> None:
    """At width 64 a fifth agrees no better than units chosen to suit it (`tests/attacks`); at width 128 it does."""
    for pair in (("base0", "merged-20"), ("merged-20", "base0")):
        result = compared(*pair).result
        assert result.verdict in ("related", "inconclusive")
        assert result.direction.verdict in ("undetermined", "a-to-b" if pair[0] == "base0" else "b-to-a")


def test_low_rank_and_loud_noise_keep_a_child_related(compared: Compare, derive: Derive) -> None:
    for child in (
        derive("low-rank", "base0", rank=4, strength=0.5),
        derive("noise", "base0", sigma=1.0),
        derive("noise", "disguised", sigma=0.5),
    ):
        result = compared("base0", child).result
        assert result.verdict == "related"
        assert result.layer_map == [0, 1, 2, 3]


def test_several_things_done_at_once_are_all_named(compared: Compare, derive: Derive) -> None:
    deep = derive("insert-layers", "base0", after=[0, 3])
    wide = derive("widen-inner-copies", deep, n_inner=224)
    everything = derive("disguise", wide)
    comparison = compared("base0", everything)
    assert comparison.result.verdict == "related"
    assert comparison.result.layer_map == [0, 0, 1, 2, 3, 3]
    assert {"layers-inserted", "ffn-widened", "gauge-disguise", "units-rescaled"} <= kinds(comparison)


def test_the_off_diagonal_of_a_related_pair_looks_like_strangers(compared: Compare) -> None:
    for name in ("continued", "disguised+"):
        off = compared("base0", name).result.controls.off_diagonal
        on = largest_z(compared("base0", name))
        assert off["n"] == 12
        assert float(str(off["max"])) < min(0.4 * on, float(str(off["matched_min"])))


def test_what_is_said_at_one_depth_is_not_unsaid_at_the_next(zoo: Zoo) -> None:
    for name, word in (("continued", "related"), ("base1", "unrelated")):
        for depth in ("standard", "full"):
            assert compare(zoo.models["base0"], zoo.models[name], depth=depth).result.verdict == word


def fits(found: list[int | None], truth: Pair, zoo: Zoo) -> bool:
    """Whether a layer map is the true one; of layers that are copies of one another any may stand for the others."""
    blocks = zoo.registry.lineage(truth.a).blocks
    same = [
        i == t or (i is not None and t is not None and blocks[i] == blocks[t])
        for i, t in zip(found, truth.layer_map, strict=True)
    ]
    return all(same)


@pytest.mark.slow
def test_every_two_models_of_the_zoo_get_their_word_and_their_layer_map(zoo: Zoo, compared: Compare) -> None:
    wrong, drifted = [], []
    for truth in zoo.pairs:
        result = compared(truth.a, truth.b).result
        if "merged-20" in (truth.a, truth.b):
            continue  # narrow models: see test_the_minor_parent_of_a_merge_of_narrow_models_is_left_open
        half = "spliced" in (truth.a, truth.b)  # half of its layers are more than half of what a shorter model has
        if result.verdict != truth.relation and not (half and result.verdict == "partly-related"):
            wrong.append(f"{truth.a} {truth.b}: {result.verdict}, not {truth.relation}")
        elif truth.relation != "shared-initialization" and not fits(result.layer_map, truth, zoo):
            wrong.append(f"{truth.a} {truth.b}: layers {result.layer_map}, not {list(truth.layer_map)}")
        elif result.direction.verdict not in (truth.direction, "undetermined"):
            first = truth.a if result.direction.verdict == "a-to-b" else truth.b
            if truth.direction != "undetermined":
                wrong.append(f"{truth.a} {truth.b}: {result.direction.verdict}, not {truth.direction}")
            elif first not in UNMOVED:
                drifted.append(f"{truth.a} {truth.b}: {result.direction.verdict} of siblings")
    assert not wrong, "\n".join(wrong)
    assert len(drifted) <= 0.02 * len(zoo.pairs), "\n".join(drifted)


@pytest.mark.slow
def test_independent_trainings_never_reach_the_threshold(zoo: Zoo, compared: Compare) -> None:
    """Six more seeds of the same recipe, text and order: every two of them, both ways, at both thresholds."""
    training = replace(PRETRAINING, steps=100)
    recipes = {f"seed{s}": Recipe(f"seed{s}", GROUP, "llama", SIZES, s, training=training, tokenizer=TOKENIZER)
               for s in range(50, 56)}  # fmt: skip
    made = Workshop(zoo.directory.parent / f"{zoo.directory.name}-null", recipes, max_chars=MINI_CHARS).make([*recipes])
    for i, a in enumerate(made):
        for b in made[i + 1 :]:
            for pair in ((a, b), (b, a)):
                comparison = compared(*pair)
                assert comparison.result.verdict == "unrelated"
                assert largest_z(comparison) < CLEAR_Z
                tests = comparison.result.tests
                assert min((t.log10_p for t in tests if t.log10_p is not None), default=0.0) > -4
