"""Random numbers that belong to a place: one per element of a tensor, whoever asks, in whatever order and piece.

Law     `uniform(key, a, b)` is a slice of `uniform(key, 0, n)`: a draw depends on the key and the flat index only.
Method  Philox 4x64-10, a counter-based generator: 128 bits of key from the seed and the names, the counter is the
        position. Each 64-bit word gives two numbers of 32 bits, so element i is half i % 2 of word i // 2.
Source  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); numpy.random.Philox.

Shapes  N = elements asked for
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_WORDS_IN_BLOCK = 4
_RESOLUTION = 2.0**-32


def draw_key(seed: int, *names: str) -> int:
    """128 bits from a seed and names, e.g. operator, tensor, input: equal for equal arguments, on every machine."""
    text = "\0".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:16], "little")


def uniform(key: int, start: int, stop: int) -> torch.Tensor:
    """Uniform numbers of elements `start` to `stop` (exclusive), float64 [N] in [0, 1), in steps of 2^-32."""
    import torch

    first_word, last_word = start // 2, -(-stop // 2)
    block, skipped = divmod(first_word, _WORDS_IN_BLOCK)
    generator = np.random.Philox(key=np.array([key & (2**64 - 1), key >> 64], np.uint64))
    generator.advance(block)
    words = generator.random_raw(skipped + last_word - first_word)[skipped:]
    halves_N = words.astype("<u8", copy=False).view("<u4")[start % 2 :][: stop - start]
    return torch.from_numpy(halves_N.astype(np.float64)).mul_(_RESOLUTION)
