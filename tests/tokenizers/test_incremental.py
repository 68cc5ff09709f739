"""Text from tokens as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.incremental import IncrementalText


def pieces(encoder: Encoder, numbers: list[int], *stop: str) -> list[str]:
    text = IncrementalText(encoder, stop)
    said = [text.push(number) for number in numbers]
    return [*said, text.finish()]


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "unigram", "one-character"])
@given(said=st.text(max_size=30))
def test_the_pieces_are_the_text(small: dict[str, Encoder], kind: str, said: str) -> None:
    encoder = small[kind]
    found = pieces(encoder, encoder.encode(said))
    assert "".join(found) == "".join(
        s.decode() for s in [b"".join(encoder.surfaces[n] or b"" for n in encoder.encode(said))]
    )


def test_a_character_waits_for_its_last_byte(small: dict[str, Encoder]) -> None:
    encoder = small["byte-level"]
    numbers = encoder.encode("\N{GRINNING FACE}")
    assert len(numbers) == 4, "no merge: one token for each byte"
    assert pieces(encoder, numbers) == ["", "", "", "\N{GRINNING FACE}", ""]
    assert pieces(encoder, numbers[:3]) == ["", "", "", ""], "half a character is not said"


def test_bytes_that_are_no_character_are_replaced(small: dict[str, Encoder]) -> None:
    encoder = small["byte-level"]
    first, last = encoder.encode("\N{GRINNING FACE}")[0], encoder.encode("a")[0]
    assert "".join(pieces(encoder, [first, last])) == "\N{REPLACEMENT CHARACTER}a"


def test_controls_and_unknown_numbers_are_no_text(small: dict[str, Encoder]) -> None:
    encoder = small["byte-level"]
    assert pieces(encoder, [next(iter(encoder.specials)), encoder.size + 5, -1]) == [""] * 4


@given(said=st.text("ab\n", max_size=25), stop=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_nothing_of_a_stop_string_is_said(small: dict[str, Encoder], said: str, stop: list[str]) -> None:
    encoder = small["one-character"]
    places = [said.find(text) for text in stop if text in said]
    # The stop string that ends first ends the answer.
    ends = [(said.find(text) + len(text), said.find(text)) for text in stop if text in said]
    found = "".join(pieces(encoder, encoder.encode(said), *stop))
    if not places:
        assert found == said
    else:
        end = min(end for end, _ in ends)
        assert found == said[: min(place for e, place in ends if e == end)]


def test_text_that_could_begin_a_stop_string_waits(small: dict[str, Encoder]) -> None:
    encoder = small["one-character"]
    assert pieces(encoder, encoder.encode("cats ca"), "cat!") == ["cats", " ", "", "", "ca"]
