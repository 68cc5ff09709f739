"""Plans: published sizes, the recipes of this repository at both sizes, options, and what is refused first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from source_tree import run_python
from tests.family.recipe_examples import GOOD, read

from pedigree.errors import ProblemsFound, UsageError
from pedigree.family.devices import Device, device, measured_cpu, table
from pedigree.family.mesh import Mesh, parse_mesh
from pedigree.family.plan import PlanOptions, plan_recipe
from pedigree.family.recipe import read_recipe
from pedigree.family.sections import SIZES, Size
from pedigree.model.members import names
from pedigree.records.plan import Plan, StepPlan

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def planned(name: str, step: str, **options: Any) -> StepPlan:
    """One step of a recipe of this repository at real size."""
    recipe = read_recipe(ROOT / "recipes" / f"{name}.yaml")
    return plan_recipe(recipe, PlanOptions(size="real", only=[step], **options)).result.steps[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_planned_at_both_sizes(path: Path, size: Size) -> None:
    recipe = read_recipe(path)
    plan = plan_recipe(recipe, PlanOptions(size=size))
    assert Plan.model_validate_json(plan.to_json()).to_json() == plan.to_json()
    for step in plan.result.steps:
        assert step.steps >= 1
        if size == "pico":
            assert step.parameters.with_mtp < 5_000_000
            assert step.operations.run < 1e13, "a pico step takes minutes on two cores"
            assert step.memory.total < 1e9
    for one in recipe.family(size).steps.values():
        schedule = one.training.schedule
        assert schedule.warmup_tokens + schedule.decay_tokens <= one.training.tokens
    if size == "real" and path.stem not in ("quickstart", "pangu"):  # pangu.yaml plans no machine
        assert all(step.time is not None for step in plan.result.steps)


def test_every_member_of_the_family_is_trained_by_a_recipe() -> None:
    found = {step.model.name for path in RECIPES for step in read_recipe(path).family("real").steps.values()}
    assert set(names()) <= found


def test_what_a_recipe_says_in_its_head_can_be_run() -> None:
    from pedigree.cli.main import main

    for path in RECIPES:
        told = path.read_text(encoding="utf-8").splitlines()
        lines = [line[1:].split() for line in told if line.startswith("#   pedigree plan")]
        assert lines, f"{path.name} shows no command"
        for words in lines:
            assert words[2] == f"recipes/{path.name}"
            assert main(["plan", str(path), *words[3:]]) == 0


def test_the_steps_of_a_run_have_the_shape_of_the_last_one() -> None:
    from pedigree.model.members import member

    for name, last, full in (("pangu-ultra", "long-128k", "pangu-ultra-135b"), ("llama", "llama-3-8b", "llama-3-8b")):
        assert read_recipe(ROOT / "recipes" / f"{name}.yaml").family("real").steps[last].model == member(full)


def test_what_a_plan_imports_stays_without_tensors() -> None:
    names = ["config", "config_parts", "members", "sizes"]
    modules = [f"pedigree.model.{name}" for name in names] + ["pedigree.training.config", "pedigree.family.plan"]
    done = run_python(
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'numpy', 'tokenizers') if name in sys.modules])\n"
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_ultra_takes_what_the_report_says() -> None:
    recipe = read_recipe(ROOT / "recipes" / "pangu-ultra.yaml")
    steps = {step.name: step for step in plan_recipe(recipe, PlanOptions(size="real")).result.steps}
    published = ("general-1", "general-2", "reasoning", "annealing")
    assert sum(steps[name].tokens for name in published) == 13_200_000_000_000
    assert sum(steps[name].operations.run for name in published) == pytest.approx(1.08e25, rel=0.01)
    first = steps["general-1"]
    assert (first.mesh.devices, first.tokens_per_step) == (8192, 8_388_608)
    assert first.time is not None
    assert first.time.bubble == pytest.approx(0.068, abs=5e-4)
    unlaced = planned("pangu-ultra", "general-1", mesh=parse_mesh("dp=128,tp=8,pp=8,noop=2,micro=1"))
    assert unlaced.time is not None
    assert unlaced.time.bubble == pytest.approx(0.3045, abs=2e-4)


def test_time_follows_operations_devices_peak_efficiency_and_recomputation() -> None:
    made = Device("made", 10**15, {"any": 1e15}, 0.5)
    step = planned("dense-230b", "dense-230b", mesh=Mesh(dp=1024, micro=1), device=made, recompute="none")
    assert step.time is not None
    assert step.time.seconds == pytest.approx(step.operations.run / (1024 * 1e15 * 0.5))
    again = planned("dense-230b", "dense-230b", mesh=Mesh(dp=1024, micro=1), device=made, recompute="full")
    assert again.time is not None
    assert again.time.seconds == pytest.approx(step.time.seconds * 4 / 3)
    better = planned("dense-230b", "dense-230b", mesh=Mesh(dp=1024, micro=1), device=made, efficiency=1.0)
    assert better.time is not None
    assert better.time.seconds == pytest.approx(again.time.seconds / 2)


def test_serving_counts_the_cache() -> None:
    assert planned("pangu-pro-moe", "general").serving.cache_per_token == 196_608
    ultra = planned("pangu-ultra-moe", "pangu-ultra-moe").serving
    assert (ultra.cache_per_token, ultra.cache_at_context) == (70_272, 70_272 * 131_072)


def test_recomputation_is_what_the_recipe_says_unless_it_is_asked_for(tmp_path: Path) -> None:
    text = GOOD.replace("tokens: 13e12", "tokens: 13e12\n      activation_checkpointing: true")
    asked: tuple[Any, ...] = (None, "none", "selective")
    found = [
        plan_recipe(read(text, tmp_path), PlanOptions(only=["base"], recompute=word)).result.steps[0].memory.recompute
        for word in asked
    ]
    assert found == ["full", "none", "selective"]
    with_plan = text.replace("    model: {member", "    plan: {recompute: selective}\n    model: {member")
    (step,) = plan_recipe(read(with_plan, tmp_path), PlanOptions(only=["base"])).result.steps
    assert step.memory.recompute == "selective"


# -- refusals and warnings --------------------------------------------------------------------------------------------


def test_an_impossible_mesh_is_refused_before_any_number_with_all_reasons() -> None:
    recipe = read_recipe(ROOT / "recipes" / "pangu-pro-moe.yaml")
    with pytest.raises(ProblemsFound, match="heads cannot be shared") as caught:
        plan_recipe(recipe, PlanOptions(size="real", only=["general"], mesh=parse_mesh("dp=3,tp=7,ep=5,pp=7")))
    assert {problem.got for problem in caught.value.problems} == {
        "40 by tp=7", "8 by tp=7", "64 by ep=5", "3 by ep=5", "4096 by tp=7", "48 + 0 layers by pp=7", "1024 by dp=3",
    }  # fmt: skip


def test_one_reason_is_told_alone() -> None:
    with pytest.raises(UsageError, match="94 \\+ 2 layers by pp=10"):
        planned("pangu-ultra", "general-1", mesh=parse_mesh("pp=10,noop=2,dp=8,micro=1"))


def test_a_device_without_the_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="got bf16, expected fp16") as caught:
        planned("pangu-ultra", "general-1", device=device("ascend-910a"))
    assert caught.value.fix == "training: {precision: fp16}"


def test_an_unknown_step_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="there is no step of this name") as caught:
        planned("pangu-ultra", "general1")
    assert caught.value.fix == "did you mean 'general-1'?"


@pytest.mark.parametrize(
    ("recipe", "step", "mesh", "name", "words"),
    [
        ("dense-230b", "dense-230b", "dp=8,micro=1", "h100", "on a device of 80 GB"),
        ("pangu-ultra", "general-1", "tp=16,micro=1", None, "tp=16 holds each of the 8 key heads 2 times"),
        ("pangu-ultra", "general-1", "pp=2,micro=1", None, "zero=3 gathers the weights anew"),
        ("pangu-ultra", "general-1", "pp=47,dp=128,zero=1,micro=1", None, "stages wait 74 % of the time"),
        ("pangu-pro-moe", "general", "dp=64,ep=16,micro=1", None, "ep=16 cuts through the 8 groups of experts"),
        ("deepseek-v3", "deepseek-v3", "dp=2,micro=1", None, "465 of 129280 rows of the vocabulary have no token"),
    ],
)
def test_what_is_possible_and_unwise_is_told(recipe: str, step: str, mesh: str, name: str | None, words: str) -> None:
    where = device(name) if name else None
    told = planned(recipe, step, mesh=parse_mesh(mesh), device=where).warnings
    assert any(words in warning for warning in told), told


def test_a_plan_that_fits_has_no_warning() -> None:
    assert planned("pangu-ultra", "general-1").warnings == []


# -- devices ----------------------------------------------------------------------------------------------------------


def test_the_table_of_devices_is_plausible() -> None:
    assert set(table()) >= {"ascend-910a", "ascend-910b", "a100-80gb", "h100", "h200"}
    for row in table().values():
        assert row.memory is not None
        assert 30e9 <= row.memory <= 200e9
        assert 1e14 < max(row.peak.values()) < 3e15
        assert 0.2 < row.efficiency < 0.7
        assert row.note


def test_the_first_ascend_has_no_bf16() -> None:
    assert device("Ascend_910A").peak_at("bf16") is None
    assert device("ascend-910a").peak_at("fp16") == 256e12


def test_this_machine_is_measured_when_asked() -> None:
    found = measured_cpu(seconds=0.02, width=128)
    assert found.peak_at("fp32") == found.peak_at("bf16")
    assert 1e8 < found.peak["any"] < 1e15
    assert found.memory is None or found.memory > 10**8


def test_an_unknown_device_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="there is no device of this name") as caught:
        device("h10")
    assert caught.value.fix == "did you mean 'h100'?"
