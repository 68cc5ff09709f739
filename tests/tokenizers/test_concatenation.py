"""Concatenation: A stands, B follows, and every conflict that was planted is found."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tokenizers.test_audit import byte_level

from pedigree.errors import UsageError
from pedigree.records.tokenizer import Conflict
from pedigree.tokenizers.concatenation import Joined, concatenate
from pedigree.tokenizers.conflicts import KINDS, concatenation_records, find_conflicts, longest_rising
from pedigree.tokenizers.definition import added_token
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.hostile_texts import lost_texts
from pedigree.tokenizers.reachability import reachability
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions, train


def found(a: Encoder, b: Encoder, joined: Joined | None = None) -> dict[str, list[Conflict]]:
    conflicts = find_conflicts(a, b, joined or concatenate(a, b))
    return {kind: [c for c in conflicts if c.kind == kind] for kind in KINDS}


def test_a_stands_and_the_map_of_b_is_true(small: dict[str, Encoder], russian: Text, chinese: Text) -> None:
    b_of = {
        kind: train([russian, chinese], TrainingOptions(kind=kind, size=600, specials=("<|b|>",)))
        for kind in ("byte-level", "byte-fallback", "unigram")
    }
    for kind_a, kind_b in (
        ("byte-level", "byte-level"),
        ("byte-fallback", "byte-fallback"),
        ("byte-level", "byte-fallback"),
        ("byte-fallback", "byte-level"),
        ("unigram", "unigram"),
    ):
        a, b = small[kind_a], b_of[kind_b]
        joined = concatenate(a, b)
        outcome = joined.encoder
        assert outcome.spellings[: a.size] == a.spellings
        assert outcome.merges[: len(a.merges)] == a.merges
        for number, there in enumerate(joined.map_b):
            if there is not None:
                assert outcome.surfaces[there] == b.surfaces[number]
        untaken = {number for number, there in enumerate(joined.map_b) if there is None}
        assert untaken == set(joined.untaken), (kind_a, kind_b)
        assert lost_texts(outcome) == []
        spelled = outcome.spellings.index("<|b|>")
        assert spelled in outcome.specials


def test_the_old_domain_is_encoded_as_before(small: dict[str, Encoder], english: Text, russian: Text) -> None:
    a = small["byte-level"]
    joined = concatenate(a, train([russian], TrainingOptions(kind="byte-level", size=400))).encoder
    assert joined.encode_all(english.units) == a.encode_all(english.units)
    before, after = (sum(map(len, encoder.encode_all(russian.units))) for encoder in (a, joined))
    assert after < 0.7 * before


def test_a_merge_that_takes_an_operand_is_a_rank_conflict() -> None:
    a = byte_level(["bc"], [("b", "c")])
    b = byte_level(["ab", "abc"], [("a", "b"), ("ab", "c")])
    conflicts = found(a, b)
    assert [c.surface for c in conflicts["merge-rank"]] == ["abc"]
    assert conflicts["merge-rank"][0].b == b.spellings.index("abc")
    assert not conflicts["inherited"]


def test_a_token_that_was_dead_before_is_inherited() -> None:
    a = byte_level(["xy"], [("x", "y")])
    b = byte_level(["bc", "ab", "abc"], [("b", "c"), ("a", "b"), ("ab", "c")])
    conflicts = found(a, b)
    assert [c.surface for c in conflicts["inherited"]] == ["abc"]
    assert not conflicts["merge-rank"]


def test_shared_merges_in_another_order_are_listed() -> None:
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    tokens = [left + right for left, right in pairs]
    a = byte_level(tokens, pairs)
    b = byte_level(tokens, [pairs[3], *pairs[:3]])
    conflicts = found(a, b)["merge-order"]
    assert [c.surface for c in conflicts] == ["g + h"]
    assert not found(a, a)["merge-order"]


@given(st.lists(st.integers(0, 30), max_size=12))
def test_the_longest_rising_run_is_the_longest(numbers: list[int]) -> None:
    places = longest_rising(numbers)
    chosen = [numbers[place] for place in places]
    assert places == sorted(places)
    assert all(x < y for x, y in pairwise(chosen))
    best = [1] * len(numbers)
    for i, number in enumerate(numbers):
        best[i] += max((best[j] for j in range(i) if numbers[j] < number), default=0)
    assert len(places) == max(best, default=0)


def test_words_cut_differently_are_a_conflict_and_name_the_tokens() -> None:
    a = byte_level(["x1"], [("x", "1")])
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    b = byte_level(["a1"], [("a", "1")], pre_tokenizer=whole)
    conflicts = found(a, b)["pre-tokenizer"]
    assert conflicts[0].surface is None
    assert "that of A is kept" in conflicts[0].detail
    assert [c.surface for c in conflicts[1:]] == ["a1"]


def test_normalizers_that_differ_are_a_conflict_and_name_the_tokens() -> None:
    mark = "\u00cc\u0123"  # a combining acute accent
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    a = byte_level([], [], pre_tokenizer=whole, normalizer={"type": "NFC"})
    b = byte_level([mark, "e" + mark], [("\u00cc", "\u0123"), ("e", mark)], pre_tokenizer=whole)
    conflicts = found(a, b)["normalizer"]
    assert conflicts[0].surface is None
    assert [c.surface for c in conflicts[1:]] == ["e\u0301"]


def test_two_forms_of_one_character_are_duplicates() -> None:
    mark, letter = "\u00cc\u0123", "\u00c3\u00a9"  # an acute accent, and e with one
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    a = byte_level([letter], [("\u00c3", "\u00a9")], pre_tokenizer=whole)
    b = byte_level([mark, "e" + mark], [("\u00cc", "\u0123"), ("e", mark)], pre_tokenizer=whole)
    conflicts = found(a, b)["duplicate-surface"]
    assert [c.surface for c in conflicts] == ["\u00e9"]
    assert "one text to Unicode" in conflicts[0].detail


def test_controls_are_compared_by_spelling() -> None:
    def with_controls(*texts: str, token: str) -> Encoder:
        added = [added_token(257 + n, text, special=True) for n, text in enumerate(texts)]
        base = byte_level([token], [])
        vocab = base.definition["model"]["vocab"] | {entry["content"]: entry["id"] for entry in added}
        definition = {**base.definition, "added_tokens": added, "model": {**base.definition["model"], "vocab": vocab}}
        return build_encoder(definition, name="x", location="x", format="x")

    a = with_controls("<s>", "<a>", token="<b>")
    b = with_controls("<s>", "<b>", token="<a>")
    joined = concatenate(a, b)
    conflicts = {c.surface: c.detail for c in found(a, b, joined)["special-token"]}
    assert set(conflicts) == {"<a>", "<b>"}
    assert conflicts["<b>"] == "a control of B that is text in A: kept as text"
    assert joined.map_b[257] == 257


def test_bytes_and_byte_pieces_are_a_conflict(small: dict[str, Encoder], chinese: Text) -> None:
    a = small["byte-fallback"]
    b = train([chinese], TrainingOptions(kind="byte-level", size=330))
    joined = concatenate(a, b)
    conflicts = found(a, b, joined)
    assert "unknown characters become byte pieces in A and bytes in B" in conflicts["byte-fallback"][0].detail
    assert {c.b for c in conflicts["byte-fallback"][1:]} == set(joined.untaken)
    assert conflicts["merge-lost"], "merges of parts of characters cannot be followed"


def test_vocabularies_that_work_in_different_ways_are_refused(small: dict[str, Encoder]) -> None:
    with pytest.raises(UsageError, match="cannot be put into one"):
        concatenate(small["byte-level"], small["unigram"])


def test_a_vocabulary_and_itself_have_no_conflict(small: dict[str, Encoder]) -> None:
    for encoder in small.values():
        joined = concatenate(encoder, encoder)
        assert joined.encoder.spellings == encoder.spellings
        assert joined.map_b == list(range(encoder.size))
        # What its own best paths never choose was so before (a Unigram vocabulary may hold such pieces).
        dead = {u.number for u in reachability(encoder).unreachable}
        conflicts = find_conflicts(encoder, encoder, joined)
        assert {(c.kind, c.result) for c in conflicts} == {("inherited", number) for number in dead}
        assert not dead or encoder.kind == "Unigram"


def test_the_record_counts_what_the_file_lists(small: dict[str, Encoder], russian: Text) -> None:
    a, b = small["byte-level"], train([russian], TrainingOptions(kind="byte-fallback", size=500))
    joined = concatenate(a, b)
    record, listed = concatenation_records(a, b, joined)
    assert sum(record.result.conflicts.values()) == len(listed.conflicts)
    assert listed.id_map["a"] == list(range(a.size))
    assert listed.id_map["b"] == joined.map_b
    assert record.result.added_from_b == len(joined.appended)
    dead = {u.number for u in reachability(joined.encoder).unreachable}
    assert {c.result for c in listed.conflicts if c.detail.startswith("cannot be produced")} == dead


def test_two_real_vocabularies_meet(real: Path) -> None:
    """Row 5 of the mission: all conflicts of two published vocabularies."""
    a, b = open_encoder(real / "gpt2"), open_encoder(real / "llama2")
    joined = concatenate(a, b)
    record, listed = concatenation_records(a, b, joined)
    assert record.result.shared == 18_303
    assert record.result.added_from_b == 13_694
    assert record.result.unreachable > 1000
    kinds = {c.kind for c in listed.conflicts}
    assert kinds >= {"merge-rank", "merge-order", "pre-tokenizer", "normalizer", "byte-fallback", "special-token"}
    assert lost_texts(joined.encoder) == []
