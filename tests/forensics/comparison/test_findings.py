"""Rates, cards, sides: the small things between measurement and record."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
from forensics.hand_made import WHOLE, Path, bits, found, grid
from forensics.tiny_models import Sizes, llama, side, words

from pedigree.forensics.comparison.bank import error_rate, load_bank, upper_95
from pedigree.forensics.comparison.findings import CLEAR_Z, HeadScore
from pedigree.forensics.comparison.tests_made import list_tests, strength
from pedigree.forensics.comparison.verdict import judge
from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.sampling import Sample
from pedigree.forensics.sides.side import map_in_order
from pedigree.forensics.units.evidence import Grid

PLAIN: Path = [0, 1, 2]
MODEL = side(llama(0), Sizes().config(), tokens=words(200))


def test_a_layer_is_hit_only_where_the_map_says_so_by_score_and_effect() -> None:
    findings = found([0, None, 2], {"ffn": grid(PLAIN, 3, on=[0, 1])})
    assert findings.hit("ffn", 0)
    assert not findings.hit("ffn", 1)
    assert not findings.hit("ffn", 2)
    assert not findings.hit("vo", 0)
    assert findings.layers_hit("ffn", "vo") == [0]
    faint = found(PLAIN, {"ffn": grid(PLAIN, 3, z=CLEAR_Z + 1, effect=0.001)})
    assert faint.layers_hit("ffn") == []


def test_where_few_units_were_read_a_smaller_effect_counts() -> None:
    table = grid(PLAIN, 3, effect=0.01)
    assert found(PLAIN, {"ffn": Grid(table.z_IJ, table.effect_IJ, np.full(3, 0.05))}).layers_hit("ffn") == PLAIN
    assert found(PLAIN, {"ffn": table}).layers_hit("ffn") == []


def test_a_fitted_frame_asks_for_more() -> None:
    fitted = Gauge("orthogonal", None, "embedding rows of shared tokens")
    assert found(PLAIN, {}, gauge=fitted).clear_effect > found(PLAIN, {}).clear_effect


def test_tests_of_the_body_pay_for_the_layer_map_and_tests_of_tables_do_not() -> None:
    exact = {"body-signs": -30.0, "embed-fixed-points": -30.0, "head-fixed-points": None}
    findings = found(PLAIN, {}, exact=exact, penalty_log10=7.0)
    assert findings.log10_p("body-signs") == pytest.approx(-23.0)
    assert findings.log10_p("embed-fixed-points") == pytest.approx(-30.0)
    assert findings.log10_p("head-fixed-points") == 0.0
    assert findings.log10_p("no such test") == 0.0
    assert found(PLAIN, {}, exact={"body-signs": -3.0}, penalty_log10=7.0).log10_p("body-signs") == 0.0


def test_every_test_has_a_null_and_one_that_was_not_made_says_why() -> None:
    for findings in (
        found(PLAIN, {"ffn": grid(PLAIN, 3)}, exact={"body-signs": -30.0, "head-fixed-points": None}),
        found(PLAIN, {}, survival=(None, None), heads={"vo": HeadScore(0.0, 0.0, 0)}),
    ):
        tests = list_tests(MODEL, MODEL, findings)
        assert len({test.name for test in tests}) == len(tests)
        for test in tests:
            assert test.null
            assert test.assumes
            assert test.applicable == (test.why_not is None)
            assert test.applicable or test.statistic is None
            assert test.applicable or test.log10_p is None


def test_strength_gives_a_number_and_says_what_it_is() -> None:
    cases = {
        "identical": found(PLAIN, {"ffn": grid(PLAIN, 3)}, bits=bits(equal=["embed"], whole=True)),
        "related": found(PLAIN, {"ffn": grid(PLAIN, 3)}, exact={"body-signs": -30.0}),
        "unrelated": found([None] * 3, {"ffn": grid([None] * 3, 3)}),
    }
    for word, findings in cases.items():
        judgment = judge(MODEL, MODEL, findings)
        assert judgment.verdict == word
        assert strength(findings, judgment)
    assert "-30" in strength(cases["related"], judge(MODEL, MODEL, cases["related"]))


@pytest.mark.parametrize(
    ("errors", "pairs", "bound"),
    [(0, 300, 0.00994), (0, 1, 0.95), (0, 0, 1.0), (5, 5, 1.0), (1, 100, 0.0466), (0, 3000, 0.000998)],
)
def test_the_upper_bound_of_a_rate_is_the_exact_one(errors: int, pairs: int, bound: float) -> None:
    assert upper_95(errors, pairs) == pytest.approx(bound, rel=2e-3)


def test_the_rate_beside_a_verdict_is_that_of_the_bank_or_absent() -> None:
    bank, rate = load_bank(), error_rate()
    assert (bank is None) == (rate is None)
    if bank is not None and rate is not None:
        json.dumps(bank)
        assert rate.pairs > 0
        assert 0 < rate.false_positive_upper_95 < 1
        assert rate.benchmark


def test_another_sample_of_a_side_reads_neither_anatomy_nor_vocabulary_again() -> None:
    other = MODEL.at(Sample(16, 0, False, True, 64))
    assert other.anatomy is MODEL.anatomy
    assert other.vocabulary is MODEL.vocabulary
    assert other.sample is not MODEL.sample
    assert other.layer(0).units["ffn"].count < MODEL.layer(0).units["ffn"].count


def test_results_of_threads_come_back_in_order() -> None:
    gate = threading.Event()

    def slow_first(number: int) -> int:
        if number == 0:
            gate.wait(timeout=0.05)
        gate.set()
        return number * number

    assert map_in_order(slow_first, range(20)) == [n * n for n in range(20)]
    assert map_in_order(slow_first, []) == []


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def broken(number: int) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError, match="zero"):
        map_in_order(broken, [1, 0])


def test_survival_is_reported_by_the_way_that_was_followed_best() -> None:
    findings = found(PLAIN, {"ffn": grid(PLAIN, 3)}, survival=(None, WHOLE))
    test = next(t for t in list_tests(MODEL, MODEL, findings) if "survival" in t.name)
    assert test.statistic == pytest.approx(1.0)
    assert math.isfinite(test.statistic or math.nan)
