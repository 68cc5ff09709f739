"""Random numbers that depend on where they stand and on nothing else.

The number at row r and column c of a tensor is a function of (seed, name, r, c): the order of tiles, their size, the
number of workers and an interruption change nothing. Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", SC 2011) is keyed by BLAKE3 of seed and name; its counter counts 64-bit words, row after row.

Normal numbers are read from a table of the 65,536 midpoint quantiles of N(0, 1), by 16 bits each. They are thereby the
same bits on every machine, which a logarithm and a cosine are not; |z| stays below 4.4, the variance is 1
within 1e-4.
Uniform numbers have 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pedigree.surgery.selection import Selection, length, numbers

if TYPE_CHECKING:
    import torch

_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Stream:
    """One endless table of random words, `columns` wide: what a tensor of that name gets from that seed."""

    seed: int
    name: str
    columns: int

    def normal(self, rows: Selection, cols: Selection) -> torch.Tensor:
        """Numbers from N(0, 1), float32 [R, C], of the rows and columns asked for."""
        import torch

        words = self._lanes(rows, cols, 4, "<u2")
        return torch.from_numpy(_normal_table()[words])

    def uniform(self, rows: Selection, cols: Selection) -> torch.Tensor:
        """Numbers from [0, 1), float32 [R, C]: 24 bits that float32 holds exactly."""
        import torch

        words = self._lanes(rows, cols, 2, "<u4")
        return torch.from_numpy((words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24))

    def _lanes(self, rows: Selection, cols: Selection, per_word: int, lane: str) -> NDArray[np.unsignedinteger]:
        """Lanes [R, C] of the words of these rows; each row begins at a word of its own."""
        row_words = -(-self.columns // per_word)
        whole = isinstance(cols, slice) and cols.start == 0 and cols.stop == self.columns
        if isinstance(rows, slice) and (whole or length(rows) <= 1):
            words = self._words(rows.start * row_words, length(rows) * row_words)
            return words.astype("<u8").view(lane).reshape(length(rows), row_words * per_word)[:, cols]
        picked = numbers(cols)
        first = int(picked.min()) // per_word if len(picked) else 0
        last = int(picked.max()) // per_word + 1 if len(picked) else 0
        result = np.empty((length(rows), len(picked)), dtype=lane)
        for place, row in enumerate(numbers(rows).tolist()):
            words = self._words(row * row_words + first, last - first)
            result[place] = words.astype("<u8").view(lane)[picked - first * per_word]
        return result

    def _words(self, start: int, count: int) -> NDArray[np.uint64]:
        generator = np.random.Philox(key=_key(self.seed, self.name), counter=start // 4)
        skipped = start % 4
        return np.asarray(generator.random_raw(skipped + count), dtype=np.uint64)[skipped:]


@lru_cache(maxsize=4096)
def _key(seed: int, name: str) -> int:
    from blake3 import blake3

    text = f"pedigree surgery {seed & _MASK_64}\0{name}"
    return int.from_bytes(blake3(text.encode("utf-8")).digest()[:16], "little")


@lru_cache(maxsize=1)
def _normal_table() -> NDArray[np.float32]:
    from scipy.special import ndtri

    table = ndtri((np.arange(65536, dtype=np.float64) + 0.5) / 65536).astype(np.float32)
    table.flags.writeable = False
    return np.asarray(table)


def permutation(seed: int, name: str, size: int) -> NDArray[np.int64]:
    """A random order of `size` things, int64 [size]."""
    # Sorted raw words, since numpy keeps those the same for ever and its permutations not.
    return np.argsort(np.random.Philox(key=_key(seed, name)).random_raw(size), kind="stable").astype(np.int64)


def choices(seed: int, name: str, size: int, count: int) -> NDArray[np.int64]:
    """`count` of `size` things, drawn evenly: whole rounds of all, then some at random; int64 [count]."""
    rounds, rest = divmod(count, size)
    return np.concatenate([*(np.arange(size) for _ in range(rounds)), permutation(seed, name, size)[:rest]]).astype(
        np.int64
    )
