"""Upcycling and densifying: laws on trained-looking weights, through files, against the decoder and transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
from pedigree.model.members import member
from pedigree.records.recorder import NullRecorder
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import run
from pedigree.surgery.plan import make_plan
from pedigree.surgery.recipe import read_recipe

VOCABULARY = 200


def dense_model(name: str, seed: int = 1, **changes: object) -> Decoder:
    model = Decoder(member(f"{name}-pico").replace(vocab_size=VOCABULARY, n_layers=2, **changes), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def operated(place: Path, model: Decoder, steps: str, *, nfp: bool = False) -> tuple[Decoder, str]:
    """The model after a recipe with these steps, and the exactness that was told."""
    export_checkpoint(model, place / "a", force=True)
    allow = "allow: nfp\n" if nfp else ""
    recipe = place / "recipe.yaml"
    recipe.write_text(
        f"surgery: 1\nsource: {{model: ./a}}\ntarget: {{dir: ./b}}\n{allow}steps:\n{steps}\n", encoding="utf-8"
    )
    composition = compose(read_recipe(recipe))
    try:
        run(make_plan(composition), NullRecorder(), force=True)
        return import_checkpoint(place / "b"), composition.whole.word
    finally:
        composition.close()


def difference(a: Decoder, b: Decoder) -> float:
    tokens = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return float((a(tokens, return_logits=True).logits - b(tokens, return_logits=True).logits).abs().max())


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(copies=st.integers(2, 4), chosen=st.integers(1, 3), shards=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_copies_and_shards_keep_the_function_under_any_router(
    tmp_path: Path, copies: int, chosen: int, shards: int, seed: int
) -> None:
    model = dense_model("llama-3-8b", seed)
    op = "copy" if shards == 1 else f"granular, shards: {shards}"
    k = min(chosen, copies) * shards
    step = f"  - moe.upcycle: {{experts: {copies * shards}, op: {op}, top_k: {k}, router_std: 1.0}}"
    made, word = operated(tmp_path, model, step)
    assert word == "FP1"
    assert made.config.experts is not None
    assert made.config.experts.d_expert * shards == model.config.feed_forward.d_inner
    assert difference(model, made) < 2e-5


@pytest.mark.parametrize("padding", [0, 6, 8])
def test_grouped_experts_with_a_silent_router_are_the_dense_network(tmp_path: Path, padding: int) -> None:
    model = dense_model("qwen2.5-14b")
    inner = model.config.feed_forward.d_inner
    shared = inner - 8 * 16
    step = f"  - moe.upcycle: {{experts: 16, op: grouped, groups: 8, shared: {shared}, width: {16 + padding}}}"
    made, word = operated(tmp_path, model, step)
    experts = made.config.experts
    assert experts is not None
    assert (word, experts.router, experts.n_groups, experts.top_k) == ("FP1", "grouped", 8, 8)
    assert made.config.attention.o_bias  # type: ignore[union-attr]  # the architecture has one; it is zero
    assert difference(model, made) < 2e-5
    noisy, word = operated(tmp_path, model, step.replace("}", ", router_std: 0.5}"))
    assert word == "FP-epsilon"
    assert difference(model, noisy) > 1e-3


def test_the_old_width_of_qwen_needs_a_shared_expert_which_adds_nothing(tmp_path: Path) -> None:
    model = dense_model("qwen2.5-14b")
    made, _ = operated(tmp_path, model, "  - moe.upcycle: {experts: 4, shared: 32}")
    assert difference(model, made) < 2e-5
    with pytest.raises(PedigreeError, match="no published architecture"):
        operated(tmp_path, model, "  - moe.upcycle: {experts: 4}")


def test_units_that_are_drawn_anew_are_the_same_in_all_matrices_of_an_expert_and_differ_between_experts(
    tmp_path: Path,
) -> None:
    model = dense_model("llama-3-8b")
    made, word = operated(tmp_path, model, "  - moe.upcycle: {experts: 3, reinit: 0.5}", nfp=True)
    assert word == "NFP"
    ffn = model.layers[0].ffn
    inner = model.config.feed_forward.d_inner
    enter_END, down_EDN = made.layers[0].ffn.experts.enter, made.layers[0].ffn.experts.down
    kept = []
    for expert in range(3):
        gate_ND, up_ND = enter_END[expert].split(inner)
        same = [
            (gate_ND == ffn.gate.weight).all(1), (up_ND == ffn.up.weight).all(1),
            (down_EDN[expert] == ffn.down.weight).all(0),
        ]  # fmt: skip
        assert torch.equal(same[0], same[1])
        assert torch.equal(same[0], same[2])
        assert int(same[0].sum()) == inner - round(inner / 2)
        kept.append(same[0])
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize(
    "op", ["op: average", "op: keep, experts: [2]", "op: keep, experts: [0, 1]", "op: concatenate"]
)
def test_experts_that_are_equal_become_the_network_they_were_copied_from(tmp_path: Path, op: str) -> None:
    model = dense_model("llama-3-8b")
    steps = f"  - moe.upcycle: {{experts: 3}}\n  - moe.densify: {{{op}}}"
    made, word = operated(tmp_path, model, steps, nfp=True)
    assert word == "NFP"
    assert made.config.experts is None
    assert difference(model, made) < 2e-5


def test_one_expert_of_each_group_and_the_shared_one_are_the_dense_network_again(tmp_path: Path) -> None:
    model = dense_model("qwen2.5-14b")
    shared = model.config.feed_forward.d_inner - 4 * 16
    steps = (
        f"  - moe.upcycle: {{experts: 8, op: grouped, groups: 4, shared: {shared}}}\n"
        "  - moe.densify: {op: keep, experts: [1, 2, 5, 6]}"
    )
    made, _ = operated(tmp_path, model, steps, nfp=True)
    assert made.config.feed_forward.d_inner == model.config.feed_forward.d_inner
    assert difference(model, made) < 2e-5


def test_what_comes_out_loads_with_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = dense_model("llama-3-8b")
    operated(tmp_path, model, "  - moe.upcycle: {experts: 4, top_k: 2}")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(loaded).__name__ == "MixtralForCausalLM"
    tokens = torch.arange(24)[None]
    with torch.no_grad():
        gap = (loaded(tokens).logits - model(tokens, return_logits=True).logits).abs().max()
    assert float(gap) < 1e-4


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("moe.upcycle: {experts: 6, op: granular, shards: 4, top_k: 4}", "do not divide experts"),
        ("moe.upcycle: {experts: 4, op: granular, shards: 2, top_k: 3}", "do not divide top_k"),
        ("moe.upcycle: {experts: 4, top_k: 5}", "more experts are chosen"),
        ("moe.upcycle: {experts: 8, op: grouped, groups: 3, shared: 8}", "do not divide the experts"),
        ("moe.upcycle: {experts: 8, op: grouped, groups: 8, shared: 1}", "does not divide into groups"),
        ("moe.densify: {op: average}", "has no experts"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path, step: str, words: str) -> None:
    with pytest.raises(PedigreeError, match=words):
        operated(tmp_path, dense_model("llama-3-8b"), f"  - {step}", nfp=True)
    assert not (tmp_path / "b").exists()
