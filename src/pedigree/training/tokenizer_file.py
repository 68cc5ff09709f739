"""The tokenizer of a run that brings none: one token for each byte, or byte-level BPE trained on its corpora.

Law  the same documents and size give the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pedigree.errors import UsageError
from pedigree.training.config import SourceConfig
from pedigree.training.sources import documents

SEPARATOR = "<|endoftext|>"
MAX_CHARACTERS = 20_000_000  # of each corpus; more changes merges hardly and takes long
_PIECE = 10_000  # characters handed over at once


def make_tokenizer(kind: Literal["bytes", "bpe"], size: int, sources: Sequence[SourceConfig], path: Path) -> None:
    """Write a tokenizer.json.

    Args:
        kind: `bytes` has 256 tokens and the separator, `bpe` has `size` in all.
        size: tokens of `bpe`, the separator included.
        sources: what `bpe` is trained on.
        path: where to write.

    Raises:
        UsageError: the size cannot hold the bytes.
        MissingInput, MalformedFile: as `documents`.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind == "bpe" and size <= len(alphabet):
        raise UsageError("this vocabulary cannot hold every byte", got=size, expected=f"more than {len(alphabet)}")
    if kind == "bytes":
        vocabulary = {SEPARATOR: 0, **{letter: number for number, letter in enumerate(alphabet, start=1)}}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.add_special_tokens([SEPARATOR])
    else:
        tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "bpe":
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(_pieces(sources), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def _pieces(sources: Sequence[SourceConfig]) -> Iterator[str]:
    for source in sources:
        left = MAX_CHARACTERS
        for text in documents(source):
            for start in range(0, min(len(text), left), _PIECE):
                yield text[start : start + _PIECE]
            left -= len(text)
            if left <= 0:
                break
