"""A model directory on text that it may never have seen: what `pedigree eval` measures.

    directory --import--> decoder   texts --its own tokenizer--> windows   --> bits per byte, sums that are right

Law  the same files and settings give the same numbers; nothing is written beside the model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.model.hf_checkpoint import import_checkpoint
from pedigree.records.evaluation import EvaluationText
from pedigree.records.training_run import DomainScore
from pedigree.training.config import EvaluationConfig, SourceConfig, TrainingConfig
from pedigree.training.device import find_device
from pedigree.training.evaluation import arithmetic_accuracy, bits_per_byte, gather
from pedigree.training.interface import Trainable
from pedigree.training.shards import Shard, Vocabulary, tokenize
from pedigree.training.sources import check_source

MAX_SEQUENCE = 1024  # tokens of a window, where the model allows more and nothing is said
BUILT_IN_SHARE = 0.02
"""Share of the documents of a built-in corpus that is read: those whose digest keeps them back in every run that keeps
back as much."""
BUILT_IN_DOCUMENTS = 400  # of which that share is read


@dataclass(frozen=True)
class Examination:
    """What to measure.

    Attributes:
        sources: corpora, one domain each or several of one domain.
        max_tokens: tokens of each domain that are read.
        arithmetic: sums that are asked; 0 asks none.
        sequence_length: tokens of a window; None takes what the model allows, up to `MAX_SEQUENCE`.
        seed: of the sums.
        domain: number of the domain of every token, for models whose routing asks for one.
    """

    sources: tuple[SourceConfig, ...]
    max_tokens: int = 20_000
    arithmetic: int = 0
    sequence_length: int | None = None
    seed: int = 0
    domain: int = 0


@dataclass(frozen=True)
class Examined:
    """What was read and what came out."""

    texts: list[EvaluationText]
    scores: list[DomainScore]
    arithmetic: dict[str, float]
    sequence_length: int


def examine(folder: Path, asked: Examination, device: str | None = None) -> Examined:
    """Measure one model.

    Args:
        folder: config.json, weights, tokenizer.json.
        asked: what to measure.
        device: where; by default an accelerator if there is one.

    Raises:
        MissingInput, MalformedFile: a file or a corpus is missing, malformed, or does not fit the model.
        UsageError: a model that is not built here, or windows longer than the model allows.
    """
    if not folder.is_dir():
        raise MissingInput(
            "no such directory", where=str(folder), got="a file" if folder.exists() else "nothing",
            expected="a model with config.json and tokenizer", fix="pedigree train leaves one: runs/FAMILY/STEP/model",
        )  # fmt: skip
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        raise MissingInput(
            "this is the folder of a run, not of a model", where=str(folder), expected="a model with config.json",
            fix=f"did you mean {folder / 'model'}?",
        )  # fmt: skip
    for source in asked.sources:
        check_source(source)
    vocabulary = Vocabulary.load(folder)
    place = find_device(device)
    model = import_checkpoint(folder, device=place, dtype=torch.float32 if place.type == "cpu" else None)
    if vocabulary.size > model.config.vocab_size:
        raise MalformedFile(
            "the tokenizer has tokens that the model does not know", where=str(folder),
            got=f"{vocabulary.size:,} tokens", expected=f"at most {model.config.vocab_size:,}",
            fix="the tokenizer that this model was trained with",
        )  # fmt: skip
    longest = model.config.n_positions
    length = asked.sequence_length or min(MAX_SEQUENCE, longest)
    if length > longest:
        raise UsageError(
            "the model has fewer positions", where="--sequence", got=length, expected=f"at most {longest}",
            fix=f"--sequence {longest}",
        )  # fmt: skip
    config = TrainingConfig(
        sources=asked.sources or (SourceConfig(kind="arithmetic"),), sequence_length=length, batch_sequences=8,
        tokens=1, seed=asked.seed,
        evaluation=EvaluationConfig(arithmetic=asked.arithmetic, max_tokens=asked.max_tokens),
    )  # fmt: skip
    trainable = cast(Trainable, model)
    texts: list[EvaluationText] = []
    domains: dict[str, list[Shard]] = {}
    with tempfile.TemporaryDirectory(prefix="pedigree-eval-") as cache:
        for source in asked.sources:
            corpus = tokenize(source, vocabulary, Path(cache))
            shard = corpus.held_out if source.held_out else corpus.train
            if not shard.n_documents:
                raise MissingInput("this corpus holds no document to read", where=source.path or source.kind)
            location = source.path or None
            texts.append(
                EvaluationText(domain=source.domain, kind=source.kind, location=location, digest=corpus.digest)
            )
            domains.setdefault(source.domain, []).append(shard)
        scores = [_score(trainable, name, domains[name], asked, config, vocabulary, place) for name in sorted(domains)]
    sums = arithmetic_accuracy(trainable, config, vocabulary, place, number=asked.domain) if asked.arithmetic else {}
    return Examined(texts, scores, sums, length)


def _score(
    model: Trainable,
    domain: str,
    shards: Sequence[Shard],
    asked: Examination,
    config: TrainingConfig,
    vocabulary: Vocabulary,
    device: torch.device,
) -> DomainScore:
    text = gather(domain, asked.domain, shards, asked.max_tokens // len(shards))
    score = bits_per_byte(model, text, config, vocabulary, device)
    return DomainScore(
        domain=score.domain, bits_per_byte=score.bits_per_byte, nats_per_token=score.nats_per_token,
        n_bytes=score.n_bytes, n_tokens=score.n_tokens,
    )  # fmt: skip
