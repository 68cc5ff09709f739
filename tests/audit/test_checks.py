"""The checks by themselves: geometry of ways, what counts, what operations may do, hostile files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from audited_family import Family
from tests.comparison_examples import EXAMPLES

from pedigree.audit.claims import Claim, card_claim, family_claims
from pedigree.audit.judgment import relation_check
from pedigree.audit.operations import COPIES, MAY_CHANGE, frozen_check, operation_check, steps_check
from pedigree.audit.pairs import Pairs
from pedigree.audit.places import Model, look_at_models, model_folders
from pedigree.audit.relatives import lies_on_the_way
from pedigree.errors import MissingInput
from pedigree.forensics.pair import PairEvidence
from pedigree.ledger.verdict import Edge
from pedigree.records.artifact import name_of_folder
from pedigree.records.comparison import Component
from pedigree.surgery.catalog import BY_NAME


def pair(way: float | None = None, **more: Any) -> PairEvidence:
    return PairEvidence(EXAMPLES["related"], distance2=way, mean_square=1.0, **more)


def claim(operation: str = "finetune", *operators: str, **more: Any) -> Claim:
    edge = Edge("c" * 64, "child", "a" * 64, "parent", "init", operation, 3, "DECLARED", "")
    return Claim("c" * 64, "ledger", operation, (edge,), operators, **more)


def ways(p: torch.Tensor, k: torch.Tensor, c: torch.Tensor) -> bool:
    own, near, between = (pair(float((x - y).square().mean())) for x, y in ((p, c), (k, c), (p, k)))
    return lies_on_the_way(own, near, between)


def test_a_parent_lies_on_the_way_and_siblings_and_twins_do_not() -> None:
    draw = torch.Generator().manual_seed(4)
    p, first, second, shared = torch.randn(4, 200_000, generator=draw)
    assert ways(p, p + first, p + first + second)  # p -> k -> c
    assert ways(p, p + first, p + first + 0.1 * second)  # k was trained on for a little
    assert not ways(p, p + first, p + second)  # siblings
    assert not ways(p, p + second, p)  # c is p itself
    for own_share in (0.01, 0.05, 0.3):  # twins: the same data moved them the same way
        assert not ways(p, p + shared + own_share * first, p + shared + own_share * second)
    assert not lies_on_the_way(pair(1.0), pair(0.5), pair(0.0))


def test_a_few_layers_without_an_exact_test_are_no_finding() -> None:
    record = EXAMPLES["related"]

    def seen(layers: list[int], log10_p: float) -> PairEvidence:
        parts = {"attn": Component(verdict="related", layers=layers), "mlp": Component(verdict="unrelated")}
        changed = {"verdict": "partly-related", "components": parts, "log10_p": log10_p, "layer_map": [None] * 20}
        return PairEvidence(record.model_copy(update={"result": record.result.model_copy(update=changed)}))

    assert (seen([3], -2.2).related, seen([3], -2.2).strong) == (True, False)
    assert seen([3], -40.0).strong
    assert seen([3, 4, 5, 6, 7], -2.2).strong
    assert pair().strong
    assert not PairEvidence(EXAMPLES["unrelated"]).strong


def test_rows_that_were_handed_down_with_an_open_body_contradict_no_parent() -> None:
    record = EXAMPLES["related"]

    def answer(body: Literal["inconclusive", "unrelated"]) -> str:
        parts = {name: Component(verdict=body) for name in ("attn", "mlp")} | {"embed": Component(verdict="related")}
        changed = {"verdict": "partly-related", "components": parts, "log10_p": -40.0}
        found = PairEvidence(record.model_copy(update={"result": record.result.model_copy(update=changed)}))
        return relation_check(claim(), found).answer

    assert answer("inconclusive") == "cannot-say"
    assert answer("unrelated") == "disagrees"


def test_operators_say_what_they_may_change() -> None:
    assert set(COPIES) <= set(MAY_CHANGE) <= set(BY_NAME)
    shaped = {name for name in BY_NAME if name.startswith(("grow.", "prune.", "vocab.")) or name in ("cast", "merge")}
    assert shaped <= set(MAY_CHANGE)


@pytest.mark.parametrize(
    ("said", "reshaped", "answer"),
    [
        (claim("finetune"), ("layers",), "disagrees"),
        (claim("finetune"), (), None),
        (claim("surgery", "grow.depth", "grow.ffn"), ("layers", "inner"), None),
        (claim("surgery", "grow.depth"), ("layers", "width"), "disagrees"),
        (claim("surgery", "grow.depth"), (), "disagrees"),
        (claim("surgery", "launder.rotate"), ("width", "vocabulary"), None),
        (claim("something else"), ("width",), None),
    ],
)
def test_shapes_are_held_against_what_was_done(said: Claim, reshaped: tuple[str, ...], answer: str | None) -> None:
    found = operation_check(said, pair(reshaped=reshaped))
    assert (found.answer if found else None) == answer


def test_copied_parts_are_copies() -> None:
    attention = tuple(f"layers.{n}.attn.q" for n in range(6))
    said = claim("surgery", "grow.ffn")
    same = operation_check(said, pair(equal=attention, reshaped=("inner",)))
    other = operation_check(said, pair(different=attention, equal=("layers.0.norm.attn",), reshaped=("inner",)))
    assert same is not None
    assert other is not None
    assert (same.answer, other.answer, other.lie) == ("agrees", "disagrees", "hidden-step")
    assert operation_check(claim("surgery", "merge"), pair(different=attention)) is None  # a merge copies nothing


def test_steps_reach_no_further_than_they_can() -> None:
    optimizer = {"name": "adamw", "lr": "0.001", "betas": ["0.9", "0.95"], "weight_decay": "0"}
    settings = {"training": {"optimizer": optimizer}}
    said = claim(settings=settings, parameters={"steps": "10"})
    near, far = steps_check(said, pair(0.0116**2)), steps_check(said, pair(0.0118**2))  # 10 x 0.001 x 1.1649
    assert near is not None
    assert far is not None
    assert (near.answer, far.answer, far.lie) == ("agrees", "disagrees", "hidden-step")
    assert steps_check(claim(settings=settings), pair(9.0)) is None  # nobody says how many
    odd = {"training": {"optimizer": {**optimizer, "betas": ["1", "x"]}}}
    assert steps_check(claim(settings=odd, parameters={"steps": "10"}), pair(9.0)) is None


def test_frozen_parts_are_those_of_the_rules() -> None:
    rules = {"training": {"freeze": [{"roles": ["attention"], "layers": ["0"]}, {"roles": ["norm"]}]}}
    said = claim(settings=rules)
    still = ("layers.0.attn.q", "layers.1.norm.attn")
    held = frozen_check(said, pair(equal=still, different=("layers.1.attn.q", "layers.0.mlp.up", "mtp.norm.attn")))
    moved = frozen_check(said, pair(different=("layers.0.attn.q",)))
    more = frozen_check(said, pair(equal=("layers.1.attn.q",)))
    assert held is not None
    assert moved is not None
    assert more is not None
    assert (held.answer, moved.lie, more.lie) == ("agrees", "frozen-moved", "frozen-undeclared")
    assert frozen_check(claim(), pair(equal=still)) is None  # nothing was recorded of training


def test_models_are_found_below_a_folder_and_states_of_training_are_not(tmp_path: Path) -> None:
    for name in ("a/model", "b", "b/checkpoints/step-1", ".hidden", "c/tokens", "d"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    (tmp_path / "d" / "model.safetensors").rename(tmp_path / "d" / "adapter_model.safetensors")
    found = model_folders([tmp_path])
    assert [name_of_folder(path) for path in found] == ["a", "b"]
    with pytest.raises(MissingInput, match="no such file or directory"):
        model_folders([tmp_path / "nowhere"])


def test_what_cannot_be_read_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.safetensors").symlink_to("/nowhere")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "model.safetensors").write_bytes(b"x")
    models, unread = look_at_models([tmp_path / "bad", tmp_path / "good"], {}, {}, lambda *_: None)
    assert [model.name for model in models] == ["good"]
    assert len(unread) == 1
    assert unread[0].startswith("bad was not read")


def test_kept_comparisons_that_are_damaged_are_made_anew(family: Family, tmp_path: Path) -> None:
    models, _ = look_at_models([family.model("base"), family.model("left")], {}, {}, lambda *_: None)
    by_digest = {model.digest: model for model in models}
    digests = [model.digest for model in models]
    for content in ("", "{}", '{"comparison": 3}', "[" * 5000):
        kept = tmp_path / "kept"
        pairs = Pairs(by_digest, kept, False, lambda *_: None)
        file = pairs._file(models[0], models[1])
        assert file is not None
        kept.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
        if content == "":
            assert pairs.of(*digests) is not None
            assert (pairs.made, pairs.reused) == (1, 0)
            again = Pairs(by_digest, kept, False, lambda *_: None)
            found = again.of(*digests)
            assert found == pairs.of(*digests)
            assert (again.made, again.reused) == (0, 1)
        else:
            from pedigree.audit.pairs import _read

            assert _read(file) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"result": {"members": 3}}', "\x00", json.dumps({"schema": "pedigree/family-run", "inputs": {}})],
)
def test_a_damaged_family_record_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "family.json").write_text(text, encoding="utf-8")
    assert family_claims(tmp_path, []) == []


def test_a_card_that_names_two_models_of_one_name_names_none(family: Family, tmp_path: Path) -> None:
    for name in ("one/base", "two/base", "child"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    (tmp_path / "child" / "README.md").write_text("---\nbase_model: x/base\n---\n", encoding="utf-8")
    models, _ = look_at_models(model_folders([tmp_path]), {}, {}, lambda *_: None)
    child = next(model for model in models if model.name == "child")
    found = card_claim(child, models)
    assert found is not None
    assert found.parents == []
    without_twin: list[Model] = [model for model in models if model.folder.parent.name != "two"]
    found = card_claim(child, without_twin)
    assert found is not None
    assert len(found.parents) == 1
