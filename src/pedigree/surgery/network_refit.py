"""What a network writes, fitted to what another one wrote: ridge regression of the down matrix on the states of a text.

    down' = argmin |H down^T - Y|^2 + strength m |down - down0|^2        m = mean square length of the columns of H

H are the inner units of the new network on the inputs of the old one, Y the outputs of the old one, down0 what stands
there already: a network that gives Y already stays as it is. Where there is a bias behind it both sides are centered,
and the bias takes the difference of the means.

Shapes  N = places, F = inner units, d = residual width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pedigree.surgery.nodes import Node, Statistic, Turn, Work
from pedigree.surgery.selection import Selection, everything, take
from pedigree.weights.roles import BIAS

if TYPE_CHECKING:
    import torch


class Refit(Statistic):
    """The fitted down matrix [d, F] and the bias [d] behind it (None without).

    Args:
        network: nodes by part, "up", "down", and "gate" and biases where there are some.
        x_Nd, y_Nd: what the old network got and gave.
        kind: of the activation, "swiglu" or "gelu".
        strength: of the ridge, relative.
    """

    def __init__(
        self, network: dict[str, Node], x_Nd: torch.Tensor, y_Nd: torch.Tensor, kind: str, strength: float
    ) -> None:  # fmt: skip
        self.name = f"refit {kind} {strength!r}"
        self._x_Nd, self._y_Nd, self._kind, self._strength = x_Nd, y_Nd, kind, strength
        self._parts = [part for part in ("up", "gate", "up" + BIAS, "gate" + BIAS) if part in network]
        self._nodes = [network[part] for part in self._parts] + [Turn(network["down"])]
        self._has_bias = "down" + BIAS in network
        self.before = self.after = 0.0

    def inputs(self) -> Sequence[Node]:
        """What reads, and what writes, unit by unit."""
        return self._nodes

    def held_bytes(self) -> int:
        """Values of all units on all places, and their products."""
        units, places = self._nodes[0].shape[0], self._x_Nd.shape[0]
        return units * (places * 20 + units * 16)

    def start(self) -> Any:
        """No units yet."""
        return ([], [])

    def add(self, state: Any, tiles: Sequence[torch.Tensor], rows: slice, work: Work) -> Any:
        """Some units more: their values on all places, and their down columns."""
        from pedigree.model.feed_forward import activate

        given = {part: tile.float() for part, tile in zip(self._parts, tiles[:-1], strict=True)}

        def entered(part: str) -> torch.Tensor:
            value_NF = self._x_Nd @ given[part].T
            return value_NF + given[part + BIAS] if part + BIAS in given else value_NF

        if "gate" in given:
            inner_NF = activate(self._kind, entered("gate")) * entered("up")
        else:
            inner_NF = activate(self._kind, entered("up"))
        state[0].append(inner_NF)
        state[1].append(tiles[-1].float().clone())
        return state

    def finish(self, state: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Solve, in float64."""
        import torch

        inner_NF, down_Fd = torch.cat(state[0], dim=1).double(), torch.cat(state[1]).double()
        y_Nd = self._y_Nd.double()
        mean_F = inner_NF.mean(dim=0) if self._has_bias else torch.zeros(inner_NF.shape[1], dtype=torch.float64)
        mean_d = y_Nd.mean(dim=0) if self._has_bias else torch.zeros(y_Nd.shape[1], dtype=torch.float64)
        inner_NF, y_Nd = inner_NF - mean_F, y_Nd - mean_d
        rest_Nd = y_Nd - inner_NF @ down_Fd
        gram_FF = inner_NF.T @ inner_NF
        ridge = self._strength * float(gram_FF.diagonal().mean())
        gram_FF.diagonal().add_(max(ridge, 1e-30))
        fitted_Fd = down_Fd + torch.linalg.solve(gram_FF, inner_NF.T @ rest_Nd)
        size = float(y_Nd.norm()) or 1.0
        self.before, self.after = float(rest_Nd.norm()) / size, float((y_Nd - inner_NF @ fitted_Fd).norm()) / size
        bias_d = (mean_d - mean_F @ fitted_Fd).float() if self._has_bias else None
        return fitted_Fd.T.float().contiguous(), bias_d

    def told(self) -> Sequence[str]:
        """How far the output is from that of the old network, before and after."""
        return [f"refit: the output misses {self.before:.1%} of that of the experts before, {self.after:.1%} after"]


@dataclass(frozen=True, eq=False)
class Fitted(Node):
    """The matrix (place 0) or the bias (place 1) that a refit gives."""

    refit: Refit
    place: int
    shape: tuple[int, ...]
    dtype: str = field(default="F32", init=False)

    def statistics(self) -> Sequence[Statistic]:
        """The refit."""
        return (self.refit,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """A part of it."""
        whole: torch.Tensor = work.values[self.refit][self.place]
        chosen = take(whole, 0, rows)
        return chosen if len(self.shape) == 1 else take(chosen, 1, everything(self.shape[1]) if cols is None else cols)
