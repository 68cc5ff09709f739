"""The bank: which models and pairs it holds, that nothing is made twice, and what `compare` says of small ones."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pedigree.benchmark.bank import training
from pedigree.benchmark.bank.kinds import BankModel, every, independent, kin, one_start
from pedigree.benchmark.bank.numbers import kin_summary, pages, summary, uniformity
from pedigree.benchmark.bank.pairs import independent_pairs, kin_pairs, measure_one, measure_pairs, measured_before
from pedigree.benchmark.bank.training import BankShop
from pedigree.forensics.comparison.bank import load_bank
from pedigree.forensics.comparison.findings import CLEAR_Z
from pedigree.training.config import SourceConfig

SHORT = 14_000  # tokens


def test_every_independent_model_has_a_start_of_its_own_and_a_kind_has_one_split() -> None:
    models = independent()
    assert len({model.start for model in models}) == len(models)
    splits: dict[str, set[str]] = {}
    for model in models:
        splits.setdefault(model.kind, set()).add(model.split)
    assert all(len(split) == 1 for split in splits.values())
    assert not {model.start for model in models if model.split == "test"} & {
        model.start for model in kin() if model.split == "calibration"
    }


def test_the_bank_holds_the_mechanisms_that_strangers_were_once_mistaken_by() -> None:
    for split in ("calibration", "test"):
        configs = [model.config for model in independent() if model.split == split]
        kinds = Counter(config.attention.kind for config in configs)
        assert kinds["mla"] >= 3
        assert kinds["gqa"] >= 3
        assert any(config.norm.sandwich for config in configs)
        assert any(config.experts is not None for config in configs)
        assert any(config.learned_positions for config in configs)
        assert len({config.d_model for config in configs}) >= 3


def test_pairs_stay_in_their_split_and_fewer_pairs_are_the_first_of_more() -> None:
    split_of = {model.name: model.split for model in every()}
    for split in ("calibration", "test"):
        pairs = independent_pairs(split)
        assert len(pairs) >= 300
        assert len({frozenset(pair) for pair in pairs}) == len(pairs)
        assert {split_of[name] for pair in pairs for name in pair} == {split}
        assert independent_pairs(split, 40) == pairs[:40]
        assert {split_of[name] for k in kin_pairs(split) for name in (k.a, k.b)} == {split}


def test_parents_are_made_before_their_children() -> None:
    names = [model.name for model in every()]
    for model in every():
        assert model.parent is None or names.index(model.parent) < names.index(model.name)


# -- small models, really trained --------------------------------------------------------------------------------------


def _models() -> list[BankModel]:
    start = {model.name.partition("-")[2]: model for model in one_start("calibration")}
    small = {name: model.config.replace(n_layers=2) for name, model in start.items()}
    deep = start["deeper"].config.replace(n_layers=3)
    common = replace(start["same"], tokens=SHORT, config=small["same"])
    child = replace(common, name="child", parent="one", order=5, tokens=SHORT // 4, rate=1e-3)
    return [
        replace(common, name="one", order=1),
        child,
        replace(common, name="twin", order=2),
        replace(common, name="deeper", order=3, config=deep),
        replace(common, name="more-units", order=4, config=small["more-units"]),
        replace(common, name="wider", order=5, config=small["wider"]),
        replace(common, name="stranger", start=9, order=1),
    ]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> BankShop:
    with pytest.MonkeyPatch.context() as patch:
        few = (SourceConfig(kind="python-stdlib", domain="code", max_documents=12),)
        patch.setattr(training, "sources_of", lambda: few)
        made = BankShop(tmp_path_factory.mktemp("bank"), _models())
        made.make()
    return made


def test_nothing_is_made_twice_and_what_changed_is_made_anew(shop: BankShop, monkeypatch: pytest.MonkeyPatch) -> None:
    few = (SourceConfig(kind="python-stdlib", domain="code", max_documents=12),)
    monkeypatch.setattr(training, "sources_of", lambda: few)
    told: list[str] = []
    again = BankShop(shop.directory, _models(), told.append)
    again.make(["one", "child"])
    assert told == []
    changed = [replace(m, rate=2e-3) if m.name == "one" else m for m in _models()]
    other = BankShop(shop.directory, changed)
    assert not other.is_made("one")
    assert not other.is_made("child")  # its parent is another model now
    assert other.is_made("twin")


@pytest.fixture(scope="module")
def said(shop: BankShop) -> Mapping[tuple[str, str], dict[str, Any]]:
    pairs = [*itertools.permutations(["one", "deeper", "more-units", "wider", "twin"], 2)]
    pairs += [("one", "child"), ("child", "one"), ("one", "stranger"), ("stranger", "wider")]
    return {pair: measure_one((shop.directory / pair[0], shop.directory / pair[1])) for pair in pairs}


def test_models_of_one_seed_in_other_shapes_share_a_start_at_most(
    said: Mapping[tuple[str, str], dict[str, Any]],
) -> None:
    """Deeper, wider and fuller models of one seed begin with the same numbers wherever their shapes overlap."""
    for pair, row in said.items():
        if not {"child", "stranger"} & {*pair}:
            assert row["verdict"] in ("shared-initialization", "inconclusive", "unrelated"), (pair, row)
    assert said["one", "twin"]["verdict"] == "shared-initialization"
    assert said["one", "deeper"]["verdict"] == "shared-initialization"
    assert said["more-units", "one"]["verdict"] == "shared-initialization"


def test_a_child_is_related_and_a_stranger_is_not(said: Mapping[tuple[str, str], dict[str, Any]]) -> None:
    assert said["one", "child"]["verdict"] == said["child", "one"]["verdict"] == "related"
    for pair in (("one", "stranger"), ("stranger", "wider")):
        assert said[pair]["verdict"] == "unrelated"
        assert said[pair]["best_z"] < CLEAR_Z


def test_a_pair_is_measured_once(shop: BankShop, monkeypatch: pytest.MonkeyPatch) -> None:
    from pedigree.benchmark.bank import pairs

    calls: list[Any] = []
    monkeypatch.setattr(pairs, "measure_one", lambda pair: calls.append(pair) or {"a": pair[0].name, "b": pair[1].name})
    wanted = [("one", "twin"), ("twin", "one")]
    first = measure_pairs(shop.directory, wanted[:1])
    assert measured_before(shop.directory, wanted) == wanted[:1]
    both = measure_pairs(shop.directory, wanted)
    assert len(calls) == 2
    assert both[0] == first[0]
    path = next((shop.directory / ".bank").glob("pairs-*.jsonl"))
    path.write_text(path.read_text() + '{"a": "cut o', encoding="utf-8")
    assert measure_pairs(shop.directory, wanted) == both


# -- numbers -----------------------------------------------------------------------------------------------------------


def _row(a: str, b: str, verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "a": a, "b": b, "verdict": verdict, "reasons": [], "best_z": 2.0, "best_effect": 0.01, "tables": {},
        "log10_p": {}, "sign_z": {}, "spread": {}, "z": {}, **more,
    }  # fmt: skip


def test_every_wrong_word_is_counted_and_named() -> None:
    names = [model.name for model in independent() if model.split == "test"]
    rows = [_row(names[0], names[1], "unrelated"), _row(names[0], names[2], "partly-related")]
    found = summary([], [*rows, _row(names[1], names[2], "inconclusive")])
    assert found["test"]["pairs"] == 3
    assert found["test"]["false_positives"] == 1
    assert [row["b"] for row in found["test"]["wrong"]] == [names[2]]
    assert found["verdicts"] == {"inconclusive": 1, "partly-related": 1, "unrelated": 1}


def test_uniformity_counts_small_p_values_and_the_spread_of_scores() -> None:
    rows = [
        _row("a", "b", "unrelated", log10_p={"x": -3.0}, sign_z={"ffn": 0.0}, spread={"ffn": [2, 0.0, 2.0]},
             z={"ffn": 1.5}),
        _row("a", "c", "unrelated", log10_p={"x": 0.0}, sign_z={"ffn": 4.0}, spread={"ffn": [2, 0.0, 2.0]},
             z={"ffn": 1.0}),
    ]  # fmt: skip
    found = uniformity(rows)
    assert found["x"]["0.01"] == found["x"]["0.5"] == 0.5
    assert found["signs-ffn, normal tail"]["0.01"] == 0.5
    assert found["signs-ffn, normal tail"]["0.5"] == 1.0
    assert found["matched-ffn"] == {"layer_pairs": 4, "mean": 0.0, "deviation": 1.0, "largest": 1.5}


def test_words_and_directions_of_relatives_are_judged_by_what_is_known() -> None:
    truth = [k for k in kin_pairs("test") if k.direction != "undetermined"][:2]
    truth += [k for k in kin_pairs("test") if k.direction == "undetermined" and "related" in k.words][:1]
    other = {"a-to-b": "b-to-a", "b-to-a": "a-to-b"}
    rows = [
        {"a": truth[0].a, "b": truth[0].b, "verdict": "related", "direction": truth[0].direction, "log_odds": 4.0},
        {"a": truth[1].a, "b": truth[1].b, "verdict": "related", "direction": other[truth[1].direction], "log_odds": 4},
        {"a": truth[2].a, "b": truth[2].b, "verdict": "unrelated"},
    ]
    found = kin_summary(rows, truth)
    assert found["decided"] == 2
    assert len(found["wrong_directions"]) == 1
    assert len(found["wrong_words"]) == 1


def test_the_shipped_p_values_of_strangers_are_not_smaller_than_uniform() -> None:
    """Shares at or below each level over the bank's independent pairs, with the slack of pairs that share models."""
    bank = load_bank()
    assert bank is not None
    for split, found in bank["uniformity"].items():
        for name, shares in found.items():
            if name.startswith("matched-"):
                assert 0.8 < shares["deviation"] < 1.2, (split, name)
                assert abs(shares["mean"]) < 0.3, (split, name)
            elif "normal tail" not in name:
                for level in (0.01, 0.05, 0.1, 0.25, 0.5):
                    slack = 4 * (level * (1 - level) / shares["pairs"]) ** 0.5
                    assert shares[str(level)] <= level + slack, (split, name, level)


def test_the_shipped_bank_holds_what_its_words_say() -> None:
    bank = load_bank()
    assert bank is not None
    test = bank["test"]
    assert test["pairs"] >= 300
    assert test["false_positives"] == len(test["wrong"])
    assert sum(test["verdicts"].values()) == test["pairs"]
    assert str(test["pairs"]) in test["note"]
    assert all(len(scores) == test["pairs"] for scores in bank["scores"].values())


def test_the_guide_shows_the_shipped_numbers() -> None:
    bank = load_bank()
    assert bank is not None
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "methods.md").read_text(encoding="utf-8")
    shown = guide.partition("<!-- bank -->\n")[2].partition("\n<!-- end of bank -->")[0]
    assert shown == pages(bank)


def test_folders_of_the_bank_are_models_that_pedigree_reads(shop: BankShop) -> None:
    assert (Path(shop.directory) / "one" / "config.json").is_file()
    assert (Path(shop.directory) / "one" / "tokenizer.json").is_file()
    note = shop.note("one")
    assert note is not None
    assert note["steps"] > 0
    assert shop.note("nobody") is None
