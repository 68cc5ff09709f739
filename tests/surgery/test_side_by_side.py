"""Where a result departs from its source: layer by layer, on the same inputs, with one layer in memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.surgery.surgery_models import operate, quick_folder, tensors, write_model
from tests.surgery.test_experts import dense_model, operated

from pedigree.surgery.side_by_side import DriftSums
from pedigree.surgery.streamed import StreamedModel
from pedigree.surgery.verify import verify


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as made:
        yield made


def damage(target: Path, name: str, factor: float = 1.2) -> None:
    found = tensors(target)
    found[name] = found[name] * factor
    save_file(found, target / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_that_departs_is_named_and_those_behind_it_are_judged_by_themselves(
    folder: Path, dtype: torch.dtype
) -> None:
    source = write_model(folder / "source", "llama", dtype=dtype, num_hidden_layers=4)
    operate(source, folder / "target", [{"grow.depth": {"op": "identity", "after": [1, 3]}}, {"grow.ffn": {"to": 30}}])
    check = verify(folder / "target")
    assert (check.verdict, check.departs_at) == ("pass", None)
    assert [one.source for one in check.layers] == [None, 0, 1, None, 2, 3, None]
    assert all(one.same_inputs and one.error <= one.limit for one in check.layers)
    damage(folder / "target", "model.layers.4.mlp.down_proj.weight", 1.5)
    broken = verify(folder / "target")
    assert (broken.verdict, broken.departs_at) == ("fail", 4)
    assert [one.layer for one in broken.layers if one.error > one.limit] == [4]


def test_a_copy_that_adds_something_departs(folder: Path) -> None:
    source = write_model(folder / "source", "qwen3", num_hidden_layers=3)
    operate(source, folder / "target", [{"grow.depth": {"op": "identity", "after": [1]}}])
    found = tensors(folder / "target")
    found["model.layers.2.self_attn.o_proj.weight"] = torch.full((16, 16), 0.1)
    save_file(found, folder / "target" / "model.safetensors")
    check = verify(folder / "target")
    assert (check.verdict, check.departs_at) == ("fail", 2)


@pytest.mark.parametrize(
    "step", [{"grow.hidden": {"to": 28}}, {"grow.hidden": {"to": 32, "op": "clone"}}, "launder.permute",
             {"launder.rotate": {"block": 8}}],
)  # fmt: skip
def test_a_stream_in_another_basis_is_followed_by_its_inner_products(folder: Path, step: Any) -> None:
    source = write_model(folder / "source", "llama", num_hidden_layers=3)
    operate(source, folder / "target", [step])
    check = verify(folder / "target")
    assert (check.verdict, check.departs_at) == ("pass", None)
    assert not any(one.same_inputs for one in check.layers)
    damage(folder / "target", "model.layers.1.self_attn.v_proj.weight", 3.0)
    broken = verify(folder / "target")
    assert (broken.verdict, broken.departs_at) == ("fail", 1)


def test_damaged_embeddings_are_told_before_any_layer(folder: Path) -> None:
    source = write_model(folder / "source", "llama")
    operate(source, folder / "target", [{"grow.ffn": {"to": 30}}])
    found = tensors(folder / "target")
    found["model.embed_tokens.weight"][7] += 1.0
    save_file(found, folder / "target" / "model.safetensors")
    check = verify(folder / "target")
    assert (check.verdict, check.departs_at) == ("fail", -1)


def test_layers_that_are_gone_leave_the_logits_to_be_compared(folder: Path) -> None:
    source = write_model(folder / "source", "llama", num_hidden_layers=3)
    operate(source, folder / "target", [{"prune.depth": {"drop": [1]}}], allow="nfp")
    check = verify(folder / "target")
    assert (check.verdict, check.departs_at) == ("no-claim", None)
    assert check.drift is not None
    assert check.drift.kl > 0


def test_one_layer_of_one_model_is_in_memory_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(folder / "source", "llama", num_hidden_layers=5, dtype=torch.bfloat16)
    operate(source, folder / "target", [{"grow.ffn": {"to": 30}}])
    alive: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
    most = 0
    opened = StreamedModel.layer

    def counted(self: StreamedModel, layer: int) -> Any:
        nonlocal most
        block = opened(self, layer)
        alive.add(block)
        most = max(most, len(alive))
        return block

    monkeypatch.setattr(StreamedModel, "layer", counted)
    assert verify(folder / "target").verdict == "pass"
    assert most == 1


def test_a_query_layer_and_random_experts_are_run(tmp_path: Path) -> None:
    model = dense_model("pangu-alpha-13b", n_positions=32)
    operated(tmp_path, model, "  - moe.upcycle: {experts: 4, router: random, first_dense: 1}")
    check = verify(tmp_path / "b")
    assert (check.verdict, check.exactness, check.departs_at) == ("pass", "FP1", None)
    assert [one.source for one in check.layers] == [None, 0, 1]


def test_sums_over_places_are_those_of_all_places() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(30, 11, generator=generator) for _ in range(2))
    whole, parts = DriftSums(), DriftSums()
    whole.add(a, b)
    for start in range(0, 30, 7):
        parts.add(a[start : start + 7], b[start : start + 7])
    for name, value in whole.drift().model_dump().items():
        assert getattr(parts.drift(), name) == pytest.approx(value, rel=1e-9)
    assert whole.drift().old_spread == pytest.approx(float(a.double().std()))
