"""Settings of a run: what is refused, what the digest sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pedigree.training.config import SourceConfig, TrainingConfig

SOURCES = (SourceConfig(kind="python-stdlib", domain="code"),)


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"sources": SOURCES, "tokens": 10_000, **changes})


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        config(learning_rate=1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_sequences": 10, "accumulation": 4}, "cannot be cut into 4 equal parts"),
        ({"precision": "fp16", "pure": True}, "fp16 needs float32 weights"),
        ({"schedule": {"warmup_tokens": 20_000}}, "longer than 10000 tokens"),
        ({"sources": ()}, "at least 1 item"),
        ({"sources": ({"kind": "jsonl"},)}, "needs a path"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(**changes)


def test_the_last_step_reaches_the_budget() -> None:
    run = config(sequence_length=100, batch_sequences=3)
    assert run.tokens_per_step == 300
    assert run.steps == 34


def test_the_digest_sees_what_decides_and_only_that() -> None:
    first = config()
    assert config(log_every=7, checkpoint={"every": 3}, mesh={"dp_shard": 2}).digest() == first.digest()
    assert config(seed=1).digest() != first.digest()
    assert config(optimizer={"lr": 0.002}).digest() != first.digest()


def test_paths_of_a_recipe_start_beside_it(tmp_path: Path) -> None:
    sources = (SourceConfig(kind="text", path="a.txt"), SourceConfig(kind="text", path=str(tmp_path / "b.txt")))
    placed = config(sources=sources, evaluation={"sources": (sources[0],)}).beside(Path("recipes"))
    assert [source.path for source in placed.sources] == ["recipes/a.txt", str(tmp_path / "b.txt")]
    assert placed.evaluation.sources[0].path == "recipes/a.txt"
    assert config().beside(Path("recipes")) == config()
