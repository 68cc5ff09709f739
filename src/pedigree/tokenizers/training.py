"""Training: byte-level BPE, byte-fallback BPE, Unigram, and the one-character tokenizer.

Kinds
byte-level      words by a known pattern, bytes as the alphabet; any text comes back unchanged
byte-fallback   characters as the alphabet, bytes for the rest; spaces are spaces, so any text comes back unchanged
unigram         the pieces of the likeliest segmentation; bytes for the rest
one-character   byte-fallback, but every digit, white space, symbol and Chinese character is a token of its own; only
                runs of letters of other scripts are merged

Laws
- The same texts and options give the same bytes. The library counts in an order that differs from run to run; BPE does
  not depend on it, Unigram scores do in their last digits and are rounded to six.
- Control tokens come first, in the order given.

Source: the `tokenizers` library; Kudo (arXiv 1804.10959) for Unigram; Sennrich et al. (arXiv 1508.07909) for BPE.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from pedigree.errors import InputError, UsageError
from pedigree.records.canonical import stable_float
from pedigree.tokenizers.compression import Progress
from pedigree.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    NEVER_CHOSEN,
    Definition,
    added_token,
    bpe_model,
    definition,
)
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.spelling_facts import HAN
from pedigree.tokenizers.surface import byte_alphabet
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.word_patterns import BYTE_LEVEL, WordPattern, find_pattern, pre_tokenizer

Kind = Literal["byte-level", "byte-fallback", "unigram", "one-character"]
KINDS: tuple[Kind, ...] = ("byte-level", "byte-fallback", "unigram", "one-character")
ONE_CHARACTER = WordPattern((r"(?:(?!\p{Han})[\p{L}\p{M}])+|[\s\S]",))
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
ASCII = tuple(map(chr, range(128)))
END = "<|endoftext|>"


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained.

    Attributes:
        kind: one of `KINDS`.
        size: tokens in all, controls and byte pieces included.
        pattern: how words are cut, by name (not for one-character).
        specials: control tokens, first in the vocabulary.
        min_frequency: pairs that occur less often are not merged.
        longest: most characters (bytes for byte-level) of a token.
    """

    kind: Kind = "byte-level"
    size: int = 8192
    pattern: str = "llama3"
    specials: tuple[str, ...] = (END,)
    min_frequency: int = 2
    longest: int = 32


def train(
    texts: Sequence[Text], options: TrainingOptions, *, name: str = "trained", progress: Progress | None = None
) -> Encoder:
    """Train a tokenizer.

    Raises:
        InputError: there is no text.
        UsageError: the size cannot hold what every tokenizer of this kind has, or a control token is given twice.
    """
    if not any(unit.strip() for text in texts for unit in text.units):
        raise InputError("there is no text to train on", expected="at least one file that says something")
    if len(set(options.specials)) != len(options.specials) or not all(options.specials):
        raise UsageError("control tokens must differ and not be empty", got=list(options.specials), where="--special")
    if progress is not None:
        progress("training", 0.0, f"{options.kind}, {options.size:,} tokens")
    made = {"byte-level": _byte_level, "unigram": _unigram}.get(options.kind, _byte_fallback)(texts, options, progress)
    added = [added_token(number, text, special=True) for number, text in enumerate(options.specials)]
    made["added_tokens"] = added + made["added_tokens"]
    return build_encoder(made, name=name, location=name, format="tokenizer.json")


def _units(texts: Sequence[Text], progress: Progress | None) -> Iterator[str]:
    total = sum(len(text.units) for text in texts)
    done = 0
    for text in texts:
        for unit in text.units:
            done += 1
            if progress is not None and done % 4096 == 0:
                progress("training", 0.5 * done / total, text.name)
            yield unit


def _room(options: TrainingOptions, needed: int, what: str) -> int:
    """Tokens left for learning when `needed` are spoken for."""
    if options.size < needed:
        raise UsageError(
            "the vocabulary is too small for its kind",
            where="--size",
            got=f"{options.size:,}",
            expected=f"at least {needed:,}: {what}",
            fix=f"--size {needed + 1024}",
        )
    return options.size - needed


def _byte_level(texts: Sequence[Text], options: TrainingOptions, progress: Progress | None) -> Definition:
    _room(options, 256 + len(options.specials), "256 bytes and the control tokens")
    cut = find_pattern(options.pattern, "--pattern")
    words = WordPattern(cut.steps)  # no normal form: any text comes back unchanged
    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(step), "isolated") for step in words.steps]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=options.size, min_frequency=options.min_frequency, special_tokens=list(options.specials),
        initial_alphabet=sorted(byte_alphabet()), max_token_length=options.longest, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(_units(texts, progress), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return definition(
        bpe_model(model["vocab"], model["merges"]), pre_tokenizer=pre_tokenizer(words), decoder=BYTE_LEVEL_DECODER
    )


FALLBACK_DECODER = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}


def _cut(pattern: WordPattern) -> dict[str, Any]:
    """A pre-tokenizer that cuts words and leaves their spelling alone."""
    steps = pre_tokenizer(pattern)["pretokenizers"]
    return {"type": "Sequence", "pretokenizers": [step for step in steps if step != BYTE_LEVEL]}


def _byte_fallback(texts: Sequence[Text], options: TrainingOptions, progress: Progress | None) -> Definition:
    """BPE over characters; one-character differs in how words are cut and in what the alphabet must hold."""
    single = options.kind == "one-character"
    cut = ONE_CHARACTER if single else WordPattern(find_pattern(options.pattern, "--pattern").steps)
    first = (*options.specials, *BYTE_PIECES)
    counts = Counter(character for text in texts for unit in text.units for character in unit)
    must = {c for c in counts if HAN.match(c) or not c.isalpha()} if single else set()
    must |= set(ASCII)
    room = _room(options, len(first) + len(must), f"{len(must):,} characters, 256 bytes and the control tokens")
    others = sorted(
        (c for c in counts if c not in must and counts[c] >= options.min_frequency), key=lambda c: (-counts[c], c)
    )
    alphabet = sorted(must | set(others[: max(room // 2, 0)]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(step), "isolated") for step in cut.steps]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=options.size - len(first), min_frequency=options.min_frequency, initial_alphabet=alphabet,
        limit_alphabet=len(alphabet), max_token_length=options.longest, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(_units(texts, progress), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=lambda token: model["vocab"][token])
    vocab = {token: n for n, token in enumerate([*first, *(t for t in tokens if t not in first)])}
    return definition(
        bpe_model(vocab, model["merges"], byte_fallback=True), pre_tokenizer=_cut(cut), decoder=FALLBACK_DECODER
    )


def _unigram(texts: Sequence[Text], options: TrainingOptions, progress: Progress | None) -> Definition:
    cut = WordPattern(find_pattern(options.pattern, "--pattern").steps)
    first = (*options.specials, "<unk>", *BYTE_PIECES)
    if "<unk>" in options.specials:
        raise UsageError("unigram has its own unknown token", where="--special", got="<unk>", fix="leave it out")
    room = _room(options, len(first) + len(ASCII), "128 ASCII characters, 256 bytes and the control tokens")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(step), "isolated") for step in cut.steps]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=room + len(ASCII) + 1, initial_alphabet=list(ASCII), special_tokens=["<unk>"], unk_token="<unk>",
        max_piece_length=min(options.longest, 16), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(_units(texts, progress), trainer)
    found = _settled_scores(dict(json.loads(tokenizer.to_str())["model"]["vocab"]))
    pieces = sorted((token for token in found if token not in first), key=lambda token: (-found[token], token))
    pieces = _fit(pieces, options.size - len(first))
    vocab = [[token, NEVER_CHOSEN] for token in first] + [[token, found[token]] for token in pieces]
    model = {"type": "Unigram", "unk_id": len(options.specials), "vocab": vocab, "byte_fallback": True}
    unknown = added_token(len(options.specials), "<unk>", special=True)
    return definition(model, pre_tokenizer=_cut(cut), decoder=FALLBACK_DECODER, added_tokens=[unknown])


def _settled_scores(scores: dict[str, float]) -> dict[str, float]:
    """Scores at six digits, without the order in which the library happened to meet rare characters.

    Characters that lost their estimate get the lowest score plus a ten-thousandth for each one met before; the order is
    that of a hash table and changes from run to run. They are put into the order of their code points.
    """
    lowest, step = min(score for token, score in scores.items() if token != "<unk>"), 0.0001
    ceiling = lowest + step * (1 + sum(len(token) == 1 for token in scores))
    rare = sorted(token for token, score in scores.items() if len(token) == 1 and score <= ceiling)
    scores = scores | {token: lowest + step * place for place, token in enumerate(rare)}
    return {token: stable_float(score) or 0.0 for token, score in scores.items()}


def _fit(pieces: list[str], room: int) -> list[str]:
    """The likeliest pieces that fit, with all of ASCII among them."""
    excess = len(pieces) - room
    if excess <= 0:
        return pieces
    droppable = [piece for piece in reversed(pieces) if len(piece) > 1][:excess]
    return [piece for piece in pieces if piece not in set(droppable)]
