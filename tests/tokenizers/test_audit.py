"""The audit: classes of tokens, losses, costs, candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.tokenizers.audit import audit
from pedigree.tokenizers.compression import measure, parities
from pedigree.tokenizers.definition import BYTE_LEVEL_DECODER, bpe_model, definition
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.hostile_texts import HOSTILE, lost_texts
from pedigree.tokenizers.rare_tokens import rare_tokens
from pedigree.tokenizers.reachability import SURROUNDINGS, _inside_utf8, reachability
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.surface import byte_alphabet
from pedigree.tokenizers.texts import Text, read_parallel
from pedigree.tokenizers.training import TrainingOptions, train
from pedigree.tokenizers.word_patterns import PATTERNS, pre_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def byte_level(tokens: list[str], merges: list[tuple[str, str]], **parts: Any) -> Encoder:
    vocab = {token: n for n, token in enumerate([*sorted(byte_alphabet()), *tokens])}
    model = bpe_model(vocab, merges, ignore_merges=parts.pop("ignore_merges", False))
    parts = {"pre_tokenizer": pre_tokenizer(PATTERNS["gpt2"]), "decoder": BYTE_LEVEL_DECODER, **parts}
    return build_encoder(definition(model, **parts), name="x", location="x", format="x")


def unreachable(encoder: Encoder) -> dict[str, str]:
    return {str(encoder.spellings[u.number]): u.why for u in reachability(encoder).unreachable}


def test_tokens_that_merging_cannot_make_are_found() -> None:
    # "abc" needs "ab" + "c", and "bc" is merged first.
    encoder = byte_level(["bc", "ab", "abc"], [("b", "c"), ("a", "b"), ("ab", "c")])
    found = reachability(encoder)
    assert unreachable(encoder) == {"abc": "merges"}
    assert [encoder.spellings[n] for n in found.unreachable[0].becomes] == ["a", "bc"]


def test_tokens_that_the_pre_tokenizer_cuts_are_found() -> None:
    encoder = byte_level(["a1", "\u0120a", "a\u0120"], [("a", "1"), ("\u0120", "a"), ("a", "\u0120")])
    assert unreachable(encoder) == {"a1": "pre-tokenizer", "a\u0120": "pre-tokenizer"}


def test_tokens_that_the_normalizer_changes_are_found() -> None:
    tokens = ["\u00cc\u0123", "e\u00cc\u0123"]  # the combining acute accent, alone and after e
    merges = [("\u00cc", "\u0123"), ("e", "\u00cc\u0123")]
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    assert unreachable(byte_level(tokens, merges, pre_tokenizer=whole)) == {}
    cut = byte_level(tokens, merges, pre_tokenizer=whole, normalizer={"type": "NFC"})
    assert unreachable(cut) == {"e\u00cc\u0123": "normalizer"}


def test_words_that_skip_merging_are_told_from_those_that_need_none() -> None:
    encoder = byte_level(["bc", "abc"], [("b", "c")], ignore_merges=True)
    found = reachability(encoder)
    assert not found.unreachable
    assert [encoder.spellings[n] for n in found.whole_words_only] == ["abc"]
    assert unreachable(byte_level(["bc", "abc"], [("b", "c")])) == {"abc": "merges"}


def test_bytes_that_no_text_holds_are_apart(small: dict[str, Encoder]) -> None:
    for kind in ("byte-level", "byte-fallback"):
        encoder = small[kind]
        found = reachability(encoder)
        assert len(found.never_utf8) == 13
        bytes_found = {surface[0] for n in found.never_utf8 if (surface := encoder.surfaces[n]) is not None}
        assert bytes_found == {0xC0, 0xC1, *range(0xF5, 0x100)}
    assert len(reachability(small["byte-fallback"]).shadowed) == 128


@given(st.text(min_size=1, max_size=6), st.data())
def test_any_piece_of_a_text_is_inside_utf8(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    start = data.draw(st.integers(0, len(raw) - 1))
    stop = data.draw(st.integers(start + 1, len(raw)))
    assert _inside_utf8(raw[start:stop])


@pytest.mark.parametrize(
    "raw", [b"\xc0", b"\xf5", b"\xff\x80", b"a\x80", b"\xe4a", b"\x80\x80\x80\x80", b"\xed\xa0\x80"]
)
def test_bytes_that_are_inside_no_text_are_known(raw: bytes) -> None:
    assert not _inside_utf8(raw)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abc", min_size=2, max_size=4), unique=True, max_size=8), st.randoms(use_true_random=False))
def test_what_is_called_unreachable_is_in_no_text(tokens: list[str], rng: Any) -> None:
    cuts = [rng.randrange(1, len(token)) for token in tokens]
    known = {*"abc", *tokens}
    pairs = [(t[:c], t[c:]) for t, c in zip(tokens, cuts, strict=True) if t[:c] in known and t[c:] in known]
    encoder = byte_level(tokens, pairs)
    dead = {u.number for u in reachability(encoder).unreachable}
    texts = ["".join(rng.choices("abc", k=8)) for _ in range(200)]
    used = {number for numbers in encoder.encode_all(texts) for number in numbers}
    assert not dead & used


def test_losses_are_named(small: dict[str, Encoder]) -> None:
    base = small["byte-level"]
    nfkc = build_encoder(
        {**base.definition, "normalizer": {"type": "NFKC"}}, name="x", location="x", format="x"
    )  # fmt: skip
    lost = {loss.case: loss.note for loss in lost_texts(nfkc)}
    assert lost["compatibility forms"] == "Unicode form NFKC"
    assert "digits" in lost
    assert "empty" not in lost
    lower = build_encoder({**base.definition, "normalizer": {"type": "Lowercase"}}, name="x", location="x", format="x")
    assert {loss.case for loss in lost_texts(lower)} >= {"quotes and apostrophes", "controls as text"}


def test_the_guide_counts_the_hostile_texts() -> None:
    guide = (ROOT / "docs" / "guide" / "tokenizers.md").read_text(encoding="utf-8")
    assert f"{len(HOSTILE)} hostile texts" in guide
    assert ("nine surroundings" in guide, len(SURROUNDINGS) - 1) == (True, 9)


def test_the_hostile_texts_hold_what_they_promise() -> None:
    everything = "".join(HOSTILE.values())
    for wanted in ("\u200d", "\x00", "\u0301", "\u05e9", "\r\n", "\u202e", "\ufffd", "\U0010ffff", "a" * 5000):
        assert wanted in everything
    assert everything.encode().decode() == everything


def test_tokens_only_passed_through_are_candidates() -> None:
    encoder = byte_level(["th", "the"], [("t", "h"), ("th", "e")])
    text = Text("x", tuple(["the\n"] * 50), "line", "x")
    rare = rare_tokens(encoder, measure(encoder, [text]), set())
    names = {encoder.spellings[n]: times for n, times in rare.scaffold}
    assert names == {"t": 50, "h": 50, "th": 50, "e": 50}
    assert [encoder.spellings[n] for n in rare.never_seen].count("the") == 0


def test_parity_is_against_english_of_the_same_group(small: dict[str, Encoder]) -> None:
    texts = [
        Text("eng/news", ("the cat\n",), "line", "x", "g"),
        Text("rus/news", ("кошка\n",), "line", "x", "g"),
        Text("eng/web", ("the\n",), "line", "x"),
    ]
    measured = measure(small["byte-level"], texts)
    english, russian = int(measured[0].tokens.sum()), int(measured[1].tokens.sum())
    assert parities(measured) == [1.0, russian / english, None]


def test_one_character_costs_more_and_the_audit_says_so(english: Text, chinese: Text) -> None:
    """Row 4 of the mission: the cost of one character a token, in tokens per byte, by language."""
    texts = [english, chinese]
    records = {
        kind: audit(train(texts, TrainingOptions(kind=kind, size=800)), texts).result
        for kind in ("byte-level", "one-character")
    }
    for plain, single in zip(records["byte-level"].compression, records["one-character"].compression, strict=True):
        assert single.tokens_per_byte > 1.15 * plain.tokens_per_byte, plain.text
    assert any("a token of its own" in said for said in records["one-character"].verdict)
    assert not any("a token of its own" in said for said in records["byte-level"].verdict)


def test_an_audit_is_the_same_twice_and_says_what_it_left_out(small: dict[str, Encoder], english: Text) -> None:
    first, second = (audit(small["unigram"], [english]).to_json() for _ in range(2))
    assert first == second
    assert "embedding norms" in first
    assert audit(small["unigram"]).result.never_seen is None
    assert any("no text was given" in said for said in audit(small["unigram"]).result.not_checked)


# -- real tokenizers --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_known_facts_of_real_tokenizers_are_found(real: Path, shared_data: Path) -> None:
    texts = read_parallel(shared_data / "corpora" / "ntrex128")
    gpt2 = audit(open_encoder(real / "gpt2"), texts).result
    assert gpt2.unreachable.count == 0
    assert gpt2.round_trip_losses == []
    assert gpt2.corpus_losses == 0
    assert " SolidGoldMagikarp" in {token.surface for token in gpt2.glitch.tokens}
    hindi = next(row for row in gpt2.compression if row.language == "hin")
    assert hindi.parity == pytest.approx(7.16, abs=0.01)
    llama3 = reachability(open_encoder(real / "llama3"))
    assert not llama3.unreachable
    assert len(llama3.whole_words_only) > 100
    neox = reachability(open_encoder(real / "gpt-neox-20b"))
    assert {u.why for u in neox.unreachable} >= {"duplicate"}
