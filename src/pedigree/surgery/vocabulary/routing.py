"""Tables that send each token to an expert, after a change of the vocabulary.

Law     a token that keeps its row keeps its expert; every other one gets one at random.

Shapes  V = rows before, W = rows after, E = experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pedigree.surgery.nodes import Node, Work
from pedigree.surgery.operator import Step
from pedigree.surgery.randomness import Stream
from pedigree.surgery.selection import Index, Selection, numbers
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.vocabulary.token_map import NO_ROW

TABLE = "moe.router.table"


@dataclass(frozen=True, eq=False)
class Rerouted(Node):
    """Experts of the tokens of another vocabulary, int64 [W]."""

    node: Node
    old_of_W: Index
    experts: int
    stream: Stream
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (len(self.old_of_W),))
        object.__setattr__(self, "dtype", self.node.dtype)

    def children(self) -> Sequence[Node]:
        """The table of the old vocabulary."""
        return (self.node,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> object:  # type: ignore[override]
        """Experts of some tokens, int64 [R]."""
        import torch

        old_R = torch.from_numpy(self.old_of_W[numbers(rows)])
        known_V = self.node.all(work)
        drawn_R = (self.stream.uniform(rows, slice(0, 1))[:, 0].double() * self.experts).to(torch.int64)
        return torch.where(old_R == NO_ROW, drawn_R, known_V[old_R.clamp(min=0)])


def reroute(symbolic: Symbolic, old_of_W: Index, n_rows: int, step: Step) -> None:
    """Give the tables of random routers the rows of a new vocabulary.

    Args:
        symbolic: changed in place.
        old_of_W: for each new token the old row it takes, NO_ROW without.
        n_rows: rows of the new tables; those behind the tokens count as new ones.
        step: names the random numbers.
    """
    padded_W = np.concatenate([old_of_W, np.full(n_rows - len(old_of_W), NO_ROW, dtype=np.int64)]).astype(np.int64)
    for key in list(symbolic.keys(TABLE)):
        experts = 1 + max(expert for role, layer, expert in symbolic.parts
                          if role == "moe.expert.down" and layer == key[1] and expert is not None)  # fmt: skip
        stream = Stream(step.seed, step.stream(key), 1)
        symbolic.parts[key] = Rerouted(symbolic.parts[key], padded_W, experts, stream)
