"""Adapters go in and come out: products are added where they belong, and a difference of low rank is found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from surgery.merge.tiny_checkpoints import MODELS, read_tensors, run_recipe, write_checkpoint, write_family

from pedigree.errors import OutputExists, PedigreeError, ProblemsFound, UsageError
from pedigree.surgery.adapter_extraction import extract_adapter
from pedigree.surgery.low_rank import extract, rounding_loss
from pedigree.weights.checkpoint import open_checkpoint

torch.set_num_threads(1)
RECIPE = """
surgery: 1
source: {model: base}
target: {dir: OUT}
allow: nfp
steps:
  - lora.merge: {adapter: adapter}
"""
Q, TABLE = "model.layers.1.self_attn.q_proj", "model.embed_tokens"


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> None:
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6, **config}))


def pair(seed: int = 0, rows: int = 8, columns: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)


@pytest.mark.parametrize(
    ("config", "scale"), [({}, 3.0), ({"use_rslora": True}, 6 / 2**0.5), ({"alpha_pattern": {"q_proj": 1}}, 0.5)]
)
def test_an_adapter_adds_its_scaled_product(config: dict[str, Any], scale: float, tmp_path: Path) -> None:
    write_family(tmp_path)
    a, b = pair()
    write_adapter(
        tmp_path / "adapter",
        {f"base_model.model.{Q}.lora_A.weight": a, f"base_model.model.{Q}.lora_B.weight": b},
        **config,
    )
    found = run_recipe(tmp_path, RECIPE.replace("OUT", "out"))
    for name, tensor in MODELS["base"].items():
        if name == f"{Q}.weight":
            assert torch.allclose(found[name], tensor + scale * b @ a, atol=1e-5)
        else:
            assert torch.equal(found[name], tensor), name


def test_an_embedding_adapter_is_stored_the_other_way_round(tmp_path: Path) -> None:
    write_family(tmp_path)
    a, b = pair(rows=8, columns=24)
    stem = f"base_model.model.{TABLE}"
    write_adapter(tmp_path / "adapter", {f"{stem}.lora_embedding_A": a, f"{stem}.lora_embedding_B": b})
    found = run_recipe(tmp_path, RECIPE.replace("OUT", "out"))
    assert torch.allclose(found[f"{TABLE}.weight"], MODELS["base"][f"{TABLE}.weight"] + 3 * (b @ a).T, atol=1e-5)


def test_dora_gives_rows_their_length(tmp_path: Path) -> None:
    write_family(tmp_path)
    a, b = pair()
    length = torch.linspace(1, 2, 8)
    stem = f"base_model.model.{Q}"
    write_adapter(tmp_path / "adapter", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b,
                                         f"{stem}.lora_magnitude_vector": length}, use_dora=True)  # fmt: skip
    found = run_recipe(tmp_path, RECIPE.replace("OUT", "out"))[f"{Q}.weight"]
    direction = MODELS["base"][f"{Q}.weight"] + 3 * b @ a
    assert torch.allclose(found.norm(dim=1), length, atol=1e-5)
    assert torch.allclose(found / length[:, None], direction / direction.norm(dim=1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [({f"{Q}.lora_A.weight": (2, 8)}, "no partner"), ({"model.layers.9.mlp.up_proj.lora_A.weight": (2, 8),
      "model.layers.9.mlp.up_proj.lora_B.weight": (16, 2)}, "no such module"),
     ({f"{Q}.lora_A.weight": (2, 5), f"{Q}.lora_B.weight": (8, 2)}, "does not fit"),
     ({f"{Q}.lora_A.weight": (2, 8), f"{Q}.lora_B.weight": (8, 3)}, "do not fit each other"),
     ({"lm_head.weight": (24, 8)}, "replaces a whole tensor")],
)  # fmt: skip
def test_what_does_not_belong_to_the_base_is_refused_by_name(
    tensors: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    write_family(tmp_path)
    write_adapter(tmp_path / "adapter", {name: torch.zeros(shape) for name, shape in tensors.items()})
    with pytest.raises(PedigreeError, match=message):
        run_recipe(tmp_path, RECIPE.replace("OUT", "out"))
    assert not (tmp_path / "out").exists()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 12), columns=st.integers(1, 12), rank=st.integers(1, 12))
def test_extraction_is_the_best_of_its_rank_and_says_its_error(seed: int, rows: int, columns: int, rank: int) -> None:
    delta = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found = extract(delta, rank)
    error = ((found.b_Or @ found.a_rI - delta).norm() / delta.norm()).item()
    assert error == pytest.approx(found.error, abs=1e-5)
    singular = torch.linalg.svdvals(delta)
    assert found.error == pytest.approx((singular[rank:].norm() / singular.norm()).item(), abs=1e-5)


def test_a_difference_of_low_rank_comes_out_and_goes_in_again(tmp_path: Path) -> None:
    write_family(tmp_path)
    tuned = dict(MODELS["base"])
    for number, name in enumerate(n for n in tuned if "mlp" in n):
        a, b = pair(number, *tuned[name].shape)
        tuned[name] = tuned[name] + 0.1 * b @ a
    tuned["model.norm.weight"] = tuned["model.norm.weight"] + 1
    write_checkpoint(tmp_path / "tuned", tuned)
    with open_checkpoint(tmp_path / "base") as base, open_checkpoint(tmp_path / "tuned") as other:
        found = extract_adapter(base, other, tmp_path / "adapter", rank=2)
        with pytest.raises(OutputExists, match="already there"):
            extract_adapter(base, other, tmp_path / "adapter", rank=2)
        with pytest.raises(UsageError, match="no matrix of a layer differs"):
            extract_adapter(base, base, tmp_path / "nothing", rank=2)
    assert max(found.errors.values()) < 1e-5
    assert len(found.errors) == 9
    assert found.left_out == ["model.norm.weight"]
    back = run_recipe(tmp_path, RECIPE.replace("OUT", "back"))
    assert all(torch.allclose(back[n], tuned[n], atol=1e-5) for n in tuned if n != "model.norm.weight")
    assert read_tensors(tmp_path / "adapter")


def test_rounding_takes_small_changes_away_and_the_loss_says_so() -> None:
    base = torch.ones(64, 64)
    assert rounding_loss(base + 1e-4, (base + 1e-4).bfloat16(), base) == pytest.approx(1.0, rel=1e-3)
    assert rounding_loss(base + 1e-4, base + 1e-4, base) == 0.0


def test_the_plan_tells_what_rounding_takes_away(tmp_path: Path) -> None:
    from pedigree.surgery.composition import compose
    from pedigree.surgery.foreign import read_any_recipe

    write_family(tmp_path, torch.bfloat16)
    a, b = pair()
    write_adapter(tmp_path / "adapter", {f"{Q}.lora_A.weight": a * 1e-3, f"{Q}.lora_B.weight": b})
    (tmp_path / "r.yaml").write_text(RECIPE.replace("OUT", "out"))
    composition = compose(read_any_recipe(tmp_path / "r.yaml")[0])
    composition.close()
    assert any("rounding to the stored type takes away" in note for note in composition.symbolic.notes)


def test_all_problems_of_an_adapter_are_told_at_once(tmp_path: Path) -> None:
    write_family(tmp_path)
    names = ("model.layers.9.mlp.up_proj", "model.layers.8.mlp.up_proj")
    tensors = {f"{name}.lora_{side}.weight": torch.zeros(2, 2) for name in names for side in "AB"}
    write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(ProblemsFound, match="2 problems"):
        run_recipe(tmp_path, RECIPE.replace("OUT", "out"))
