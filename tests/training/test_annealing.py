"""Coefficients that move with the tokens: their values, that training moves them, and that a resumed run agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import settings, write_text
from tests.training.tiny_run import make_run

from pedigree.errors import UsageError
from pedigree.model.decoder import Decoder
from pedigree.model.members import member
from pedigree.training.annealing import annealed, value_of
from pedigree.training.config import AnnealRule
from pedigree.training.fit import ModelFacts
from pedigree.training.run import Run

STEP = 16 * 8
RULES: list[dict[str, Any]] = [
    {"coefficient": "queries", "begin": 1, "end": 0, "stop": 2 * STEP},
    {"coefficient": "angles", "begin": 0, "end": 1, "stop": 3 * STEP, "shape": "geometric"},
    {"coefficient": "positions", "begin": 1, "end": 0, "start": 2 * STEP, "stop": 4 * STEP},
]


def model_of(seed: int = 3) -> Decoder:
    config = member("pangu-alpha-13b-pico").replace(vocab_size=257, rope={"theta": 1e4}, dropout=0.0)
    return Decoder(config, seed=seed)


def run_of(place: Path, model: Decoder, **changes: Any) -> Run:
    place.mkdir(exist_ok=True)
    write_text(place / "text.txt", 60)
    given = {"tokens": 4 * STEP, "anneal": RULES, **changes}
    return make_run(place, place / "out", settings(place, **given), model, facts=ModelFacts({}, 257))


def test_values_between_begin_and_end() -> None:
    even = AnnealRule(coefficient="positions", begin=1, end=0, start=100, stop=200)
    assert [value_of(even, tokens) for tokens in (0, 100, 150, 200, 900)] == [1, 1, 0.5, 0, 0]
    rising = AnnealRule(coefficient="angles", begin=0, end=1, stop=300, shape="geometric")
    assert value_of(rising, 0) == 0
    assert [value_of(rising, tokens) for tokens in (100, 200, 300)] == pytest.approx([1e-2, 1e-1, 1])


def test_training_moves_the_coefficients_and_writes_where_they_stand(tmp_path: Path) -> None:
    model = model_of()
    run = run_of(tmp_path, model)
    run.start()
    seen = []
    while run._place.step < run.config.steps:
        run.step()
        assert model.config.homotopy is not None
        seen.append(model.config.homotopy.model_dump())
    assert [round(row["queries"], 3) for row in seen] == [1, 0.5, 0, 0]
    assert [round(row["angles"], 3) for row in seen] == [0, 0.01, 0.1, 1]
    assert [round(row["positions"], 3) for row in seen] == [1, 1, 1, 0.5]
    run.evaluate()
    assert model.config.homotopy is not None
    assert model.config.homotopy.moved == {"queries": 0, "positions": 0}


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = model_of()
    run = run_of(tmp_path / "whole", whole)
    run.start()
    run.work()
    model = model_of()
    first = run_of(tmp_path / "cut", model)
    first.start()
    for _ in range(2):
        first.step()
    first._save()
    first.checkpoints.finish()
    again = model_of(seed=9)
    rest = run_of(tmp_path / "cut", again)
    assert rest.start() == 2
    rest.work()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"anneal": [{**RULES[0], "stop": 99 * STEP}]}, "still move"),
        ({"anneal": [RULES[0], RULES[0]]}, "one rule only"),
        ({"anneal": [RULES[0]], "compile": True}, "compile"),
        ({"anneal": [{**RULES[0], "start": 2 * STEP}]}, "no length"),
        ({"anneal": [{**RULES[0], "shape": "geometric"}]}, "rises"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    write_text(tmp_path / "text.txt", 60)
    with pytest.raises(ValueError, match=match):
        settings(tmp_path, tokens=4 * STEP, **changes)


def test_a_rule_needs_something_to_move(tmp_path: Path) -> None:
    plain = Decoder(member("llama-3-8b-pico").replace(vocab_size=257), seed=3)
    with pytest.raises(UsageError, match="fit together"):
        run_of(tmp_path, plain)
    rules = tuple(map(AnnealRule.model_validate, RULES))
    assert annealed(model_of().config, rules, None).homotopy is not None


def test_recipes_that_anneal_nothing_keep_their_digests(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", 60)
    plain = settings(tmp_path)
    assert "anneal" not in plain.decisive()
    assert settings(tmp_path, tokens=4 * STEP, anneal=RULES).digest() != plain.digest()
