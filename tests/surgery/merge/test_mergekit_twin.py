"""Merges of a tiny family equal those of mergekit (golden/mergekit/make.py made them), file by file in its own YAML."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file

from pedigree.errors import ProblemsFound
from pedigree.surgery.merge.layering import Origin, layer_origins, outer_origin, tensor_merge
from pedigree.surgery.merge.mergekit_file import is_mergekit, translate
from pedigree.surgery.merge.tensor_merge import as_rows, merge_tensor

torch.set_num_threads(1)
GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_family", GOLDEN / "tiny_family.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = _load()
TRUTH = load_file(GOLDEN / "merged.safetensors")
MODELS = {
    name: {key: torch.from_numpy(array) for key, array in tensors.items()} for name, tensors in TINY.family().items()
}


def merged(text: str) -> dict[str, torch.Tensor]:
    """Every tensor of a merge."""
    recipe = translate(yaml.safe_load(text), "merge.yaml").recipe
    layers = layer_origins(recipe, lambda model: int(TINY.LAYERS))
    result = {}
    for name in TINY.shapes():
        found = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if found is None:
            origin = outer_origin(recipe, lambda model: int(TINY.LAYERS), first=name.startswith("model.embed"))
            result[name] = one(recipe, origin, name, name)
        elif found[1] == "0":
            for number, origin in enumerate(layers):
                new = f"model.layers.{number}.{found[2]}"
                result[new] = one(recipe, origin, new, "model.layers.{}." + found[2])
    return result


def one(recipe: Any, origin: Origin, name: str, pattern: str) -> torch.Tensor:
    """One tensor of a merge."""

    def reader(model: str, layer: int | None) -> Any:
        tensor = MODELS[model][pattern.format(layer)]
        rows = tensor.reshape(as_rows(tensor.shape))
        return lambda a, b: rows[a:b]

    inputs = [reader(source.model, layer) for source, layer in origin.inputs]
    base = reader(recipe.base, origin.base[1]) if origin.base[0] else None
    shape = MODELS["base"][pattern.format(0)].shape
    method = tensor_merge(recipe, origin, name, None, shape)
    return torch.cat([part for _, part in merge_tensor(method, inputs, base, shape)]).reshape(shape)


@pytest.mark.parametrize("name", sorted(TINY.RECIPES))
def test_the_merge_is_mergekits_to_rounding(name: str) -> None:
    wanted = {key.removeprefix(f"{name}/"): value for key, value in TRUTH.items() if key.startswith(f"{name}/")}
    result = merged(TINY.RECIPES[name])
    assert set(result) == set(wanted)
    worst = max((result[key] - torch.from_numpy(wanted[key])).abs().max().item() for key in wanted)
    assert worst < 4e-6, worst


def test_the_golden_file_names_the_version_that_made_it() -> None:
    with safe_open(GOLDEN / "merged.safetensors", "pt") as file:
        assert file.metadata()["mergekit"] == "0.1.5"


def test_a_mergekit_file_is_known_by_its_method() -> None:
    assert is_mergekit({"merge_method": "ties"})
    assert not is_mergekit({"surgery": 1})
    assert not is_mergekit(["merge_method"])


def test_what_has_no_counterpart_is_refused_by_name_all_at_once() -> None:
    raw = {
        "merge_method": "karcher",
        "modules": {},
        "chat_template": "auto",
        "models": [{"model": "a+adapter", "weight": 1}],
        "tokenizer": {"source": "union", "tokens": {}},
        "dtype": "int8",
    }
    with pytest.raises(ProblemsFound, match="problems") as found:
        translate(raw, "m.yaml")
    text = found.value.sentence()
    for word in (
        "karcher",
        "modules",
        "chat_template",
        "adapter",
        "models: weight",
        "union",
        "tokenizer.tokens",
        "int8",
    ):
        assert word in text, word


def test_defaults_that_differ_are_written_out() -> None:
    raw = {
        "merge_method": "dare_ties", "base_model": "base", "dtype": "bfloat16",
        "models": [{"model": "first", "parameters": {"weight": 1, "density": 0.5}}], "parameters": {"int8_mask": True},
    }  # fmt: skip
    found = translate(raw, "m.yaml")
    assert found.merge["settings"] == {"rescale": "l1"}
    assert found.dtype == "BF16"
    assert len(found.notes) == 2


def test_what_a_recipe_lacks_is_told_all_at_once() -> None:
    raw = {"merge_method": "ties", "models": [{"model": "first", "parameters": {"thickness": 1}}]}
    with pytest.raises(ProblemsFound, match="3 problems") as found:
        translate(raw, "m.yaml")
    text = found.value.sentence()
    assert "needs a base model" in text
    assert "thickness" in text
    assert "no weight" in text


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": ["bfloat16"]}, {"out_dtype": {}}, {"models": 5}, {"slices": None}, {"slices": [{"sources": 5}]},
        {"tokenizer": [1]}, {"tokenizer": {"source": [1]}},
        {"tokenizer": {"source": "base", "pad_to_multiple_of": 8}},
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_a_problem_with_a_place(changed: dict[str, Any]) -> None:
    raw = {"merge_method": "dare_linear", "base_model": "a", "models": [{"model": "b", "parameters": {"weight": 1.0}}]}
    if "slices" in changed:
        del raw["models"]
    with pytest.raises(ProblemsFound, match=r"merge\.yaml"):
        translate({**raw, **changed}, "merge.yaml")
