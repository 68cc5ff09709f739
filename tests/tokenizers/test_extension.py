"""Extension: old numbers and merges stand, new tokens are reachable, every text still comes back."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.errors import UsageError
from pedigree.tokenizers.definition import definition
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.extension import Extended, ExtensionOptions, extend
from pedigree.tokenizers.extension_report import extension_record
from pedigree.tokenizers.hostile_texts import lost_texts
from pedigree.tokenizers.learning import Words, count_words, learn_merges, missing_characters
from pedigree.tokenizers.reachability import reachability
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import KINDS

MERGING = tuple(kind for kind in KINDS if kind != "unigram")


@pytest.fixture(scope="module")
def grown(small: dict[str, Encoder], russian: Text, chinese: Text) -> dict[str, Extended]:
    options = ExtensionOptions(add=80, specials=("<|tool|>",))
    return {kind: extend(small[kind], [russian, chinese], options) for kind in MERGING}


@pytest.mark.parametrize("kind", MERGING)
def test_what_was_there_stands_as_it_was(small: dict[str, Encoder], grown: dict[str, Extended], kind: str) -> None:
    old, new = small[kind], grown[kind].encoder
    assert new.spellings[: old.size] == old.spellings
    assert new.merges[: len(old.merges)] == old.merges
    assert old.specials < new.specials
    assert new.size == old.size + 81
    assert new.spellings[-1] == "<|tool|>"


@pytest.mark.parametrize("kind", MERGING)
def test_every_new_token_can_be_produced_and_nothing_is_lost(
    small: dict[str, Encoder], grown: dict[str, Extended], kind: str
) -> None:
    old, new = small[kind], grown[kind].encoder
    assert reachability(new, range(old.size, new.size)).unreachable == []
    assert lost_texts(new) == []


@pytest.mark.parametrize("kind", MERGING)
def test_the_old_domain_is_encoded_as_before_and_the_new_one_is_shorter(
    small: dict[str, Encoder], grown: dict[str, Extended], english: Text, russian: Text, kind: str
) -> None:
    old, new = small[kind], grown[kind].encoder
    assert new.encode_all(english.units) == old.encode_all(english.units)
    before, after = (sum(map(len, encoder.encode_all(russian.units))) for encoder in (old, new))
    assert after < 0.7 * before


@settings(deadline=None)
@given(st.text(max_size=40), st.text("кошкасиделнвр 床前明月光1a", max_size=40))
def test_any_text_comes_back_and_is_never_longer(
    small: dict[str, Encoder], grown: dict[str, Extended], text: str, likely: str
) -> None:
    for kind in MERGING:
        old, new = small[kind], grown[kind].encoder
        for given_text in (text, likely):
            numbers = new.encode(given_text)
            assert new.decode(numbers) == given_text
            assert len(numbers) <= len(old.encode(given_text))


def test_learning_takes_the_most_frequent_pair_each_time(small: dict[str, Encoder], russian: Text) -> None:
    """Held against the plain rule, counted anew for every merge."""
    base = small["byte-level"]
    words = count_words(base, [russian])
    found = learn_merges(base, words, 25, min_frequency=2, longest=32)
    table = {word: [token.value for token in base.library.model.tokenize(word)] for word in words}
    known = set(base.spellings)
    for merge in found:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in table.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        best = min((-n, *pair) for pair, n in pairs.items() if pair[0] + pair[1] not in known)
        assert merge == best[1:]
        known.add(merge[0] + merge[1])
        for word, parts in table.items():
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == merge:
                    joined[-1] += part
                else:
                    joined.append(part)
            table[word] = joined


def test_joining_keeps_counts_and_places_true() -> None:
    words = Words([[1, 2, 1, 2, 2], [2, 1]], [3, 5])
    words.join((1, 2), 9)
    fresh = Words([[9, 9, 2], [2, 1]], [3, 5])
    assert words.symbols == fresh.symbols
    assert {pair: n for pair, n in words.pairs.items() if n} == dict(fresh.pairs)
    assert {pair: places for pair, places in words.places.items() if places} == dict(fresh.places)


def test_single_bytes_never_become_characters(small: dict[str, Encoder]) -> None:
    words = Counter({"é\x07é": 50, "жж": 20, "я": 1})
    assert missing_characters(small["byte-fallback"], words, 10, 2) == ["é", "ж"]


def test_the_same_texts_give_the_same_extension(small: dict[str, Encoder], russian: Text) -> None:
    options = ExtensionOptions(add=30)
    first, second = (extend(small["byte-fallback"], [russian], options).encoder.digest for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "unigram"])
def test_whole_tokens_are_made_wherever_they_stand_as_a_word(
    small: dict[str, Encoder], english: Text, kind: str
) -> None:
    old = small[kind]
    done = extend(old, [], ExtensionOptions(tokens=(" Pedigree", "кот"), specials=("<|x|>",)))
    new = done.encoder
    for text in (" Pedigree", "кот"):
        assert text.encode() in new.vocabulary()
        assert len(new.encode(text)) == 1
    assert new.encode("the Pedigree")[-1] == new.vocabulary()[b" Pedigree"]
    assert new.spellings[: old.size] == old.spellings
    assert new.encode_all(english.units) == old.encode_all(english.units)
    assert lost_texts(new) == []
    assert new.size == old.size + 3 + len(done.on_the_way)


def test_what_cannot_be_added_is_told(small: dict[str, Encoder], russian: Text) -> None:
    base = small["byte-level"]
    for options, texts, message in (
        (ExtensionOptions(), [], "nothing to add"),
        (ExtensionOptions(add=5), [], "learning new tokens needs text"),
        (ExtensionOptions(tokens=(" the",)), [], "there already"),
        (ExtensionOptions(tokens=("two words",)), [], "cuts this token apart"),
        (ExtensionOptions(specials=("<|endoftext|>",)), [], "there already"),
        (ExtensionOptions(specials=("<x>", "<x>")), [], "given twice"),
    ):
        with pytest.raises(UsageError, match=message):
            extend(base, texts, options)
    pieces = {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
    model = {**pieces, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    words = build_encoder(definition(model), name="x", location="x", format="x")
    with pytest.raises(UsageError, match="this kind of vocabulary cannot grow"):
        extend(words, [], ExtensionOptions(tokens=("b",)))
    with pytest.raises(UsageError, match="on top of merges only"):
        extend(small["unigram"], [russian], ExtensionOptions(add=5))


def test_the_record_tells_where_nothing_changes(small: dict[str, Encoder], english: Text, russian: Text) -> None:
    options = ExtensionOptions(add=40)
    done = extend(small["byte-level"], [russian], options)
    record = extension_record(small["byte-level"], done, [english, russian], options)
    assert record.result.added == record.result.merges == 40
    assert record.result.unreachable_added.count == 0
    assert "no new token is used in eng/verse" in record.result.verdict
    assert any("rus/verse gains most" in said for said in record.result.verdict)
    assert record.result.texts[1].after.tokens < record.result.texts[1].before.tokens


def test_a_real_llama_vocabulary_grows(real: Path, shared_data: Path) -> None:
    """Row 11 of the mission: extend the vocabulary of Llama 2 for Chinese, and keep everything that was there."""
    base = open_encoder(real / "llama2")
    poems = (shared_data / "corpora" / "chinese-poetry" / "poetry.txt").read_text(encoding="utf-8").splitlines(True)
    english = (shared_data / "corpora" / "ntrex128" / "newstest2019-src.eng.txt").read_text(encoding="utf-8")
    done = extend(base, [Text("zho", tuple(poems[:4000]), "line", "x")], ExtensionOptions(add=1000))
    new = done.encoder
    assert new.spellings[:32_000] == base.spellings
    assert new.merges[: len(base.merges)] == base.merges
    assert reachability(new, range(32_000, new.size)).unreachable == []
    assert new.encode(english) == base.encode(english)
    held_out = poems[8000:9000]
    before, after = (sum(map(len, encoder.encode_all(held_out))) for encoder in (base, new))
    assert after < 0.75 * before
    assert [loss.case for loss in lost_texts(new)] == [loss.case for loss in lost_texts(base)]
