"""The order of the data: which sequence of which corpus stands at place n, as a pure function of the seed and n.

No shuffle is stored. A corpus of N sequences is permuted by a Feistel network over the smallest even number of bits
that holds N, walked until it falls below N; each epoch has its own key. Corpora are mixed by a pattern of `PERIOD`
places in which each has its share, permuted anew in every period. So place n can be asked for at once: resuming,
reading with more workers and training on more ranks give the same tokens in the same order.

Laws
1. A corpus of N sequences is read in epochs: its first N draws are all of them, once each, and so on.
2. Over `PERIOD` places every corpus has its share, rounded to one place, and at least one place.

Source  cycle walking: Black and Rogaway 2002, "Ciphers with arbitrary finite domains"; mixing: splitmix64.
Shapes  N = places asked for
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERIOD = 4096
_ROUNDS = 6
_U64 = np.uint64


def mix(*numbers: int) -> int:
    """One 64-bit number from several, well scattered (splitmix64 over each in turn)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = int(_scatter(np.array([(state ^ number) & 0xFFFFFFFFFFFFFFFF], dtype=_U64))[0])
    return state


def permute(place_N: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Where a keyed permutation of 0..size-1 sends each place.

    Args:
        place_N: places, each in 0..size-1.
        size: length of the permutation.
        key: which permutation.
    """
    half = _U64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = _U64((1 << int(half)) - 1)
    keys = [_U64(mix(key, round_)) for round_ in range(_ROUNDS)]
    value_N = place_N.astype(_U64)
    todo_N = np.ones(len(value_N), dtype=bool)
    while todo_N.any():
        left, right = value_N[todo_N] >> half, value_N[todo_N] & mask
        for key_ in keys:
            left, right = right, left ^ (_scatter(right ^ key_) & mask)
        value_N[todo_N] = (left << half) | right
        todo_N = value_N >= size
    return value_N.astype(np.int64)


def _scatter(value_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer."""
    with np.errstate(over="ignore"):
        value_N = value_N + _U64(0x9E3779B97F4A7C15)
        value_N = (value_N ^ (value_N >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        value_N = (value_N ^ (value_N >> _U64(27))) * _U64(0x94D049BB133111EB)
    return value_N ^ (value_N >> _U64(31))


class Order:
    """The order in which the sequences of several corpora are read.

    Args:
        sizes: sequences of each corpus, at least one each.
        weights: share of each corpus, relative to the others.
        seed: which order.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.seed = seed
        self.shares = shares(weights)
        self._patterns: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def draw(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Corpus and sequence at the places first..first+count-1."""
        place_N = np.arange(first, first + count, dtype=np.int64)
        period_N, within_N = place_N // PERIOD, place_N % PERIOD
        source_N, count_N = np.empty_like(place_N), np.empty_like(place_N)
        for period in np.unique(period_N):
            here_N = period_N == period
            source_P, rank_P = self._pattern(int(period))
            source_N[here_N] = source_P[within_N[here_N]]
            count_N[here_N] = period * self.shares[source_N[here_N]] + rank_P[within_N[here_N]]
        epoch_N, sequence_N = count_N // self.sizes[source_N], count_N % self.sizes[source_N]
        for source, epoch in {(int(s), int(e)) for s, e in zip(source_N, epoch_N, strict=True)}:
            here_N = (source_N == source) & (epoch_N == epoch)
            size = int(self.sizes[source])
            sequence_N[here_N] = permute(sequence_N[here_N], size, mix(self.seed, 2, source, epoch))
        return source_N, sequence_N

    def _pattern(self, period: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Corpus at each place of a period, and how many places of the same corpus come before it there."""
        if period not in self._patterns:
            self._patterns = {key: self._patterns[key] for key in self._patterns if abs(key - period) < 2}
            places_P = permute(np.arange(PERIOD, dtype=np.int64), PERIOD, mix(self.seed, 1, period))
            source_P = np.repeat(np.arange(len(self.sizes)), self.shares)[places_P]
            rank_P = np.empty(PERIOD, dtype=np.int64)
            rank_P[np.argsort(source_P, kind="stable")] = np.concatenate([np.arange(share) for share in self.shares])
            self._patterns[period] = source_P, rank_P
        return self._patterns[period]

    def epochs(self, n_places: int) -> list[float]:
        """How often each corpus is read within `n_places` places."""
        return [float(n_places * share / PERIOD / size) for share, size in zip(self.shares, self.sizes, strict=True)]


def shares(weights: Sequence[float]) -> NDArray[np.int64]:
    """Places of each corpus in one period: largest remainders, at least one each, `PERIOD` in all."""
    weight_S = np.asarray(weights, dtype=np.float64)
    exact_S = weight_S / weight_S.sum() * PERIOD
    share_S: NDArray[np.int64] = np.maximum(1, np.floor(exact_S)).astype(np.int64)
    while share_S.sum() != PERIOD:
        step = 1 if share_S.sum() < PERIOD else -1
        lack_S = step * (exact_S - share_S)
        lack_S[share_S + step < 1] = -np.inf
        share_S[int(np.argmax(lack_S))] += step
    return share_S
