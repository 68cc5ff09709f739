"""Start against descent, on models that were really trained, and the fit behind it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pedigree.benchmark.origin.__main__ import table
from pedigree.benchmark.origin.fit import calibrate, calibrate_by_tokens, kind_of, numbers_of
from pedigree.benchmark.origin.kinsfolk import CALIBRATION, TEST, Kin, is_one_run, kind_of_pair, make, pairs
from pedigree.benchmark.origin.pairs import measured
from pedigree.benchmark.zoo.architecture import Sizes

MEMBERS = ("root", "data", "order", "slow", "root.low", "root.low.moved", "data.low")
FAMILY = Kin("small", "llama", Sizes(32, 2, 4, 2, 8, 64, 300), 70_001, 60, 5e-3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("kin")
    home = make(FAMILY, place, MEMBERS)
    every = [("small", home / a, home / b, kind_of_pair(a, b)) for a, b in itertools.combinations(MEMBERS, 2)]
    found = measured(place / "rows.jsonl", every)
    torch.set_num_threads(threads)
    assert measured(place / "rows.jsonl", every) == found
    return found


def verdicts(rows: list[dict[str, Any]], *kinds: str) -> dict[tuple[str, str], str]:
    return {(row["a"], row["b"]): row["verdict"] for row in rows if kind_of(row) in kinds}


def test_trainings_of_one_start_are_not_related_whatever_was_done_to_them_after(rows: list[dict[str, Any]]) -> None:
    apart = verdicts(rows, "twin", "one run")
    assert len(apart) >= 12
    assert not {pair: word for pair, word in apart.items() if word in ("related", "partly-related", "identical")}
    assert set(apart.values()) <= {"shared-initialization", "inconclusive", "unrelated"}, apart


def test_children_of_one_start_are_related_to_their_own_parent(rows: list[dict[str, Any]]) -> None:
    kin = verdicts(rows, "parent")
    assert kin["root", "root.low"] == kin["data", "data.low"] == kin["root", "root.low.moved"] == "related"


def test_what_two_members_are_follows_from_their_names() -> None:
    assert kind_of_pair("root", "data.low") == "twin"
    assert kind_of_pair("root.hot.low", "root") == "parent"
    assert kind_of_pair("root.hot", "root.low") == "sibling"
    assert is_one_run("root.low", "slow")
    assert not is_one_run("root", "order")
    assert not is_one_run("root", "root.low")


def test_families_of_the_test_split_share_no_start_with_those_that_numbers_are_fitted_on() -> None:
    assert not {kin.seed for kin in CALIBRATION} & {kin.seed for kin in TEST}
    assert len({kin.name for kin in (*CALIBRATION, *TEST)}) == len(CALIBRATION) + len(TEST)


def test_pairs_of_descent_are_all_taken_and_twins_are_drawn(tmp_path: Path) -> None:
    for name in ("root", "data", "order", "far", "root.low", "root.hot"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    drawn = list(pairs(tmp_path, most=6))
    assert {kind for _, _, kind in drawn} == {"twin", "parent", "sibling"}
    assert len(drawn) == 6
    assert sum(kind != "twin" for _, _, kind in drawn) == 3


def made_row(family: str, a: str, b: str, truth: str, top: float, gains: float | None) -> dict[str, Any]:
    side = {"top": top, "middle": 1.0, "unevenness": 0.1, "matrices": 9, "own": top - 1.0, "excess": 0.3}
    learned = None if gains is None else {"cosine": gains, "forward": gains, "backward": gains, "norms": 5}
    row: dict[str, Any] = {"family": family, "a": a, "b": b, "truth": truth, "forward": side, "backward": side}
    return {**row, "share": None, "gains": learned, "verdict": "related"}


def test_the_fit_separates_what_can_be_separated_and_sets_thresholds_beyond_every_twin() -> None:
    made = []
    g = torch.Generator().manual_seed(0)
    for number in range(60):
        noise = 0.05 * float(torch.randn(1, generator=g))
        family = f"f{number % 6}"
        gains = None if number % 4 == 0 else 1.0
        made.append(made_row(family, "root", "root.low", "parent", 0.95 + noise, gains and 0.95 + noise))
        made.append(made_row(family, "root", "data", "twin", 0.4 + noise, gains and 0.2 + noise))
    fitted = calibrate(made)
    for part, number in (("gains", 45), ("matrices", 60)):
        told = fitted[part]["measured"]
        assert told["families"] == 6
        assert told["twin"] == {"pairs": number, "descent": 0, "start": number}
        assert told["parent"]["descent"] > 0.8 * number
    assert "gains" in fitted["gains"]["weights"]
    assert "gains" not in fitted["matrices"]["weights"]
    assert set(numbers_of(made[0])) | {"offset"} == set(fitted["matrices"]["weights"])


def test_merges_are_told_from_twins_by_weights_of_their_own() -> None:
    """Children keep all of the top of a spectrum, merges a half of everything: no single line has twins on one side."""
    made = []
    for number in range(48):
        noise = 0.04 * math.sin(7.0 * number)
        for name, truth, top, gains in (
            ("root.low", "parent", 1.0, 0.9), ("merged", "parent", 0.45, 0.45), ("data", "twin", 0.7, 0.2)
        ):  # fmt: skip
            made.append(made_row(f"f{number % 6}", "root", name, truth, top + noise, gains + noise))
    part = calibrate(made)["gains"]
    told = part["measured"]
    assert set(part["merged"]) == set(part["weights"])
    assert told["twin"]["descent"] == 0
    assert told["parent"]["descent"] == told["merged"]["descent"] == 48
    assert "merged" not in calibrate(made)["matrices"]


def test_thresholds_are_beyond_every_run_over_one_text_in_the_frame_of_tokens_and_elsewhere() -> None:
    g = torch.Generator().manual_seed(1)
    made = []
    for number in range(40):
        noise = 0.03 * float(torch.randn(1, generator=g))
        made.append(made_row(f"f{number % 4}", "root", "root.low", "parent", 0.95 + noise, 1.0))
        made.append(made_row(f"f{number % 4}", "root", "data", "twin", 0.3 + noise, 1.0))
        made.append(made_row(f"f{number % 4}", "root", "slow", "twin", 0.88 + noise / 9, 1.0))
    parts = calibrate(made)
    fitted = calibrate_by_tokens(made, parts["matrices"])
    for part in (*parts.values(), fitted):
        assert part["measured"]["one run"] == {"pairs": 40, "descent": 0, "start": part["measured"]["one run"]["start"]}
    assert fitted["weights"] == parts["matrices"]["weights"]


def test_counts_are_told_by_kind_and_word() -> None:
    text = table([made_row("f", "root", "data", "twin", 0.4, None), made_row("f", "root", "slow", "twin", 0.4, None)])
    assert "| twin | 1 | 0 |" in text
    assert "| one run | 1 | 0 |" in text
