"""Definitions: the content of a tokenizer.json, made from the parts that other formats hold.

Everything that this room reads becomes such a mapping first, so that whatever can be read can also be written.
Spelling: byte-level vocabularies write every byte as a printable character, sentencepiece writes a space as U+2581.

Source: the format of the `tokenizers` library; the conversions are exact where tests/tokenizers says so.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pedigree.errors import MalformedFile, UsageError
from pedigree.tokenizers.derivation import derive_merges
from pedigree.tokenizers.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
)
from pedigree.tokenizers.surface import SPACE_MARK, byte_alphabet
from pedigree.tokenizers.word_patterns import WordPattern, pre_tokenizer

Definition = dict[str, Any]

# Score of pieces that text must never be matched with (controls, byte pieces): below any path of real pieces.
NEVER_CHOSEN = -10_000.0


def definition(model: Mapping[str, Any], **parts: Any) -> Definition:
    """A tokenizer.json around a model; parts not named are empty."""
    empty: Definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
    }
    return {**empty, **parts, "model": dict(model)}


def added_token(number: int, text: str, *, special: bool, normalized: bool = False) -> dict[str, Any]:
    """An entry of `added_tokens`."""
    return {
        "id": number,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    }


def bpe_model(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    """A BPE model; merges are pairs, in the order in which they apply."""
    plain: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {**plain, **settings, "vocab": dict(vocab), "merges": [list(pair) for pair in merges]}


def spell_bytes(surface: bytes) -> str:
    """Bytes in the printable alphabet of byte-level vocabularies."""
    return surface.decode("latin-1").translate(_LETTERS)


_LETTERS = {byte: letter for letter, byte in byte_alphabet().items()}
BYTE_LEVEL_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def byte_level_definition(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    pattern: WordPattern,
    added: Iterable[dict[str, Any]] = (),
) -> Definition:
    """A byte-level BPE tokenizer. Added tokens stand in the vocabulary too: the library numbers the others itself."""
    added = sorted(added, key=lambda entry: int(entry["id"]))
    vocab = dict(vocab)
    for entry in added:
        vocab.setdefault(entry["content"], entry["id"])
    return definition(
        bpe_model(vocab, merges, ignore_merges=pattern.ignore_merges),
        normalizer={"type": "NFC"} if pattern.nfc else None,
        pre_tokenizer=pre_tokenizer(pattern),
        decoder=BYTE_LEVEL_DECODER,
        added_tokens=added,
    )


def from_ranks(ranks: Mapping[bytes, int], pattern: WordPattern, specials: Mapping[int, str]) -> Definition:
    """A tiktoken vocabulary: bytes and their ranks, without merges.

    Args:
        ranks: surface to number, which is also the rank of its merge.
        pattern: how words are cut.
        specials: control tokens beyond the ranks; those whose number is taken are left out.
    """
    order = sorted((token for token in ranks if len(token) > 1), key=lambda token: ranks[token])
    merges, _ = derive_merges(order, dict(ranks))
    vocab = {spell_bytes(token): number for token, number in ranks.items()}
    taken = set(ranks.values())
    added = [added_token(n, text, special=True) for n, text in specials.items() if n not in taken]
    return byte_level_definition(vocab, [(spell_bytes(a), spell_bytes(b)) for a, b in merges], pattern, added)


def from_sentencepiece(model: SentencePieceModel, where: str) -> Definition:
    """A sentencepiece model (unigram or BPE).

    Raises:
        UsageError: word or character models, and spaces written as suffixes.
        MalformedFile: no unknown piece, or two pieces of one spelling.
    """
    if model.algorithm not in ("unigram", "bpe") or model.whitespace_as_suffix:
        raise UsageError(
            "this kind of sentencepiece model has no exact conversion",
            where=where,
            got=model.algorithm + (", spaces as suffixes" if model.whitespace_as_suffix else ""),
            expected="unigram or bpe, with spaces in front of words",
        )
    texts = [piece.text for piece in model.pieces]
    unknown = next((n for n, piece in enumerate(model.pieces) if piece.type == UNKNOWN), None)
    if len(set(texts)) != len(texts):
        raise MalformedFile("two pieces have one spelling", where=where)
    if unknown is None:
        raise MalformedFile("a sentencepiece model has no unknown piece", where=where)
    parts: Definition = {
        "normalizer": _normalizer(model),
        "pre_tokenizer": _metaspace(model),
        "decoder": _decoder(model),
        "added_tokens": [
            added_token(n, piece.text, special=piece.type != USER_DEFINED, normalized=piece.type == USER_DEFINED)
            for n, piece in enumerate(model.pieces)
            if piece.type in (UNKNOWN, CONTROL, USER_DEFINED)
        ],
    }
    if model.algorithm == "unigram":
        matched = {NORMAL: 1.0, USER_DEFINED: 0.0}
        vocab = [
            [piece.text, piece.score * matched[piece.type] if piece.type in matched else NEVER_CHOSEN]
            for piece in model.pieces
        ]
        body = {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": model.byte_fallback}
        return definition(body, **parts)
    return definition(_piece_merges(model, texts[unknown]), **parts)


def _piece_merges(model: SentencePieceModel, unknown: str) -> dict[str, Any]:
    """The BPE model of sentencepiece pieces: the higher the score, the earlier the merge."""
    products = {n: piece for n, piece in enumerate(model.pieces) if piece.type not in (UNKNOWN, CONTROL, BYTE, UNUSED)}
    order = sorted(products, key=lambda n: (-products[n].score, n))
    rank = {products[n].text: place for place, n in enumerate(order)}
    merges, _ = derive_merges([products[n].text for n in order if len(products[n].text) > 1], rank)
    vocab = {piece.text: n for n, piece in enumerate(model.pieces)}
    return bpe_model(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback)


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _normalizer(model: SentencePieceModel) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(model.charsmap).decode("ascii"),
        })  # fmt: skip
    if model.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    elif model.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE_MARK})
    if not model.remove_extra_whitespaces:
        steps.append(_replace(" ", SPACE_MARK))
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _metaspace(model: SentencePieceModel) -> dict[str, Any] | None:
    """Where outer spaces go, the mark in front is put by the pre-tokenizer; else the normalizer has put it."""
    if not model.remove_extra_whitespaces:
        return None
    scheme = "first" if model.add_dummy_prefix else "never"
    return {"type": "Metaspace", "replacement": SPACE_MARK, "prepend_scheme": scheme, "split": False}


def _decoder(model: SentencePieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [_replace(SPACE_MARK, " ")]
    if model.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
