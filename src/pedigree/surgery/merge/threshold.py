"""The exact k-th largest magnitude of a tensor that is only ever seen in tiles: two histograms instead of a sort.

Law     With `Threshold` t, exactly `above` elements have |x| > t.value, and `equal` have |x| = t.value; k lies between.
Method  The bits of |x| as float32 sort as the numbers do. The first look counts the upper 16 bits (32,768 bins, which
        is the whole answer for bf16 numbers), the second the lower 16 bits inside the bin where rank k falls. Counts
        are integers: no order of tiles and no number of threads changes them. Memory: two arrays of 65,536 numbers.
Ties    Numbers of few bits tie in masses (a fine-tune moves bf16 weights by one or two steps), so who is kept among
        equals matters. The caller keeps `tie_share` of them by draw, never the first ones: a cut by position would
        take the changes of the last rows away.
Source  Radix selection (Knuth, TAOCP 3, 5.2.5 and 5.3.3), on floating-point keys.

Shapes  N = elements of a tile, B = bins
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pedigree.errors import InternalError

if TYPE_CHECKING:
    import torch

Histogram = npt.NDArray[np.int64]
_BINS = 1 << 16


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where the largest k magnitudes begin.

    Attributes:
        value: the k-th largest magnitude; infinity where k = 0, 0 where everything is kept.
        above: elements strictly larger.
        equal: elements of exactly that magnitude.
        tie_share: the share of the equal ones that makes k in all.
    """

    value: float
    above: int
    equal: int
    tie_share: float


EVERYTHING = Threshold(-1.0, 0, 0, 1.0)
NOTHING = Threshold(float("inf"), 0, 0, 0.0)


class LargestMagnitudes:
    """Finds the threshold of the k largest magnitudes in two looks; `bins` of a tile are added in any order.

    Args:
        k: how many are wanted, 1 to the number of elements.
    """

    looks = 2

    def __init__(self, k: int) -> None:
        self.k = k
        self._upper: int | None = None
        self._above = 0
        self.found: Threshold | None = None

    def bins(self, x_N: torch.Tensor) -> Histogram:
        """Counts of one tile, float32 of any shape, for the look that is due; int64 [B]."""
        import torch

        bits_N = _magnitude_bits(x_N)
        upper_N = bits_N >> 16
        if self._upper is None:
            return torch.bincount(upper_N, minlength=_BINS).numpy()
        inside_N = bits_N[upper_N == self._upper]
        return torch.bincount(inside_N & 0xFFFF, minlength=_BINS).numpy()

    def learn(self, total_B: Histogram) -> None:
        """End a look with the sum of all tiles' counts."""
        needed = self.k - self._above
        from_top_B = np.cumsum(total_B[::-1])
        place = int(np.searchsorted(from_top_B, needed))
        if place >= _BINS:
            raise InternalError("more magnitudes are wanted than a tensor has", got=self.k)
        chosen = _BINS - 1 - place
        self._above += int(from_top_B[place] - total_B[chosen])
        if self._upper is None:
            self._upper = chosen
            return
        value = np.array((self._upper << 16) | chosen, np.uint32).view(np.float32)
        equal = int(total_B[chosen])
        self.found = Threshold(float(value), self._above, equal, (self.k - self._above) / equal)


def _magnitude_bits(x_N: torch.Tensor) -> torch.Tensor:
    """The bits of |x|, int32 [N]: none of them is negative."""
    import torch

    return x_N.detach().to(torch.float32).reshape(-1).abs().view(torch.int32)
