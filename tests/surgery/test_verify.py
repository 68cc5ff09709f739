"""Results held against their sources: the gate passes what is exact and fails what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.surgery.surgery_models import logits, operate, quick_folder, tensors, write_model

from pedigree.errors import MissingInput
from pedigree.surgery.streamed import StreamedModel
from pedigree.surgery.verify import verify
from pedigree.weights.checkpoint import open_checkpoint


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as made:
        yield made


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_layer_by_layer_gives_the_logits_of_the_whole_model(folder: Path, kind: str) -> None:
    source = write_model(folder / "source", kind)
    tokens_BT = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(5))
    with open_checkpoint(str(source)) as checkpoint:
        found = StreamedModel(checkpoint).logits(tokens_BT)
    assert torch.allclose(found, logits(source).reshape(found.shape), atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exact_result_passes_and_a_damaged_one_fails(folder: Path, dtype: torch.dtype) -> None:
    source = write_model(folder / "source", "llama", dtype=dtype)
    target = folder / "target"
    operate(source, target, [{"grow.hidden": {"to": 28}}, {"grow.ffn": {"to": 40}}])
    check = verify(target)
    assert (check.verdict, check.exactness, check.tokens) == ("pass", "FP1", 256)
    damaged = tensors(target)
    name = "model.layers.1.input_layernorm.weight"  # as if the correction of the gain had been forgotten
    damaged[name] = damaged[name] * (28 / 16) ** 0.5
    save_file(damaged, target / "model.safetensors")
    assert verify(target).verdict == "fail"


def test_the_classes_have_their_own_gates(folder: Path) -> None:
    source = write_model(folder / "source", "llama")
    operate(source, folder / "cast", [{"cast": {"to": "bfloat16"}}])
    assert verify(folder / "cast").verdict == "pass"
    operate(source, folder / "identity", [{"grow.depth": {"op": "identity", "after": [0]}}])
    check = verify(folder / "identity")
    assert check.drift is not None
    assert (check.verdict, check.drift.largest) == ("pass", 0.0)
    operate(source, folder / "stack", [{"grow.depth": {"op": "stack", "times": 2}}], allow="nfp")
    assert verify(folder / "stack").verdict == "no-claim"


def test_layouts_that_are_not_run_are_said_not_to_be(folder: Path) -> None:
    source = write_model(folder / "source", "gpt_neox")
    operate(source, folder / "target", [{"grow.depth": {"op": "identity", "after": [0]}}])
    assert verify(folder / "target").verdict == "not-testable"


def test_a_folder_of_another_make_is_refused(folder: Path) -> None:
    with pytest.raises(MissingInput, match="was not made by"):
        verify(write_model(folder / "source", "llama"))
