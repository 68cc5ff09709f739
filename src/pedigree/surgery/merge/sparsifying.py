"""Which entries of a task vector are kept, and what they are multiplied by: trimming and dropping.

Largest     the density x n largest magnitudes of the tensor (TIES).
Band        the same number, after the `gamma` x n largest were taken away (breadcrumbs).
Random      each entry with probability density (DARE).
ByRank      each entry with a probability that rises with its rank in its row, density - epsilon to density + epsilon
            (DELLA).

Law     density 1 keeps every bit, density 0 keeps nothing. What is drawn depends on key and place alone. Rescaled by
        "inverse", a dropped vector has the expectation of the whole one, entry by entry.
Rescale "none"; "inverse": by one over the probability an entry was kept with, as DARE and DELLA state it; "l1": to the
        L1 norm of the whole, as mergekit does (one more look).
Source  TIES (arXiv 2306.01708), breadcrumbs (2312.06795), DARE (2311.03099), DELLA (2406.11617).

Shapes  R = rows of a tile, C = columns
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pedigree.errors import InternalError, UsageError
from pedigree.surgery.merge.draws import uniform
from pedigree.surgery.merge.tensor_merge import exact_sum
from pedigree.surgery.merge.threshold import EVERYTHING, NOTHING, Histogram, LargestMagnitudes, Threshold

if TYPE_CHECKING:
    import torch

Rescale = Literal["none", "inverse", "l1"]


class Sparsifier(ABC):
    """Keeps some entries of one task vector; make a new one for every tensor and input.

    Args:
        density: share of entries that is kept.
        key: of the draws, see `draw_key`.
        rescale: see above.
    """

    def __init__(self, density: float, key: int, rescale: Rescale = "none") -> None:
        if not 0 <= density <= 1:
            raise UsageError("a density is a share", got=density, expected="0 to 1")
        self.density, self.key, self.rescale = density, key, rescale
        self._stretch: float | None = None if rescale == "l1" and density < 1 else 1.0
        self._seen: list[Any] = []
        self.looks = 0 if self._stretch is not None else 1
        """How often the tensor is read before entries can be kept."""

    def wants_look(self) -> bool:
        """Whether a look is due."""
        return self._searches() or self._stretch is None

    def look(self, delta_RC: torch.Tensor, start: int) -> Any:
        """Statistics of a tile whose first element has the flat index `start`."""
        if self._searches():
            return self._bins(delta_RC)
        kept_RC = delta_RC * self.factors(delta_RC, start)
        return delta_RC.double().abs().sum(1), kept_RC.double().abs().sum(1)

    def absorb(self, seen: Any) -> None:
        """Take in what was seen of the next tile: histograms are added, sums of rows are kept."""
        if self._searches() and self._seen:
            self._seen = [[a + b for a, b in zip(self._seen[0], seen, strict=True)]]
        else:
            self._seen.append(seen)

    def learn(self) -> None:
        """End a look."""
        seen, self._seen = self._seen, []
        if self._searches():
            self._find(seen[0])
            return
        before, after = (exact_sum(parts) for parts in zip(*seen, strict=True))
        self._stretch = before / after if after > 0 else 1.0

    def keep(self, delta_RC: torch.Tensor, start: int) -> torch.Tensor:
        """The entries that are kept, rescaled; zero elsewhere."""
        if self.density >= 1:
            return delta_RC
        kept_RC = delta_RC * self.factors(delta_RC, start)
        return kept_RC if self._stretch in (None, 1.0) else kept_RC * self._stretch

    @abstractmethod
    def factors(self, delta_RC: torch.Tensor, start: int) -> torch.Tensor:
        """What each entry is multiplied by, 0 where it is dropped; before the L1 norm is restored."""

    def _searches(self) -> bool:
        return False

    def _bins(self, delta_RC: torch.Tensor) -> list[Histogram]:
        raise InternalError("this sparsifier has no thresholds")

    def _find(self, total: Sequence[Histogram]) -> None:
        raise InternalError("this sparsifier has no thresholds")

    def _draws(self, delta_RC: torch.Tensor, start: int) -> torch.Tensor:
        return uniform(self.key, start, start + delta_RC.numel()).reshape(delta_RC.shape)


class Band(Sparsifier):
    """Magnitudes between two ranks: without outliers (`gamma` > 0), or simply the largest (`gamma` = 0).

    Args:
        n: elements of the tensor.
        gamma: share of the largest that is taken away first, less where density needs them.
    """

    def __init__(self, density: float, n: int, key: int, rescale: Rescale = "none", *, gamma: float = 0.0) -> None:
        super().__init__(density, key, rescale)
        kept = max(1, int(density * n)) if density > 0 else 0
        outliers = min(int(gamma * n), n - kept)
        self._lower = self._upper = NOTHING
        self._searchers: dict[str, LargestMagnitudes] = {}
        if density >= 1:
            self._lower = EVERYTHING
        elif kept:
            self._searchers["lower"] = LargestMagnitudes(kept + outliers)
            if outliers:
                self._searchers["upper"] = LargestMagnitudes(outliers)
            self.looks += LargestMagnitudes.looks

    def keep(self, delta_RC: torch.Tensor, start: int) -> torch.Tensor:
        """The entries that are kept; where nothing ties and nothing is stretched it takes one pass."""
        whole = self._lower.tie_share >= 1 and self._upper is NOTHING and self._stretch == 1.0
        if not whole or self.density >= 1:
            return super().keep(delta_RC, start)
        return delta_RC.masked_fill(delta_RC.abs() < self._lower.value, 0.0)

    def factors(self, delta_RC: torch.Tensor, start: int) -> torch.Tensor:
        """One or zero."""
        size_RC = delta_RC.abs()
        draws_RC = self._draws(delta_RC, start) if 0 < self._lower.tie_share < 1 or self._upper.equal else None
        inside_RC = _among_largest(size_RC, self._lower, draws_RC)
        if self._upper is not NOTHING:
            inside_RC = inside_RC & ~_among_largest(size_RC, self._upper, draws_RC)
        return inside_RC.to(delta_RC.dtype)

    def _searches(self) -> bool:
        return any(searcher.found is None for searcher in self._searchers.values())

    def _bins(self, delta_RC: torch.Tensor) -> list[Histogram]:
        return [searcher.bins(delta_RC) for searcher in self._searchers.values()]

    def _find(self, total: Sequence[Histogram]) -> None:
        for searcher, total_B in zip(self._searchers.values(), total, strict=True):
            searcher.learn(total_B)
        found = {name: searcher.found for name, searcher in self._searchers.items()}
        self._lower = found["lower"] or NOTHING
        self._upper = found.get("upper") or NOTHING


class Random(Sparsifier):
    """Every entry is kept with the same probability."""

    def factors(self, delta_RC: torch.Tensor, start: int) -> torch.Tensor:
        """Zero, or one (over the density)."""
        kept_RC = (self._draws(delta_RC, start) < self.density).to(delta_RC.dtype)
        return kept_RC / self.density if self.rescale == "inverse" and self.density > 0 else kept_RC


class ByRank(Sparsifier):
    """Larger entries of a row are kept more often; the probability is linear in the rank.

    Args:
        epsilon: half the spread of the probabilities.

    Raises:
        UsageError: density - epsilon or density + epsilon is no probability.
    """

    def __init__(self, density: float, key: int, rescale: Rescale = "none", *, epsilon: float = 0.15) -> None:
        super().__init__(density, key, rescale)
        self.epsilon = epsilon
        if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            raise UsageError(
                "density and epsilon do not make probabilities",
                got=f"{density} +- {epsilon}",
                expected="both ends inside 0 to 1",
                fix=f"epsilon below {min(density, 1 - density):.3g}",
            )

    def factors(self, delta_RC: torch.Tensor, start: int) -> torch.Tensor:
        """Zero, or one (over the probability)."""
        import torch

        if self.density <= 0:
            return torch.zeros_like(delta_RC)
        order_RC = delta_RC.abs().argsort(dim=1, stable=True)
        n_columns = delta_RC.shape[1]
        ranks_C = torch.arange(n_columns, dtype=torch.float64)
        # A row of one entry has no ranks: it gets the middle, which is the density.
        share_C = ranks_C / (n_columns - 1) if n_columns > 1 else torch.full_like(ranks_C, 0.5)
        sorted_C = self.density - self.epsilon + 2 * self.epsilon * share_C
        chance_RC = torch.empty(delta_RC.shape, dtype=torch.float64)
        chance_RC.scatter_(1, order_RC, sorted_C.expand(delta_RC.shape[0], -1))
        kept_RC = (self._draws(delta_RC, start) < chance_RC).to(torch.float64)
        return (kept_RC / chance_RC if self.rescale == "inverse" else kept_RC).to(delta_RC.dtype)


def _among_largest(size_RC: torch.Tensor, threshold: Threshold, draws_RC: torch.Tensor | None) -> torch.Tensor:
    if threshold.tie_share >= 1 or draws_RC is None:
        return size_RC >= threshold.value
    tied_RC = (size_RC == threshold.value) & (draws_RC < threshold.tie_share)
    return (size_RC > threshold.value) | tied_RC
