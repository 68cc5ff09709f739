"""The experts of a symbolic checkpoint as lists, taken out of it and put back in another number.

Shapes  N = experts before, M = experts after, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Experts
from pedigree.surgery.nodes import Fill, Node, Statistic, Work
from pedigree.surgery.operator import Step
from pedigree.surgery.retarget import become
from pedigree.surgery.selection import Index, Selection, numbers
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.weights.roles import BIAS, MTP

MATRICES = ("gate", "up", "down")
ROUTER = ("moe.router", "moe.router.bias", "moe.router.scale")
TABLE = "moe.router.table"

ExpertNodes = dict[str, Node]
"""One expert: its nodes by part, "gate", "up", "down" and their biases ("up.bias")."""


def axis_of(part: str) -> int:
    """The axis of a part along which its units lie; that of the bias of `down` has none of them (-1)."""
    return {"down": 1, "down" + BIAS: -1}.get(part, 0)


def mixture_of(model: ModelConfig, symbolic: Symbolic, step: Step) -> Experts:
    """The experts of a model.

    Raises:
        UsageError: it has none, or also in layers of multi-token prediction, which the config counts alike.
    """
    if model.experts is None:
        raise step.refuse("this model has no experts", got=symbolic.config.kind, expected="a mixture of experts")
    if any(role.startswith(MTP + "moe.") for role, _, _ in symbolic.parts):
        raise step.refuse("the layers of multi-token prediction have experts too, and keep theirs",
                          got=symbolic.anatomy.architecture, expected="a model without such layers")  # fmt: skip
    return model.experts


def sparse_layers(model: ModelConfig) -> list[int]:
    """Layers that have experts."""
    return [layer for layer in range(model.n_layers) if model.is_sparse(layer)]


def experts_in(symbolic: Symbolic, layer: int, count: int) -> list[ExpertNodes]:
    """The experts of a layer, in order."""
    names = [name for part in MATRICES for name in (part, part + BIAS)]
    return [
        {name: node for name in names if (node := symbolic.part(f"moe.expert.{name}", layer, number)) is not None}
        for number in range(count)
    ]


def put_experts(symbolic: Symbolic, layer: int, experts: Sequence[ExpertNodes], before: int) -> None:
    """Other experts in the place of those that were there, fewer or as many."""
    for number in range(before):
        for name in [part + twin for part in MATRICES for twin in ("", BIAS)]:
            symbolic.parts.pop((f"moe.expert.{name}", layer, number), None)
    for number, nodes in enumerate(experts):
        for name, node in nodes.items():
            symbolic.parts[f"moe.expert.{name}", layer, number] = node


def settle(symbolic: Symbolic, model: ModelConfig, experts: Experts, step: Step) -> None:
    """Config, names and packed tensors for another number of experts."""
    count = experts.n_experts
    for place, stored in enumerate(symbolic.stored):
        kept = [n for n, (role, _, expert) in enumerate(stored.keys) if not _is_beyond(role, expert, count)]
        if kept and len(kept) < len(stored.keys):
            symbolic.stored[place] = replace(
                stored, keys=tuple(stored.keys[n] for n in kept), rows=tuple(stored.rows[n] for n in kept),
                leaves=tuple(Fill(stored.leaves[n].shape) for n in kept),
            )  # fmt: skip
    become(symbolic, model.replace(experts=experts), step)


def _is_beyond(role: str, expert: int | None, count: int) -> bool:
    return role.startswith("moe.expert.") and expert is not None and expert >= count


@dataclass(frozen=True, eq=False)
class Renumbered(Node):
    """A table of experts with new numbers: the expert `old` of a token becomes `number_of[old]`.

    Where that is negative the expert is gone, and its tokens are spread over those that stay, token by token. A
    statistic gives the old numbers of those that stay, in order.
    """

    node: Node
    count: int
    number_of: Index | Statistic
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.node.shape)
        object.__setattr__(self, "dtype", self.node.dtype)

    def children(self) -> Sequence[Node]:
        """The old table."""
        return (self.node,)

    def statistics(self) -> Sequence[Statistic]:
        """The choice, where it has to be made first."""
        return (self.number_of,) if isinstance(self.number_of, Statistic) else ()

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> object:  # type: ignore[override]
        """The new numbers of some tokens, int64 [R]."""
        import torch

        old_R = self.node.tile(rows, cols, work)
        known = self.number_of
        if isinstance(known, Statistic):
            kept = torch.as_tensor(work.values[known])
            number_of_N = torch.full((int(max(int(kept.max()), int(old_R.max()))) + 1,), -1, dtype=torch.int64)
            number_of_N[kept] = torch.arange(len(kept))
        else:
            number_of_N = torch.from_numpy(known)
        new_R = number_of_N[old_R]
        spread_R = torch.from_numpy(numbers(rows)) % self.count
        return torch.where(new_R < 0, spread_R, new_R)


def router_keys(symbolic: Symbolic, layer: int) -> list[Key]:
    """Everything of a router that has one row or number for each expert."""
    return [(role, layer, None) for role in ROUTER if (role, layer, None) in symbolic.parts]
