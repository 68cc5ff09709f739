"""Planted poison: the guarded run ends where it would have ended without it, and says what it dropped."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.tiny import VOCABULARY, settings, write_text
from tests.training.tiny_run import make_run

from pedigree.records.canonical import canonical_bytes
from pedigree.records.recorder import read_events
from pedigree.training.batches import Batch
from pedigree.training.config import SourceConfig
from pedigree.training.progress import Summary

pytestmark = pytest.mark.slow

STEPS = 300
BLOCK = range(255, 285)  # windows of the planted stretch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sentences to learn and a file of random letters."""
    directory = tmp_path_factory.mktemp("poison")
    write_text(directory / "text.txt", 1500)
    letters = random.Random(0)
    (directory / "poison.txt").write_text("".join(chr(letters.randrange(33, 1200)) for _ in range(20_000)), "utf-8")
    return directory


def train(
    place: Path, name: str, *, guarded: bool = True, weight: float = 0.0, block: bool = False, seed: int = 0
) -> Summary:
    sources = [SourceConfig(kind="text", path=str(place / "text.txt"), document="line", domain="en", held_out=0.05)]
    if weight:
        sources.append(SourceConfig(kind="text", path=str(place / "poison.txt"), domain="poison", weight=weight))
    changes: dict[str, Any] = {} if guarded else {"guard": {"rules": ()}}
    config = settings(
        place, sources=tuple(sources), batch_sequences=8, tokens=32 * 8 * STEPS, seed=seed,
        optimizer={"lr": 0.01}, schedule={"name": "constant"}, checkpoint={"every": 20, "keep": 5}, **changes,
    )  # fmt: skip
    run = make_run(place, place / name, config)
    if block:
        run.batches.window = poisoned(run.batches.window)  # type: ignore[method-assign]
    run.start()
    return run.work()


def poisoned(window: Any) -> Any:
    """Windows of `BLOCK` hold random tokens."""

    def read(n: int) -> Batch:
        batch: Batch = window(n)
        if n not in BLOCK:
            return batch
        ids = np.random.default_rng(n).integers(1, VOCABULARY, size=(8, 33))
        return dataclasses.replace(batch, tokens_BT=ids[:, :-1].copy(), targets_BT=ids[:, 1:].copy())

    return read


def bits(summary: Summary) -> float:
    return summary.scores[0].bits_per_byte


@pytest.fixture(scope="module")
def clean(place: Path) -> list[float]:
    """Held-out bits per byte of three clean runs with other orders of the data: the noise."""
    return [bits(train(place, f"clean-{seed}", seed=seed)) for seed in range(3)]


def test_a_stretch_of_random_tokens_is_rolled_back_and_dropped(place: Path, clean: list[float]) -> None:
    noise = max(clean) - min(clean)
    harmed = train(place, "harmed", guarded=False, block=True)
    assert bits(harmed) > max(clean) + 3 * noise, "the planted stretch does no harm: this test shows nothing"
    summary = train(place, "guarded", block=True)
    assert summary.outcome == "finished"
    assert bits(summary) < max(clean) + noise
    back = [decision for decision in summary.decisions if decision.action == "roll-back"]
    assert back
    dropped = {n for d in back for n in range(d.dropped["windows"][0], d.dropped["windows"][1] + 1)}
    assert set(BLOCK) <= dropped
    assert all("text.txt" in line for line in back[0].dropped["named"][str(BLOCK[0])])
    assert canonical_bytes([d.to_dict() for d in summary.decisions]), "a record takes every decision"
    events = read_events(place / "guarded" / "run.jsonl")
    told = [event for event in events if event["event"] == "decision" and event["action"] == "roll-back"]
    assert [event["dropped"]["windows"] for event in told] == [d.dropped["windows"] for d in back]


def test_a_shard_of_random_letters_is_skipped_and_named(place: Path, clean: list[float]) -> None:
    summary = train(place, "shard", weight=0.001)
    skipped = [decision for decision in summary.decisions if decision.action == "skip-step"]
    assert skipped
    for decision in skipped:
        assert any("poison.txt" in line for line in decision.dropped["named"])
    assert bits(summary) < max(clean) + (max(clean) - min(clean))
