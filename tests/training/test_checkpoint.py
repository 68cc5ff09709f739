"""Checkpoints are whole or passed over, and belong to one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pedigree.errors import UsageError
from pedigree.training.checkpoint import Checkpoints, check_same
from pedigree.training.ranks import Ranks


def state(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model.a": torch.randn(7, 5, generator=generator),
        "model.b": torch.randn(3, generator=generator).bfloat16(),
        "optimizer.step.a": torch.tensor(float(step)),
    }


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path / "checkpoints", Ranks(), keep=3)
    for step in (10, 20, 30):
        made.save(state(step), {"step": step, "guard": {"x": 1.5}})
    return made


def test_what_was_saved_comes_back_bit_for_bit(checkpoints: Checkpoints) -> None:
    saved = checkpoints.whole()[-1]
    assert (saved.step, saved.state["guard"]) == (30, {"x": 1.5})
    tensors = {name: torch.zeros_like(value) for name, value in state(30).items()}
    checkpoints.load(saved, tensors)
    assert all(torch.equal(tensors[name], value) for name, value in state(30).items())


def test_only_the_newest_are_kept(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(40), {"step": 40})
    assert [saved.step for saved in checkpoints.whole()] == [20, 30, 40]
    assert min(path.name for path in checkpoints.directory.iterdir()) == "step-00000020"


@pytest.mark.parametrize("damage", ["shortened", "flipped", "no state", "no tensors", "half a state", "other name"])
def test_a_directory_that_is_not_whole_is_passed_over(checkpoints: Checkpoints, damage: str) -> None:
    newest = checkpoints.whole()[-1].path
    tensors = next(newest.glob("*.safetensors"))
    content = tensors.read_bytes()
    if damage == "shortened":
        tensors.write_bytes(content[:-1])
    elif damage == "flipped":
        tensors.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "no state":
        (newest / "state.json").unlink()
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "half a state":
        text = (newest / "state.json").read_text(encoding="utf-8")
        (newest / "state.json").write_text(text[: len(text) // 2], encoding="utf-8")
    else:
        newest.rename(newest.with_name("step-00000031"))
    assert [saved.step for saved in checkpoints.whole()] == [10, 20]


def test_a_hidden_directory_of_a_killed_process_is_no_checkpoint_and_in_nobodys_way(checkpoints: Checkpoints) -> None:
    left = checkpoints.directory / ".step-00000040"
    left.mkdir()
    (left / "junk").write_text("x", encoding="utf-8")
    assert [saved.step for saved in checkpoints.whole()] == [10, 20, 30]
    checkpoints.save(state(40), {"step": 40})
    assert not (checkpoints.directory / "step-00000040" / "junk").exists()


def test_later_checkpoints_are_forgotten(checkpoints: Checkpoints) -> None:
    checkpoints.forget_after(20)
    assert [saved.step for saved in checkpoints.whole()] == [10, 20]


def test_nothing_in_a_checkpoint_can_run(checkpoints: Checkpoints) -> None:
    suffixes = {path.suffix for path in checkpoints.directory.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json"}


def test_settings_that_differ_are_named() -> None:
    there = {"training": {"seed": 1, "optimizer": {"lr": 0.1}}, "model": {"width": 8}, "list": [{"a": 1}]}
    here = json.loads(json.dumps(there))
    check_same(there, here, where=Path("c"))
    here["training"]["optimizer"]["lr"] = 0.2
    here["model"]["depth"] = 3
    words = r"training\.optimizer\.lr: 0\.1 there, 0\.2 here"
    with pytest.raises(UsageError, match=words) as caught:
        check_same(there, here, where=Path("c"))
    assert "model.depth: 'nothing' there, 3 here" in str(caught.value)
