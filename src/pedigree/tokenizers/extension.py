"""Extension: a vocabulary that grows at its end. Old numbers, old merges and old scores stand as they were.

Ways to add
merges      learned on new text (continued BPE); characters that would fall back to bytes are added first
tokens      whole words, given by the caller. In BPE they are joined from the parts that the old merges leave, so the
            old merges still come first; in Unigram they score a hair better than their own parts
controls    matched before anything else, never made of text

What is added by the library's `add_tokens` is matched before merging, in the middle of words too, and changes how old
text is cut; that is why tokens are not added that way here.

Source: arXiv 2512.03989 for continued BPE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pedigree.errors import UsageError
from pedigree.tokenizers.compression import Progress
from pedigree.tokenizers.definition import NEVER_CHOSEN, Definition, added_token
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.learning import count_words, learn_merges, missing_characters
from pedigree.tokenizers.surface import SPACE_MARK
from pedigree.tokenizers.texts import Text

_A_HAIR = 1e-3


@dataclass(frozen=True)
class ExtensionOptions:
    """What is added.

    Attributes:
        add: tokens to learn from the texts, characters included.
        tokens: whole tokens, as text.
        specials: control tokens.
        min_frequency: characters and pairs that occur less often are not added.
        longest: most characters of a learned token (bytes in byte-level vocabularies).
    """

    add: int = 0
    tokens: tuple[str, ...] = ()
    specials: tuple[str, ...] = ()
    min_frequency: int = 2
    longest: int = 32


@dataclass(frozen=True, eq=False)
class Extended:
    """The grown tokenizer and what was added to it; `on_the_way` are parts that whole tokens needed."""

    encoder: Encoder
    characters: list[str] = field(default_factory=list)
    merges: list[tuple[str, str]] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    on_the_way: list[str] = field(default_factory=list)
    specials: list[str] = field(default_factory=list)


def extend(
    base: Encoder, texts: Sequence[Text], options: ExtensionOptions, *, name: str = "extended",
    progress: Progress | None = None,
) -> Extended:  # fmt: skip
    """Grow a vocabulary.

    Raises:
        UsageError: nothing to add; learning on a vocabulary without merges; a token that is there already, or that the
            vocabulary cuts apart.
    """
    _check(base, texts, options)
    grown = build_encoder(with_added_inside(base.definition), name=name, location=name, format="tokenizer.json")
    characters: list[str] = []
    merges: list[tuple[str, str]] = []
    if options.add:
        words = count_words(grown, texts, progress)
        if grown.byte_pieces:
            characters = missing_characters(grown, words, options.add // 2, options.min_frequency)
            grown = _rebuilt(grown, characters, [])
        merges = learn_merges(
            grown, words, options.add - len(characters), min_frequency=options.min_frequency, longest=options.longest,
            progress=progress,
        )  # fmt: skip
        grown = _rebuilt(grown, [a + b for a, b in merges], merges)
    on_the_way: list[str] = []
    for text in options.tokens:
        grown, extra = _with_token(grown, text)
        on_the_way += extra
    grown = _with_specials(grown, options.specials)
    return Extended(grown, characters, merges, list(options.tokens), on_the_way, list(options.specials))


def _check(base: Encoder, texts: Sequence[Text], options: ExtensionOptions) -> None:
    if not options.add and not options.tokens and not options.specials:
        raise UsageError("nothing to add", expected="--add N with texts, --token TEXT or --special TOKEN")
    if options.add and not texts:
        raise UsageError("learning new tokens needs text", where="--add", fix="name one or more text files")
    model_type = base.definition["model"].get("type", "BPE")
    if model_type not in ("BPE", "Unigram"):
        raise UsageError(
            "this kind of vocabulary cannot grow", where=base.location, got=base.kind, expected="BPE or Unigram"
        )
    if options.add and model_type != "BPE":
        raise UsageError(
            "new merges can be learned on top of merges only",
            where=base.location,
            got=base.kind,
            expected="a BPE vocabulary",
            fix="--token TEXT adds whole tokens",
        )
    known = set(base.spellings)
    twice = [text for text in options.specials if text in known or options.specials.count(text) > 1 or not text]
    if twice:
        raise UsageError("a control token is there already, given twice, or empty", where="--special", got=twice[0])


def with_added_inside(definition: Definition) -> Definition:
    """The same tokenizer with its added tokens in the vocabulary, so that nothing added later moves their numbers."""
    model = dict(definition["model"])
    added = sorted(definition["added_tokens"], key=lambda entry: int(entry["id"]))
    if isinstance(model["vocab"], dict):
        vocab: Any = dict(model["vocab"])
        for entry in added:
            vocab.setdefault(entry["content"], entry["id"])
    else:
        vocab = list(model["vocab"])
        for entry in added:
            if entry["id"] == len(vocab):
                vocab.append([entry["content"], NEVER_CHOSEN])
    return {**definition, "model": {**model, "vocab": vocab}}


def _rebuilt(base: Encoder, tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> Encoder:
    """The encoder with tokens at the end of its vocabulary and merges at the end of its merges (BPE)."""
    model = base.definition["model"]
    vocab = dict(model["vocab"])
    for token in tokens:
        vocab[token] = base.size + len(vocab) - len(model["vocab"])
    everything = [list(pair) for pair in (*base.merges, *merges)]
    definition = {**base.definition, "model": {**model, "vocab": vocab, "merges": everything}}
    return build_encoder(definition, name=base.name, location=base.location, format=base.format)


def _with_token(base: Encoder, text: str) -> tuple[Encoder, list[str]]:
    """The encoder with one more whole token, and the parts it needed."""
    spelled = _spelled_as_one_word(base, text)
    if spelled in set(base.spellings):
        raise UsageError("this token is there already", where="--token", got=repr(text))
    if base.definition["model"].get("type") == "Unigram":
        return _with_piece(base, spelled), []
    known = set(base.spellings)
    new = [c for c in dict.fromkeys(spelled) if c not in known] if base.byte_pieces else []
    base = _rebuilt(base, new, [])
    parts = [base.spellings[number] or "" for number in base.by_model(spelled)]
    if "".join(parts) != spelled:
        raise UsageError("the vocabulary has no parts for this token", where="--token", got=repr(text))
    products = ["".join(parts[: n + 1]) for n in range(1, len(parts))]
    merges = [("".join(parts[:n]), parts[n]) for n in range(1, len(parts))]
    fresh = [product for product in products if product not in known]
    return _rebuilt(base, fresh, merges), [*new, *fresh[:-1]]


def _spelled_as_one_word(base: Encoder, text: str) -> str:
    """The spelling of a text that the vocabulary leaves in one piece."""
    pieces = base.words(text)
    if len(pieces) != 1 or not pieces[0]:
        raise UsageError(
            "the vocabulary cuts this token apart before it looks at it",
            where="--token",
            got=" | ".join(pieces) or repr(text),
            expected="one word, with the space before it where it begins one",
            fix="--special TOKEN adds a token that is matched before words are cut",
        )
    spelled = pieces[0]
    # The mark that sentencepiece puts in front of a text stands for a space only where one was written.
    if spelled.startswith(SPACE_MARK) and not base.is_byte_level:
        spelled = spelled[1:] if not text.startswith(" ") or spelled.startswith(2 * SPACE_MARK) else spelled
    return spelled


def _with_piece(base: Encoder, spelled: str) -> Encoder:
    """A Unigram piece that scores a hair better than the best path over its parts."""
    model = base.definition["model"]
    scores = {number: entry[1] for number, entry in enumerate(model["vocab"])}
    parts = base.by_model(spelled)
    score = sum(scores[number] for number in parts) + _A_HAIR
    vocab = [*model["vocab"], [spelled, score]]
    definition = {**base.definition, "model": {**model, "vocab": vocab}}
    return build_encoder(definition, name=base.name, location=base.location, format=base.format)


def _with_specials(base: Encoder, specials: Sequence[str]) -> Encoder:
    if not specials:
        return base
    model, entries = base.definition["model"], list(base.definition["added_tokens"])
    numbers = {text: base.size + n for n, text in enumerate(specials)}
    entries += [added_token(number, text, special=True) for text, number in numbers.items()]
    vocab: Any = model["vocab"]
    if isinstance(vocab, dict):
        vocab = vocab | numbers
    else:
        vocab = [*vocab, *([text, NEVER_CHOSEN] for text in specials)]
    definition = {**base.definition, "added_tokens": entries, "model": {**model, "vocab": vocab}}
    return build_encoder(definition, name=base.name, location=base.location, format=base.format)
