"""Concatenation: the vocabulary of A as it stands, then the tokens of B that A does not have.

Tokens are the same when their surfaces are the same bytes, whatever their spelling. Merges of A come first, then those
of B in their order: whatever A merges it merges as before, and tokens of B live on what is left. That is how two
vocabularies are put together in practice, and why some of B's tokens die; `conflicts` finds each of them.

Where B's tokens have no merge that A can follow (its parts are not tokens here, or B builds characters that A has as
bytes), one is made up and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pedigree.errors import UsageError
from pedigree.tokenizers.definition import NEVER_CHOSEN, Definition, added_token, spell_bytes
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.extension import with_added_inside
from pedigree.tokenizers.surface import SPACE_MARK, byte_level
from pedigree.tokenizers.tokenizer_json import spelling


@dataclass(eq=False)
class Joined:
    """The outcome and where everything came from.

    Attributes:
        encoder: the joined tokenizer.
        map_b: number in the outcome of each token of B, None where it was not taken. Numbers of A stand.
        shared: tokens of B that A has too.
        appended: numbers of the tokens taken from B.
        untaken: tokens of B that cannot be spelled as A spells.
        dropped_merges: merges of B whose parts or product are not tokens of the outcome.
        shared_merges: merges that both have, as (place in A, place in B).
        merges_b: merges taken from B.
        made_up: merges that neither has.
        specials: numbers in B of control tokens that were appended.
    """

    encoder: Encoder
    map_b: list[int | None]
    shared: int = 0
    appended: list[int] = field(default_factory=list)
    untaken: list[int] = field(default_factory=list)
    dropped_merges: list[tuple[str, str]] = field(default_factory=list)
    shared_merges: list[tuple[int, int]] = field(default_factory=list)
    merges_b: int = 0
    made_up: int = 0
    specials: list[int] = field(default_factory=list)


def concatenate(a: Encoder, b: Encoder, *, name: str = "joined") -> Joined:
    """Put two vocabularies into one.

    Raises:
        UsageError: the two do not work alike (merges here, scores there), so that B's tokens could not be reached.
    """
    kinds = {encoder.definition["model"].get("type", "BPE") for encoder in (a, b)}
    if len(kinds) > 1 or not kinds <= {"BPE", "Unigram"}:
        raise UsageError(
            "these two kinds of vocabulary cannot be put into one",
            got=f"{a.kind} and {b.kind}",
            expected="two with merges, or two Unigram vocabularies",
            fix="pedigree tokenizer extend A --token TEXT adds single tokens",
        )
    joined = Joined(a, [None] * b.size)
    tokens = _place_tokens(a, b, joined)
    definition = with_added_inside(a.definition)
    if kinds == {"Unigram"}:
        definition = _with_pieces(definition, b, tokens)
    else:
        definition = _with_merges(definition, a, b, joined, tokens)
    definition = _with_controls(definition, b, joined)
    joined.encoder = build_encoder(definition, name=name, location=name, format="tokenizer.json")
    return joined


def speller(a: Encoder) -> Callable[[bytes], str | None]:
    """How A would spell bytes as one token; None where it has no such spelling."""
    if a.is_byte_level:
        return spell_bytes
    kind, _ = spelling(a.definition, a.definition["model"], [])

    def spell(surface: bytes) -> str | None:
        try:
            text = surface.decode("utf-8")
        except UnicodeDecodeError:
            return None
        return text.replace(" ", SPACE_MARK) if kind == "sentencepiece" else text

    return spell


def _place_tokens(a: Encoder, b: Encoder, joined: Joined) -> dict[str, int]:
    """Numbers for B's tokens: those of A where it has the surface, new ones behind A for the rest."""
    known = a.vocabulary()
    bytes_of_a = {bytes([byte]): number for byte, number in a.byte_pieces.items()}
    pieces_of_b = set(b.byte_pieces.values())
    taken = set(a.spellings)
    spell = speller(a)
    new: dict[str, int] = {}
    for number, surface in enumerate(b.surfaces):
        if surface is None:
            continue
        there = known.get(surface)
        if number in pieces_of_b:
            there = bytes_of_a.get(surface, there)
        if there is not None:
            joined.map_b[number] = there
            joined.shared += 1
            continue
        spelled = spell(surface)
        if spelled is None or number in pieces_of_b or spelled in taken:
            joined.untaken.append(number)
            continue
        new.setdefault(spelled, a.size + len(new))
        joined.map_b[number] = new[spelled]
        if new[spelled] == a.size + len(joined.appended):
            joined.appended.append(new[spelled])
    return new


def _with_merges(definition: Definition, a: Encoder, b: Encoder, joined: Joined, new: dict[str, int]) -> Definition:
    model = definition["model"]
    vocab = {**model["vocab"], **new}
    own = a.merges
    place_in_a = {pair: place for place, pair in enumerate(own)}
    merges: list[tuple[str, str]] = []
    made = set()
    spelled_b = _spellings_in_a(a, b)
    for place, (left, right) in enumerate(b.merges):
        pair = (spelled_b.get(left), spelled_b.get(right))
        if pair[0] is None or pair[1] is None or not {pair[0], pair[1], pair[0] + pair[1]} <= vocab.keys():
            joined.dropped_merges.append((left, right))
            continue
        known = (pair[0], pair[1])
        if known in place_in_a:
            joined.shared_merges.append((place_in_a[known], place))
        elif known not in made:
            made.add(known)
            merges.append(known)
    joined.merges_b = len(merges)
    first, last = _made_up(a, new, vocab, merges)
    joined.made_up = len(first) + len(last)
    for left, right in (*first, *last):
        if left + right not in vocab:
            vocab[left + right] = a.size + len(vocab) - len(model["vocab"])
    everything = [list(pair) for pair in (*own, *first, *merges, *last)]
    return {**definition, "model": {**model, "vocab": vocab, "merges": everything}}


def _spellings_in_a(a: Encoder, b: Encoder) -> dict[str, str]:
    """For each spelling of B the one of A for the same bytes."""
    spell, found = speller(a), {}
    for spelled, surface in zip(b.spellings, b.surfaces, strict=True):
        if spelled is not None and surface is not None:
            there = spell(surface)
            if there is not None:
                found[spelled] = there
    return found


def _made_up(
    a: Encoder, new: dict[str, int], vocab: dict[str, int], merges: list[tuple[str, str]]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Merges for new tokens that no merge makes: characters from their bytes first, then halves that are tokens."""
    made = {left + right for left, right in merges}
    first: list[tuple[str, str]] = []
    last: list[tuple[str, str]] = []
    seen: set[str] = set()
    for token in new:
        if token in made or len(token) < 2:
            continue
        if a.is_byte_level and _is_one_character(token):
            for cut in range(1, len(token)):
                pair = (token[:cut], token[cut])
                if pair[0] + pair[1] not in seen:
                    seen.add(pair[0] + pair[1])
                    first.append(pair)
            continue
        cuts = [cut for cut in range(len(token) - 1, 0, -1) if token[:cut] in vocab and token[cut:] in vocab]
        if cuts:
            last.append((token[: cuts[0]], token[cuts[0] :]))
    known = set(a.merges)
    return [pair for pair in first if pair not in known], last


def _is_one_character(token: str) -> bool:
    try:
        return len(byte_level(token).decode("utf-8")) == 1
    except UnicodeDecodeError:
        return False


def _with_pieces(definition: Definition, b: Encoder, new: dict[str, int]) -> Definition:
    """Pieces of B below every piece of A, in their own order."""
    model = definition["model"]
    real = [score for _, score in model["vocab"] if score > NEVER_CHOSEN / 2]
    kind, spell = spelling(b.definition, b.definition["model"], [])
    scores = {spell(text): score for text, score in b.definition["model"]["vocab"]}
    highest = max(scores.values(), default=0.0)
    vocab = list(model["vocab"])
    for token in new:
        surface = spell(token) if kind == "sentencepiece" else token.replace(SPACE_MARK, " ").encode()
        vocab.append([token, min(real) - 1 + scores.get(surface, 0.0) - highest])
    return {**definition, "model": {**model, "vocab": vocab}}


def _with_controls(definition: Definition, b: Encoder, joined: Joined) -> Definition:
    """Controls of B that A has no token of that spelling for, at the end."""
    model = definition["model"]
    vocab: Any = model["vocab"]
    size = (max(vocab.values()) if isinstance(vocab, dict) else len(vocab) - 1) + 1
    texts = vocab if isinstance(vocab, dict) else {text: number for number, (text, _) in enumerate(vocab)}
    entries = list(definition["added_tokens"])
    fresh: dict[str, int] = {}
    for number in sorted(b.specials):
        text = str(b.spellings[number])
        if text in texts:
            joined.map_b[number] = texts[text]
            continue
        fresh[text] = size + len(fresh)
        joined.map_b[number] = fresh[text]
        joined.specials.append(number)
        entries.append(added_token(fresh[text], text, special=True))
    vocab = {**vocab, **fresh} if isinstance(vocab, dict) else [*vocab, *([text, NEVER_CHOSEN] for text in fresh)]
    return {**definition, "added_tokens": entries, "model": {**model, "vocab": vocab}}
