"""Files whose roles are unknown are compared as bags of tensors."""

from __future__ import annotations

from typing import Any

import torch
from forensics.tiny_models import generator
from memory_checkpoint import MemoryCheckpoint

from pedigree.forensics.contents import Contents, compare_contents


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
