"""What the model can do on text that it was not trained on: bits per byte by domain, and sums that come out right.

Bits per byte divide by the bytes of the text, not by tokens, so that models with other tokenizers can be compared.
Every token of a document is predicted once, from the start of its window at the earliest; separators are not counted.

Law  the same weights, documents and settings give the same numbers.
Shapes  B = sequences, T = tokens in a sequence, V = vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pedigree.training.arithmetic import Question, questions
from pedigree.training.config import TrainingConfig
from pedigree.training.interface import Trainable
from pedigree.training.precision import autocast
from pedigree.training.shards import Corpus, Shard, Vocabulary, tokenize

IGNORED = -100


@dataclass(frozen=True)
class HeldOut:
    """Documents of one domain: their tokens, where each begins, and the bytes of their text.

    `number` is that of the domain in training; 0 for a domain that was not trained on.
    """

    domain: str
    number: int
    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    n_bytes: int


@dataclass(frozen=True)
class Score:
    """How well the text of a domain is predicted."""

    domain: str
    bits_per_byte: float
    nats_per_token: float
    n_bytes: int
    n_tokens: int


def held_out_texts(
    config: TrainingConfig, corpora: Sequence[Corpus], vocabulary: Vocabulary, cache: Path
) -> list[HeldOut]:
    """The documents kept back, and those of the evaluation's own sources, by domain.

    Args:
        config: the run.
        corpora: the tokenized training sources.
        vocabulary, cache: to tokenize the other sources with.
    """
    shards = [(corpus.source.domain, corpus.held_out) for corpus in corpora]
    for source in config.evaluation.sources:
        whole = source.model_copy(update={"held_out": 0.0})
        shards.append((source.domain, tokenize(whole, vocabulary, cache).train))
    domains: dict[str, list[Shard]] = {}
    for domain, shard in shards:
        if shard.n_documents:
            domains.setdefault(domain, []).append(shard)
    limit = config.evaluation.max_tokens
    return [
        gather(domain, domain_number(config, domain), domains[domain], limit // len(domains[domain]))
        for domain in sorted(domains)
    ]


def domain_number(config: TrainingConfig, domain: str) -> int:
    """Number of a domain among those of the training sources; 0 where it is none of them."""
    names = sorted({source.domain for source in config.sources})
    return names.index(domain) if domain in names else 0


def gather(domain: str, number: int, shards: Sequence[Shard], limit: int) -> HeldOut:
    """The first documents of each shard, up to `limit` tokens of each; at least one document."""
    ids, starts, n_bytes, length = [], [], 0, 0
    for shard in shards:
        n = max(1, int(np.searchsorted(shard.starts, limit, side="right")) - 1)
        ids.append(shard.ids[: shard.starts[n]].astype(np.int64))
        starts.append(shard.starts[:n] + length)
        n_bytes += int(shard.bytes[:n].sum())
        length += int(shard.starts[n])
    return HeldOut(domain, number, np.concatenate(ids), np.concatenate(starts), n_bytes)


@torch.no_grad()
def bits_per_byte(
    model: Trainable, text: HeldOut, config: TrainingConfig, vocabulary: Vocabulary, device: torch.device
) -> Score:
    """Score one domain.

    Args:
        model: in evaluation mode.
        text: the documents.
        config: length of the windows, precision.
        vocabulary: which token separates documents.
        device: where the model lies.
    """
    nats, n_tokens = 0.0, 0
    for tokens_BT, targets_BT, document_BT in _windows(text, config, vocabulary.separator):
        count = int((targets_BT != IGNORED).sum())
        if not count:
            continue
        tensors = [torch.from_numpy(a).to(device) for a in (tokens_BT, targets_BT, document_BT)]
        documents = tensors[2] if config.document_mask else None
        with autocast(device, config.precision, pure=config.pure):
            domain_BT = torch.full_like(tensors[0], text.number)
            output = model(tensors[0], targets_BT=tensors[1], document_BT=documents, domain_BT=domain_BT)
        nats += float(output.cross_entropy) * count
        n_tokens += count
    bits = nats / math.log(2)
    return Score(text.domain, bits / max(1, text.n_bytes), nats / max(1, n_tokens), text.n_bytes, n_tokens)


def _windows(text: HeldOut, config: TrainingConfig, separator: int) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Tokens, targets and documents of a few windows at a time; what is not text is not a target."""
    length = config.sequence_length
    n_rows = math.ceil(len(text.ids) / length)
    padded = np.full(n_rows * length + 1, separator, dtype=np.int64)
    padded[: len(text.ids)] = text.ids
    targets = np.where(padded[1:] == separator, IGNORED, padded[1:])
    document = np.searchsorted(text.starts, np.arange(n_rows * length), side="right")
    rows = [array.reshape(n_rows, length) for array in (padded[:-1], targets, document)]
    rows[2] = rows[2] - rows[2][:, :1]
    at_once = max(1, config.batch_sequences // config.accumulation)
    for first in range(0, n_rows, at_once):
        yield tuple(array[first : first + at_once] for array in rows)


@torch.no_grad()
def arithmetic_accuracy(
    model: Trainable, config: TrainingConfig, vocabulary: Vocabulary, device: torch.device, number: int | None = None
) -> dict[str, float]:
    """Share of sums whose answer, ended as it should be, is what greedy decoding writes; by language and `all`.

    A sum that does not fit into the context is left out. `number` is that of the domain, for models whose routing asks
    for one; by default that of the arithmetic source.
    """
    if number is None:
        number = next((domain_number(config, s.domain) for s in config.sources if s.kind == "arithmetic"), 0)
    asked = questions(config.seed, config.evaluation.arithmetic)
    right: dict[str, list[bool]] = {}
    at_once = max(1, config.batch_sequences // config.accumulation)
    asked_ids = [(question.language, *_ids(question, vocabulary)) for question in asked]
    fitting = [row for row in asked_ids if len(row[1]) <= config.sequence_length]
    for first in range(0, len(fitting), at_once):
        part = fitting[first : first + at_once]
        tokens_BT = np.full((len(part), max(len(ids) for _, ids, _ in part)), vocabulary.separator, dtype=np.int64)
        for row, (_, ids, _) in enumerate(part):
            tokens_BT[row, : len(ids)] = ids
        with autocast(device, config.precision, pure=config.pure):
            tokens = torch.from_numpy(tokens_BT).to(device)
            output = model(tokens, domain_BT=torch.full_like(tokens, number), return_logits=True)
        best_BT = output.logits.argmax(-1).cpu().numpy()
        for row, (language, ids, begin) in enumerate(part):
            # Each answer token is the best guess after the right ones before it: what greedy decoding would write.
            correct = best_BT[row, begin - 1 : len(ids) - 1] == tokens_BT[row, begin : len(ids)]
            right.setdefault(language, []).append(bool(correct.all()))
    every = [answer for answers in right.values() for answer in answers]
    return {name: sum(r) / len(r) for name, r in {**right, "all": every}.items() if r}


def _ids(question: Question, vocabulary: Vocabulary) -> tuple[list[int], int]:
    """Ids of separator, question and answer, and the place of the first token that holds a part of the answer."""
    text = question.prompt + question.answer + question.end
    encoding = vocabulary.tokenizer.encode(text, add_special_tokens=False)
    begin = next(i for i, (_, end) in enumerate(encoding.offsets) if end > len(question.prompt))
    return [vocabulary.separator, *encoding.ids], begin + 1
