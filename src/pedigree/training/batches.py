"""Batches: packed sequences with the number of the document and the domain of every token.

Laws
1. Window `n` of the data is a pure function of the corpora, the settings and `n`.
2. A rank takes whole sequences out of the window of all ranks, so the tokens of a step do not depend on their number.

Shapes  B = sequences in a step, T = tokens predicted in a sequence
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pedigree.errors import InputError
from pedigree.training.config import TrainingConfig
from pedigree.training.order import Order
from pedigree.training.shards import Corpus, Vocabulary, tokenize


@dataclass(frozen=True)
class Batch:
    """The sequences of one step, or a rank's part of them.

    Attributes:
        tokens_BT, targets_BT: ids and the ids that follow them.
        document_BT: number of the document of each token, counted within the sequence.
        domain_BT: number of the domain of each token.
        source_B, sequence_B: corpus and sequence that each row was cut from.
    """

    tokens_BT: NDArray[np.int64]
    targets_BT: NDArray[np.int64]
    document_BT: NDArray[np.int64]
    domain_BT: NDArray[np.int64]
    source_B: NDArray[np.int64]
    sequence_B: NDArray[np.int64]

    def part(self, index: int, of: int) -> Batch:
        """Part `index` of `of` equal parts, cut by rows."""
        n_rows = len(self.tokens_BT) // of
        return self._rows(slice(index * n_rows, (index + 1) * n_rows))

    def dealt(self, rank: int, ranks: int, parts: int) -> Batch:
        """What a rank gets: part p of it is its share of part p of all, so that a part holds the same rows on any mesh.

        Args:
            rank, ranks: place on the data axis, and its length.
            parts: in which each rank works off its rows.
        """
        rows = np.arange(len(self.tokens_BT)).reshape(parts, ranks, -1)[:, rank].ravel()
        return self if ranks == 1 else self._rows(rows)

    def _rows(self, rows: slice | NDArray[np.int64]) -> Batch:
        return Batch(
            self.tokens_BT[rows], self.targets_BT[rows], self.document_BT[rows], self.domain_BT[rows],
            self.source_B[rows], self.sequence_B[rows],
        )  # fmt: skip


class Batches:
    """The windows of data of one run, by number.

    Args:
        corpora: tokenized sources, in the order of the settings.
        config: the run.

    Raises:
        InputError: a corpus is shorter than one sequence.
    """

    def __init__(self, corpora: Sequence[Corpus], config: TrainingConfig) -> None:
        self.corpora, self.config = list(corpora), config
        length = config.sequence_length
        sizes = [corpus.n_sequences(length) for corpus in self.corpora]
        for corpus, size in zip(self.corpora, sizes, strict=True):
            if size < 1:
                raise InputError(
                    "this corpus is shorter than one sequence", where=corpus.source.path or corpus.source.kind,
                    got=f"{len(corpus.train.ids) - 1} tokens", expected=f"at least {length}",
                    fix="more text, or a smaller sequence_length",
                )  # fmt: skip
        self.order = Order(sizes, [corpus.source.weight for corpus in self.corpora], config.seed)
        self.domains = sorted({source.domain for source in config.sources})
        self._domain_of = [self.domains.index(corpus.source.domain) for corpus in self.corpora]

    def window(self, n: int) -> Batch:
        """All the sequences of data window `n`."""
        batch, length = self.config.batch_sequences, self.config.sequence_length
        source_B, sequence_B = self.order.draw(n * batch, batch)
        token_BU = np.empty((batch, length + 1), dtype=np.int64)
        document_BT = np.empty((batch, length), dtype=np.int64)
        for source in np.unique(source_B):
            shard, rows = self.corpora[source].train, np.flatnonzero(source_B == source)
            place_RU = sequence_B[rows, None] * length + np.arange(length + 1)
            token_BU[rows] = shard.ids[place_RU]
            found_RT = np.searchsorted(shard.starts, place_RU[:, :-1], side="right")
            document_BT[rows] = found_RT - found_RT[:, :1]
        domain_B = np.asarray(self._domain_of)[source_B]
        return Batch(
            tokens_BT=token_BU[:, :-1],
            targets_BT=token_BU[:, 1:],
            document_BT=document_BT,
            domain_BT=np.broadcast_to(domain_B[:, None], document_BT.shape),
            source_B=source_B,
            sequence_B=sequence_B,
        )

    def named(self, n: int) -> list[str]:
        """What data window `n` is cut from: each corpus with the number of its sequences, most first."""
        source_B, sequence_B = self.order.draw(n * self.config.batch_sequences, self.config.batch_sequences)
        lines = []
        for source, count in Counter(source_B.tolist()).most_common():
            here = self.corpora[source].source
            sequences = ", ".join(map(str, sorted(sequence_B[source_B == source].tolist())[:8]))
            lines.append(f"{here.path or here.kind} ({here.domain}): {count} sequences, numbers {sequences}")
        return lines


def open_batches(config: TrainingConfig, vocabulary: Vocabulary, cache: Path) -> Batches:
    """Tokenize all the corpora of a run, or find them in the cache.

    Raises:
        InputError: a corpus is missing, empty, damaged or shorter than one sequence.
    """
    return Batches([tokenize(source, vocabulary, cache) for source in config.sources], config)
