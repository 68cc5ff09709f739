"""Source and result run layer by layer beside each other: where they part, and how far apart their logits end.

One layer of one model is in memory at a time, with the streams of both. As long as both streams stand in one basis,
every layer of the result is also run on the stream of the source: what it does wrong shows there and not further on.
Where the basis is another one (wider, permuted, rotated), the inner products of all places are compared instead, which
such a change keeps up to a factor.

A result with more layers has some that add nothing; which ones shows: their output is their input.

Shapes  N = places, d = width of the source, D = width of the result, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pedigree.records.surgery import LayerDrift, LogitDrift

if TYPE_CHECKING:
    from torch import Tensor

    from pedigree.model.context import Context
    from pedigree.surgery.streamed import StreamedModel

Progress = Callable[[str, float, str], None]
SAME_BASIS = 1e-4
LAYER_LIMIT = 1e-4
_TIMES_NOISE = 3.0
_PLACES = 256  # logits of so many are held at once


@dataclass
class Walk:
    """What was found: a drift for the embeddings (layer -1) and every layer, that of the logits, and the noise.

    `noise` is the drift of the source computed in bfloat16, where that was asked for.
    """

    layers: list[LayerDrift] = field(default_factory=list)
    drift: LogitDrift | None = None
    noise: LogitDrift | None = None


def walk(
    old: StreamedModel,
    new: StreamedModel,
    rounded: StreamedModel | None,
    tokens_BT: Tensor,
    progress: Progress | None = None,
) -> Walk:
    """Run both (and the source once more in bfloat16, as the yardstick of rounding) on the same tokens."""
    return _Side(old, new, rounded, tokens_BT, progress).walk()


class _Side:
    """The streams of the models, and how far they are."""

    def __init__(
        self, old: StreamedModel, new: StreamedModel, rounded: StreamedModel | None, tokens_BT: Tensor,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.old, self.new, self.rounded, self._progress = old, new, rounded, progress
        self.x_old, self.at_old = old.begin(tokens_BT)
        self.x_new, self.at_new = new.begin(tokens_BT)
        self.x_rounded: Tensor | None = None
        self.at_rounded: Context | None = None
        if rounded is not None:
            self.x_rounded, self.at_rounded = rounded.begin(tokens_BT)
        self.centered = old.config.norm.kind == "layer"
        self.by_quantile = old.config.experts is not None or new.config.experts is not None
        self.same = (
            self.x_old.shape == self.x_new.shape and self._places_apart(self.x_old, self.x_new) <= SAME_BASIS
        )  # fmt: skip
        self.found = Walk()

    def walk(self) -> Walk:
        """All layers, then the logits."""
        self._note(-1, None, self._apart(self.x_old, self.x_new), self._noise(self.x_old, self.x_rounded))
        n_old, n_new = self.old.config.n_layers, self.new.config.n_layers
        at, spare = 0, n_new - n_old
        ahead: tuple[Tensor, float] | None = None
        for layer in range(n_new):
            self._tell(layer, n_new)
            if ahead is None and at < n_old:
                ahead = self._ahead(at)
            block = self.new.layer(layer)
            here = self.new.through(layer, self.x_old, self.at_new, block) if self.same else None
            self.x_new = self.new.through(layer, self.x_new, self.at_new, block)
            del block
            shown = self.x_new if here is None else here
            stays = self._apart(self.x_old, shown) if spare > 0 else float("inf")
            moves = float("inf") if ahead is None else self._apart(ahead[0], shown)
            if ahead is None or stays <= moves:
                self._note(layer, None, self._apart(self.x_old, shown), 0.0)
                spare -= 1
                continue
            self._note(layer, at, moves, ahead[1])
            self.x_old, ahead, at = ahead[0], None, at + 1
        while at < n_old:  # layers that the result does not have
            self.x_old = self._ahead(at)[0]
            at += 1
        self.found.drift = _logits(self.old, self.x_old, self.new, self.x_new)
        if self.rounded is not None and self.x_rounded is not None:
            self.found.noise = _logits(self.old, self.x_old, self.rounded, self.x_rounded)
        return self.found

    def _ahead(self, layer: int) -> tuple[Tensor, float]:
        """The stream of the source behind a layer, and what computing it in bfloat16 costs there."""
        ahead = self.old.through(layer, self.x_old, self.at_old)
        noise = 0.0
        if self.rounded is not None and self.at_rounded is not None and self.x_rounded is not None:
            block = self.rounded.layer(layer)
            if self.same:
                rough = self.rounded.through(layer, self.x_old.to(self.x_rounded.dtype), self.at_rounded, block)
                noise = self._noise(ahead, rough)
            self.x_rounded = self.rounded.through(layer, self.x_rounded, self.at_rounded, block)
            noise = noise if self.same else self._noise(ahead, self.x_rounded)
        return ahead, noise

    def _noise(self, exact: Tensor, rough: Tensor | None) -> float:
        return 0.0 if rough is None else self._apart(exact, rough.to(exact.dtype))

    def _apart(self, a: Tensor, b: Tensor) -> float:
        """How far two streams are apart: by place in one basis, else by their inner products."""
        return self._places_apart(a, b) if a.shape == b.shape and self.same else self._products_apart(a, b)

    def _places_apart(self, a: Tensor, b: Tensor) -> float:
        """Largest relative difference of a place; of mixtures, whose ties may fall otherwise, that of nine in ten."""
        a_Nd, b_Nd = a.reshape(-1, a.shape[-1]).double(), b.reshape(-1, b.shape[-1]).double()
        apart_N = (a_Nd - b_Nd).norm(dim=1) / a_Nd.norm(dim=1).clamp(min=1e-12)
        return float(apart_N.quantile(0.9) if self.by_quantile else apart_N.max())

    def _products_apart(self, a: Tensor, b: Tensor) -> float:
        """Relative difference of the matrices of inner products, the best factor between them taken out."""
        gram_a, gram_b = (self._products(x) for x in (a, b))
        factor = (gram_a * gram_b).sum() / gram_b.square().sum().clamp(min=1e-30)
        return float((gram_a - factor * gram_b).norm() / gram_a.norm().clamp(min=1e-30))

    def _products(self, x: Tensor) -> Tensor:
        x_Nd = x.reshape(-1, x.shape[-1])[:2048].double()
        if self.centered:
            x_Nd = x_Nd - x_Nd.mean(dim=1, keepdim=True)
        return x_Nd @ x_Nd.T

    def _note(self, layer: int, source: int | None, error: float, noise: float) -> None:
        self.found.layers.append(
            LayerDrift(layer=layer, source=source, error=error, limit=max(LAYER_LIMIT, _TIMES_NOISE * noise),
                       same_inputs=self.same)
        )  # fmt: skip

    def _tell(self, layer: int, count: int) -> None:
        if self._progress is not None:
            self._progress("verifying", layer / (count + 1), f"layer {layer} of {count}")


def _logits(old: StreamedModel, x_old: Tensor, new: StreamedModel, x_new: Tensor) -> LogitDrift:
    """How far the logits of two streams are apart, some places at a time."""
    sums = DriftSums()
    a_Nd, b_Nd = x_old.reshape(-1, x_old.shape[-1]), x_new.reshape(-1, x_new.shape[-1])
    for start in range(0, a_Nd.shape[0], _PLACES):
        before, after = old.head(a_Nd[start : start + _PLACES]), new.head(b_Nd[start : start + _PLACES])
        shared = min(before.shape[1], after.shape[1])
        sums.add(before[:, :shared], after[:, :shared])
    return sums.drift()


class DriftSums:
    """Sums behind a `LogitDrift`, over any number of places."""

    def __init__(self) -> None:
        self._largest = self._squares = self._kl = self._total = self._total_squares = 0.0
        self._agree = self._places = self._numbers = 0

    def add(self, before_NV: Tensor, after_NV: Tensor) -> None:
        """Logits of some places more, float32 [N, V]."""
        import torch

        a, b = before_NV.double(), after_NV.double()
        # The same number added to every logit of a place changes nothing, and is not taken away: no operator adds one.
        apart = (b - a).abs()
        self._largest = max(self._largest, float(apart.max())) if bool(torch.isfinite(apart).all()) else float("nan")
        self._squares += float(apart.square().sum())
        p, q = torch.log_softmax(a, dim=-1), torch.log_softmax(b, dim=-1)
        self._kl += float((p.exp() * (p - q)).sum())
        self._agree += int((a.argmax(dim=-1) == b.argmax(dim=-1)).sum())
        self._total += float(a.sum())
        self._total_squares += float(a.square().sum())
        self._places += a.shape[0]
        self._numbers += a.numel()

    def drift(self) -> LogitDrift:
        """What it comes to."""
        n = max(1, self._numbers)
        mean = self._total / n
        spread = max(0.0, (self._total_squares - n * mean * mean) / max(1, n - 1)) ** 0.5
        places = max(1, self._places)
        return LogitDrift(
            largest=self._largest, rms=(self._squares / n) ** 0.5, old_spread=spread, kl=self._kl / places,
            top1_agreement=self._agree / places,
        )  # fmt: skip
