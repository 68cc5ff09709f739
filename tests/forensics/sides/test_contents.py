"""Files whose roles are unknown are compared as bags of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from forensics.tiny_models import Sizes, generator, llama
from memory_checkpoint import MemoryCheckpoint
from safetensors.torch import save_file

from pedigree.forensics.compare import compare
from pedigree.forensics.sides.contents import Contents, compare_contents, same_contents


def bag(**tensors: torch.Tensor) -> Any:
    return MemoryCheckpoint(tensors)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


X, Y = noise(0, 20, 20), noise(1, 30, 10)


def test_names_do_not_matter() -> None:
    found = compare_contents(bag(a=X, b=Y), bag(first=Y, second=X))
    assert found.all_equal
    assert set(found.shared) == {"first", "second"}


def test_a_cast_that_loses_nothing_does_not_matter() -> None:
    coarse = X.to(torch.bfloat16)
    assert compare_contents(bag(a=coarse), bag(b=coarse.float())).all_equal


def test_part_of_the_tensors_is_part_of_the_tensors() -> None:
    found = compare_contents(bag(a=X, b=Y), bag(a=X, b=noise(2, 30, 10)))
    assert found.shared == ("a",)
    assert (found.of_a, found.of_b) == (2, 2)
    assert not found.all_equal


def test_the_same_numbers_in_another_shape_are_another_tensor() -> None:
    assert compare_contents(bag(a=X), bag(a=X.reshape(10, 40))) == Contents((), 1, 1)


def test_small_constant_and_integer_tensors_say_nothing() -> None:
    dull = {"gain": torch.ones(500), "small": noise(3, 8), "ids": torch.arange(900), "mask": torch.ones(9, 9) > 0}
    found = compare_contents(bag(a=X, **dull), bag(a=Y, **dull))
    assert found == Contents((), 1, 1)
    assert not compare_contents(bag(**dull), bag(**dull)).all_equal


def test_one_tensor_is_not_the_copy_of_two() -> None:
    found = compare_contents(bag(a=X), bag(a=X, b=X))
    assert len(found.shared) == 1
    assert not found.all_equal


def test_the_same_contents_are_every_tensor_small_ones_too() -> None:
    small = torch.ones(3)
    assert same_contents(bag(a=X, b=small), bag(c=small, d=X))
    assert not same_contents(bag(a=X, b=small), bag(a=X, b=2 * small))
    assert not same_contents(bag(a=X, b=small), bag(a=X))
    assert not same_contents(bag(a=X), bag(a=X.reshape(10, 40)))


def written(folder: Path, tensors: Mapping[str, torch.Tensor], renamed: Mapping[str, str]) -> str:
    """A model under other names of some tensors."""
    folder.mkdir()
    out = {}
    for name, tensor in tensors.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        out[name] = tensor.contiguous()
    save_file(out, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(Sizes().config("another" if renamed else "llama")))
    return str(folder)


def test_two_renamed_norms_in_each_layer_leave_a_copy_identical(tmp_path: Path) -> None:
    """Under such names the table of another architecture fits, which orders rotary rows in another way."""
    norms = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}
    a = written(tmp_path / "a", llama(0), {})
    b = written(tmp_path / "b", llama(0), norms)
    found = compare(a, b, depth="full")
    assert found.inputs.a.architecture != found.inputs.b.architecture
    assert found.result.verdict == "identical"
    assert found.result.transformations == []
    changed = llama(0)
    changed["model.layers.1.input_layernorm.weight"][3] += 1e-3
    # Nothing was learned in this model, and two trainings of one start that left most of it alone look the same.
    assert compare(a, written(tmp_path / "c", changed, norms), depth="full").result.verdict == "inconclusive"
