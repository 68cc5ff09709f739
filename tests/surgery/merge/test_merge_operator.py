"""Merges by the engine: the files equal mergekit's to rounding, and what mergekit gets wrong comes out right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from surgery.merge.tiny_checkpoints import GOLDEN, MODELS, TINY, run_recipe, write_checkpoint, write_family

from pedigree.errors import PedigreeError, ProblemsFound

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
