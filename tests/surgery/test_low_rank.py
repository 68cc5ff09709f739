"""Adapters go in and come out: products are added where they belong, and a difference of low rank is found again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from surgery.merge.tiny_checkpoints import MODELS, read_tensors, run_recipe, write_checkpoint, write_family

from pedigree.errors import MalformedFile, PedigreeError, ProblemsFound
from pedigree.records.recorder import NullRecorder
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import run
from pedigree.surgery.low_rank import extract, read_adapter, rounding_loss
from pedigree.surgery.plan import make_plan
from pedigree.surgery.recipe import read_recipe
from pedigree.surgery.verify import verify

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


def test_an_adapter_touches_its_own_matrices_only(tmp_path: Path) -> None:
    """All other tensors are bytes that are copied: no model is put together in memory."""
    write_family(tmp_path)
    a, b = pair()
    names = {f"base_model.model.{Q}.lora_A.weight": a, f"base_model.model.{Q}.lora_B.weight": b}
    write_adapter(tmp_path / "adapter", names)
    (tmp_path / "plan.yaml").write_text(RECIPE.replace("OUT", "out"), encoding="utf-8")
    composition = compose(read_recipe(tmp_path / "plan.yaml"))
    assert [output.name for output in composition.outputs if not output.origin] == [f"{Q}.weight"]
    composition.close()


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


EXTRACT = """
surgery: 1
source: {model: tuned}
target: {dir: OUT}
steps:
  - lora.extract: {base: base, rank: 2}
"""


def extracted(folder: Path, text: str) -> list[str]:
    """The notes of a run of an extraction."""
    (folder / "extract.yaml").write_text(text)
    composition = compose(read_recipe(folder / "extract.yaml"))
    try:
        return run(make_plan(composition, workers=2), NullRecorder()).notes
    finally:
        composition.close()


def test_a_difference_of_low_rank_comes_out_and_goes_in_again(tmp_path: Path) -> None:
    write_family(tmp_path)
    tuned = dict(MODELS["base"])
    for number, name in enumerate(n for n in tuned if "mlp" in n):
        a, b = pair(number, *tuned[name].shape)
        tuned[name] = tuned[name] + 0.1 * b @ a
    tuned["model.norm.weight"] = tuned["model.norm.weight"] + 1
    write_checkpoint(tmp_path / "tuned", tuned)
    notes = extracted(tmp_path, EXTRACT.replace("OUT", "adapter"))
    assert re.search(
        r"of the change of 9 matrices the adapter leaves out, by rank, 1: [1-9][\d.]+%, 2: 0.00%", notes[0]
    )
    assert any("do not differ; their factors are zero" in note for note in notes)
    assert any(note.endswith("not in the adapter: model.norm.weight") for note in notes)
    back = run_recipe(tmp_path, RECIPE.replace("OUT", "back"))
    assert all(torch.allclose(back[n], tuned[n], atol=1e-5) for n in tuned if n != "model.norm.weight")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "surgery.json", "pedigree.json"}
    assert len(read_tensors(tmp_path / "adapter")) == 2 * 21  # all matrices of 3 layers, 7 each
    assert verify(tmp_path / "adapter").verdict == "not-testable"


def test_only_targets_are_extracted(tmp_path: Path) -> None:
    write_family(tmp_path)
    tuned = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in MODELS["base"].items()}
    write_checkpoint(tmp_path / "tuned", tuned)
    text = EXTRACT.replace("rank: 2", "rank: 2, targets: [q_proj, v_proj]").replace("OUT", "adapter")
    notes = extracted(tmp_path, text)
    assert any("these differ too and are not in the adapter" in note for note in notes)
    names = read_tensors(tmp_path / "adapter")
    assert {name.split(".")[-3] for name in names} == {"q_proj", "v_proj"}


def test_what_cannot_be_extracted_is_refused(tmp_path: Path) -> None:
    write_family(tmp_path)
    write_checkpoint(tmp_path / "tuned", dict(MODELS["base"]))
    with pytest.raises(PedigreeError, match="no matrix of a layer differs"):
        extracted(tmp_path, EXTRACT.replace("OUT", "nothing"))
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(PedigreeError, match="is a target"):
        extracted(tmp_path, EXTRACT.replace("rank: 2", "rank: 2, targets: [x_proj]").replace("OUT", "nothing"))
    smaller = {name: tensor for name, tensor in MODELS["base"].items() if "layers.2" not in name}
    write_checkpoint(tmp_path / "small", smaller)
    with pytest.raises(PedigreeError, match="do not have the same tensors"):
        extracted(tmp_path, EXTRACT.replace("model: tuned", "model: small").replace("OUT", "nothing"))


def test_large_matrices_are_divided_by_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """The randomized path keeps all but a little of what the best product keeps, and tells its true error."""
    generator = torch.Generator().manual_seed(1)
    delta = torch.randn(120, 8, generator=generator) @ torch.randn(8, 90, generator=generator)
    delta += 0.05 * torch.randn(120, 90, generator=generator)
    best = extract(delta, 8)
    monkeypatch.setattr("pedigree.surgery.low_rank.EXACT_SIDE", 10)
    found = extract(delta, 8)
    true = ((found.b_Or @ found.a_rI - delta).norm() / delta.norm()).item()
    assert found.error == pytest.approx(true, rel=1e-4)
    assert found.error <= best.error * 1.001


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


def test_a_config_without_end_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(MalformedFile, match="is not JSON"):
        read_adapter(str(tmp_path))
