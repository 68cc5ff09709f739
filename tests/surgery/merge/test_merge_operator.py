"""Merges by the engine: the files equal mergekit's to rounding, and what mergekit gets wrong comes out right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from surgery.merge.tiny_checkpoints import (
    GOLDEN,
    MODELS,
    TINY,
    read_tensors,
    run_recipe,
    write_checkpoint,
    write_family,
)

from pedigree.errors import PedigreeError, ProblemsFound
from pedigree.records.recorder import NullRecorder
from pedigree.surgery import plan as planning
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import run
from pedigree.surgery.foreign import read_any_recipe

torch.set_num_threads(1)
TRUTH = load_file(GOLDEN / "merged.safetensors")


@pytest.mark.parametrize("name", sorted(TINY.RECIPES))
def test_a_mergekit_yaml_gives_mergekits_tensors(name: str, tmp_path: Path) -> None:
    found = run_recipe(write_family(tmp_path), TINY.RECIPES[name], name)
    wanted = {key.removeprefix(f"{name}/"): value for key, value in TRUTH.items() if key.startswith(f"{name}/")}
    assert set(found) == set(wanted)
    worst = max((found[key] - wanted[key]).abs().max().item() for key in wanted)
    assert worst < 4e-6, worst


def test_arithmetic_is_float32_whatever_the_files_hold(tmp_path: Path) -> None:
    """mergekit adds in bfloat16 unless told otherwise."""
    write_family(tmp_path, torch.bfloat16)
    recipe = TINY.RECIPES["task_arithmetic"].replace("dtype: float32", "")
    found = run_recipe(tmp_path, recipe)
    for key, tensor in found.items():
        base, first, second = (MODELS[name][key].bfloat16().double() for name in ("base", "first", "second"))
        exact = base + 0.9 * (0.6 * (first - base) + 0.8 * (second - base))
        assert tensor.dtype == torch.bfloat16
        # One rounding: half a unit in the last place of 8 bits is at most this, and float32's own error.
        assert ((tensor.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


TIES = """
surgery: 1
source: {model: base}
target: {dir: OUT}
allow: nfp
steps:
  - merge: {method: ties, base: source, models: [{model: first, weight: 1, density: 0.3}]}
"""


def test_what_is_kept_of_bfloat16_files_is_the_largest_of_the_exact_changes(tmp_path: Path) -> None:
    """Changes rounded to bfloat16 tie in masses and would put the cut elsewhere."""
    write_family(tmp_path, torch.bfloat16)
    found = run_recipe(tmp_path, TIES.replace("OUT", "one"))
    for key, tensor in found.items():
        base, first = (MODELS[name][key].bfloat16().float() for name in ("base", "first"))
        change = first - base
        least = change.abs().flatten().sort(descending=True).values[max(1, int(0.3 * change.numel())) - 1]
        sure = (change.abs() != least) & (tensor != base.bfloat16())  # those that tie with the last one are drawn
        assert torch.equal((change.abs() > least) & sure, sure), key


def test_inputs_are_read_once_where_they_can_be_held_and_anew_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_family(tmp_path)
    results = []
    for name, held, tile in (("one", 1 << 20, 1 << 20), ("two", 0, 1 << 20), ("three", 1 << 20, 7)):
        monkeypatch.setattr(planning, "HELD_BYTES", held)
        monkeypatch.setattr(planning, "TILE_ELEMENTS", tile)
        (tmp_path / "ties.yaml").write_text(TIES.replace("OUT", name), encoding="utf-8")
        composition = compose(read_any_recipe(tmp_path / "ties.yaml")[0])
        planned = planning.make_plan(composition, workers=3)
        outcome = run(planned, NullRecorder())
        composition.close()
        assert planned.statistics == ()
        assert outcome.read_bytes == planned.read_bytes or tile < 8  # of vectors every tile reads the whole
        results.append((outcome.read_bytes, read_tensors(outcome.target)))
    (once, first), (thrice, second), (_, third) = results
    assert thrice == 3 * once
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], third[name]) for name in first)


def test_draws_do_not_depend_on_tensors_around_or_on_workers(tmp_path: Path) -> None:
    """mergekit draws from one global stream, so the order of tensors decides."""
    text = """
surgery: 1
source: {model: base}
target: {dir: OUT, seed: 11}
allow: nfp
steps:
  - merge: {method: dare_linear, base: source, models: [{model: first, weight: 1, density: 0.5}]}
"""
    write_family(tmp_path)
    one = run_recipe(tmp_path, text.replace("OUT", "one"))
    two = run_recipe(tmp_path, text.replace("OUT", "two"))
    other = run_recipe(tmp_path, text.replace("OUT", "three").replace("seed: 11", "seed: 12"))
    key = "model.layers.1.mlp.up_proj.weight"
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one[key], other[key])
    kept = (one[key] != MODELS["base"][key]).float().mean()
    assert 0.3 < kept < 0.7


def test_a_tensor_that_one_model_lacks_is_named_before_anything_is_written(tmp_path: Path) -> None:
    write_family(tmp_path)
    short = {key: tensor for key, tensor in MODELS["second"].items() if "layers.1.mlp.up" not in key}
    write_checkpoint(tmp_path / "second", short)
    with pytest.raises(PedigreeError, match=r"mlp\.up of layer 1|has no such part"):
        run_recipe(tmp_path, TINY.RECIPES["linear"], "m")
    assert not (tmp_path / "m").exists()


def test_tables_of_different_height_are_refused_and_nothing_is_cut_off(tmp_path: Path) -> None:
    """mergekit takes the rows both have, and warns."""
    write_family(tmp_path)
    longer = dict(MODELS["second"])
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        longer[key] = torch.cat([longer[key], torch.zeros(8, TINY.WIDTH)])
    write_checkpoint(tmp_path / "second", longer, {**TINY.CONFIG, "vocab_size": TINY.ROWS + 8})
    with pytest.raises(ProblemsFound, match="shapes differ") as found:
        run_recipe(tmp_path, TINY.RECIPES["linear"], "m")
    assert "(24, 8), (32, 8)" in found.value.sentence()
    assert "vocabulary: base" in str(found.value.problems[0].fix)


def test_models_of_another_shape_are_refused_at_plan_time(tmp_path: Path) -> None:
    write_family(tmp_path)
    wide = {key: torch.cat([t, t]) if key.endswith("up_proj.weight") else t for key, t in MODELS["second"].items()}
    write_checkpoint(tmp_path / "second", wide)
    with pytest.raises(PedigreeError, match=r"shapes differ|another shape"):
        run_recipe(tmp_path, TINY.RECIPES["linear"], "m")


def test_slices_rewrite_the_config_layer_by_layer(tmp_path: Path) -> None:
    """mergekit changes the number of layers and leaves lists by layer as they were."""
    write_family(tmp_path)
    config = {**TINY.CONFIG, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}
    for name in ("first", "second"):
        write_checkpoint(tmp_path / name, MODELS[name], config)
    run_recipe(tmp_path, TINY.RECIPES["passthrough"], "m")
    import json

    written = json.loads((tmp_path / "m" / "config.json").read_text())
    assert written["num_hidden_layers"] == 4
    assert written["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def test_block_scales_of_8_bit_weights_are_multiplied_in_before_anything_is_merged(tmp_path: Path) -> None:
    """mergekit would merge the 8-bit numbers and their scales as unrelated tensors."""
    write_family(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    for model, scale in (("first", 0.5), ("second", 3.0)):
        stored = (MODELS[model][name] / scale).to(torch.float8_e4m3fn)
        tensors = MODELS[model] | {name: stored, f"{name}_scale_inv": torch.full((1, 1), scale)}
        write_checkpoint(tmp_path / model, tensors)
    recipe = """
surgery: 1
source: {model: first}
target: {dir: OUT}
allow: nfp
steps:
  - merge: {method: linear, models: [{model: source, weight: 1}, {model: second, weight: 1}]}
  - cast: {to: float32}
"""
    found = run_recipe(tmp_path, recipe.replace("OUT", "out"))
    wanted = (
        sum((MODELS[m][name] / s).to(torch.float8_e4m3fn).float() * s for m, s in (("first", 0.5), ("second", 3.0))) / 2
    )
    assert f"{name}_scale_inv" not in found
    assert torch.allclose(found[name], wanted, atol=1e-6)


def test_vocabularies_are_matched_by_token_and_padding_stays(tmp_path: Path) -> None:
    """mergekit compares rows by number where no tokenizer is named, and cuts padding off where one is."""
    from surgery.merge.tiny_checkpoints import write_tokenizer

    write_family(tmp_path)
    tokens = [chr(ord("a") + n) for n in range(20)]  # rows 20 to 23 are padding
    write_tokenizer(tmp_path / "first", tokens)
    write_tokenizer(tmp_path / "second", [*reversed(tokens[:19]), "z"])  # "t" is missing, "z" is more
    recipe = """
surgery: 1
source: {model: first}
target: {dir: OUT}
allow: nfp
steps:
  - merge: {method: linear, vocabulary: source, models: [{model: source, weight: 1}, {model: second, weight: 1}]}
"""
    found = run_recipe(tmp_path, recipe.replace("OUT", "out"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        first, second = MODELS["first"][name], MODELS["second"][name]
        matched = torch.cat([second[:19].flip(0), first[19:]])
        assert torch.allclose(found[name], (first + matched) / 2, atol=1e-6)
        assert torch.allclose(found[name][19:], first[19:], atol=1e-6)
    body = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(found[body], (MODELS["first"][body] + MODELS["second"][body]) / 2, atol=1e-6)


def test_a_trained_tensor_without_a_role_is_refused_not_left_unmerged(tmp_path: Path) -> None:
    write_family(tmp_path)
    for name in ("first", "second"):
        extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
        write_checkpoint(tmp_path / name, MODELS[name] | extra)
    run_recipe(tmp_path, TINY.RECIPES["linear"], "buffers")
    for name in ("first", "second"):
        write_checkpoint(tmp_path / name, MODELS[name] | {"model.layers.0.mystery.weight": torch.ones(8, 8)})
    with pytest.raises(PedigreeError, match="without a role"):
        run_recipe(tmp_path, TINY.RECIPES["linear"], "mystery")
