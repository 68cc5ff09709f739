"""The sentences about a comparison."""

from __future__ import annotations

from typing import get_args

import pytest
from tests.comparison_examples import EXAMPLES, embeddings_only, grown_child, simple, strangers

from pedigree.records.comparison import (
    ComponentVerdict,
    DirectionVerdict,
    ErrorRate,
    GaugeKind,
    InputRecord,
    ReadRecord,
    Verdict,
)
from pedigree.report import words


def test_every_word_of_the_contract_has_its_sentence() -> None:
    assert set(words.VERDICT_SENTENCES) == set(words.VERDICT_MARKS) == set(get_args(Verdict))
    assert set(words.COMPONENT_SENTENCES) == set(get_args(ComponentVerdict))
    assert set(words.DIRECTION_SENTENCES) == set(get_args(DirectionVerdict))
    assert set(words.GAUGE_SENTENCES) == set(get_args(GaugeKind))


def test_marks_tell_verdicts_apart_without_color() -> None:
    unicode, plain = zip(*words.VERDICT_MARKS.values(), strict=True)
    assert len(set(unicode)) == len(set(plain)) == len(words.VERDICT_MARKS)
    assert all(mark.isascii() for mark in plain)


def test_partly_related_names_the_parts() -> None:
    assert words.verdict_sentence(embeddings_only().result) == "Some parts share ancestry (embeddings), others do not."


def test_partly_related_says_no_more_of_parts_that_could_not_be_told() -> None:
    result = embeddings_only().result
    open_parts = {
        name: part if part.verdict in ("related", "identical") else part.model_copy(update={"verdict": "not-testable"})
        for name, part in result.components.items()
    }
    sentence = words.verdict_sentence(result.model_copy(update={"components": open_parts}))
    assert sentence == "Some parts share ancestry (embeddings), others could not be told."


def test_a_p_value_is_told_with_the_null_it_belongs_to() -> None:
    sentences = words.sure_sentences(grown_child().result)
    assert sentences[0] == "z 118 and effect 0.71 on 13 of 14 layers"
    assert "p below 10^-1234 under the null" in sentences[1]
    assert "test gate-match" in sentences[1]


def test_a_p_value_that_says_nothing_is_not_held_out_as_support() -> None:
    told = words.sure_sentences(grown_child(log10_p=0.0).result)[1]
    assert told == "no exact test applies here; the controls and the error rate speak"
    assert words.sure_sentences(simple("unrelated", log10_p=0.0).result) == ["exact tests: p = 1"]


def test_a_p_value_from_no_single_test_is_given_to_none() -> None:
    assert words.sure_sentences(grown_child(log10_p=-2.5).result)[1] == "p = 0.0032 under independence"


def test_without_a_number_it_says_so() -> None:
    assert words.sure_sentences(simple("inconclusive").result) == ["no number was obtained"]


def test_an_error_rate_names_its_pairs_and_its_absence() -> None:
    rate = ErrorRate(false_positive_upper_95=0.033, pairs=90, benchmark="zoo", note="0 errors")
    expected = "at most 3.3 % of independent pairs called related (95 % bound; 90 pairs, zoo); 0 errors"
    assert words.error_sentence(rate) == expected
    assert "no error rate" in words.error_sentence(None)


def test_direction_basis_control_and_bytes_are_told() -> None:
    result = grown_child().result
    assert words.direction_sentence(result) == "B descends from A (log odds 5.1)"
    assert words.direction_sentence(strangers().result) == "not determined"
    assert words.gauge_sentence(result).endswith("agreement on held-out tensors 0.97")
    assert (
        words.off_diagonal_sentence(result)
        == "155 unmatched layer pairs: mean 0.02, sd 1.1, highest 3.9; matched ones at least 41.2"
    )
    assert words.off_diagonal_sentence(simple("related").result) is None
    assert words.read_sentence(result) == "120 MB of 7 GB (1.7 %) in 4.2 s, depth standard"
    twice = result.model_copy(update={"read": ReadRecord(bytes=20_500_000, of=6_800_000, seconds=1.6)})
    assert (
        words.read_sentence(twice)
        == "20.5 MB from files of 6.8 MB (parts of them more than once) in 1.6 s, depth standard"
    )
    sizeless = result.model_copy(update={"read": ReadRecord(bytes=0, of=0, seconds=1.6)})
    assert words.read_sentence(sizeless) == "0 bytes in 1.6 s, depth standard"
    record = InputRecord(location="a", format="torch", architecture="inferred", inferred=True, parameters=5, bytes=20)
    assert words.input_sentence(record) == "inferred roles, torch, 5 parameters, 20 bytes"


def test_the_command_that_reproduces_is_quoted_and_complete() -> None:
    record = grown_child()
    options = {"depth": "full", "budget_bytes": 300_000_000, "decoys": ["a b"], "allow_pickle": True}
    record = record.model_copy(update={"options": options})
    assert words.reproduce_command(record) == (
        "pedigree compare models/parent models/child --decoy 'a b' --depth full --budget 300000000B"
        " --allow-pickle --json"
    )


def test_a_depth_that_was_chosen_by_itself_is_not_repeated() -> None:
    record = grown_child().model_copy(update={"options": {"depth": "auto", "decoys": []}})
    assert words.reproduce_command(record) == "pedigree compare models/parent models/child --json"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_sentences_stand_for_every_example(name: str) -> None:
    result = EXAMPLES[name].result
    told = [words.verdict_sentence(result), words.direction_sentence(result), words.gauge_sentence(result)]
    assert all(sentence and "None" not in sentence for sentence in [*told, words.read_sentence(result)])
