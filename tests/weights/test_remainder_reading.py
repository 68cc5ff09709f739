"""What another model does not explain: read as a checkpoint, whole, by rows and by numbers.

Shapes: N = rows of a tensor, D = columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pedigree.errors import MissingInput
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint
from pedigree.weights.remainder import Remainder, can_be_taken_out

Tensors = dict[str, Tensor]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Checkpoint, Checkpoint, Tensors, Tensors]]:
    """Two files that share three names, of which one has other shapes and one is a vector."""
    generator = torch.Generator().manual_seed(3)
    first = {
        "both": torch.randn(6, 4, generator=generator), "cast": torch.randn(6, 4, generator=generator),
        "gain": torch.randn(4, generator=generator), "other": torch.randn(5, 4, generator=generator),
        "mine": torch.randn(2, 2, generator=generator),
    }  # fmt: skip
    second = {
        "both": torch.randn(6, 4, generator=generator), "cast": torch.randn(6, 4, generator=generator).bfloat16(),
        "gain": torch.randn(4, generator=generator), "other": torch.randn(4, 4, generator=generator),
    }  # fmt: skip
    with ExitStack() as stack:
        opened = []
        for name, tensors in (("first", first), ("second", second)):
            save_file(tensors, tmp_path / f"{name}.safetensors")
            opened.append(stack.enter_context(open_checkpoint(tmp_path / f"{name}.safetensors")))
        yield opened[0], opened[1], first, second


def test_only_matrices_of_one_name_and_shape_can_be_taken_out(
    pair: tuple[Checkpoint, Checkpoint, Tensors, Tensors],
) -> None:
    assert can_be_taken_out(pair[0], pair[1]) == ["both", "cast"]


@pytest.mark.parametrize("name", ["both", "cast"])
def test_every_way_to_read_takes_the_share_out_once(
    name: str, pair: tuple[Checkpoint, Checkpoint, Tensors, Tensors]
) -> None:
    whole, other, first, second = pair
    rest = Remainder(whole, other, {name: 0.8})
    expected_ND = first[name] - 0.8 * second[name].float()
    rows = [4, 0, 4]
    assert torch.equal(rest.read(name), expected_ND)
    assert torch.equal(rest.read_rows(name, 1, 4), expected_ND[1:4])
    assert torch.equal(rest.read_index(name, rows), expected_ND[rows])


def test_what_has_no_share_is_the_models_own_and_the_model_stays_as_it_is(
    pair: tuple[Checkpoint, Checkpoint, Tensors, Tensors],
) -> None:
    whole, other, first, _ = pair
    rest = Remainder(whole, other, {"both": 0.8})
    for name in ("cast", "gain", "other", "mine"):
        assert torch.equal(rest.read(name), first[name])
    assert torch.equal(whole.read("both"), first["both"])
    assert (rest.location, rest.meter, rest.config) == (whole.location, whole.meter, whole.config)
    with pytest.raises(MissingInput, match="no such tensor"):
        rest.read("none")
