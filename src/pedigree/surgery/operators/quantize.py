"""Weights on the grid of few-bit integers, stored in the type they have: what a quantized copy would compute.

Law     every group of `group` neighbors of a row is rounded to nearest on a symmetric grid of 2^(bits-1) - 1 steps on
        either side of zero, the step being its largest magnitude over that; so no number moves by more than half a
        step, zero stays zero, and doing it twice changes nothing further (beyond the rounding of the stored type).
Source  round-to-nearest baselines of GPTQ (2210.17323), section 4.

Shapes  R = rows of a tile, C = columns, G = groups of a row
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Computed, Leaf, Node, Work, as_type
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.selection import Selection, everything, take
from pedigree.surgery.symbolic import Symbolic

if TYPE_CHECKING:
    import torch

_ROLES = ("attn.", "mlp.", "moe.expert.", "moe.shared.")
_SAMPLED_ROWS, _SAMPLED_MATRICES = 64, 8


class QuantizeParameters(Parameters):
    """How fine: bits of an integer, and how many neighbors share a step."""

    bits: Literal[3, 4, 5, 6, 8] = 8
    group: int = Field(default=128, ge=1)


@dataclass(frozen=True, eq=False)
class OnGrid(Computed):
    """A matrix rounded group by group."""

    bits: int
    group: int

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The rounded tile; rows are rounded whole, so that groups do not depend on tiles."""
        tile_RC = as_type(self.node.tile(rows, everything(self.shape[1]), work), self.dtype)
        rounded_RC = on_grid(tile_RC, self.bits, self.group)
        return rounded_RC if cols is None else take(rounded_RC, 1, cols)


def on_grid(x_RC: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Rows rounded group by group; the last group of a row may be shorter."""
    import torch

    steps = 2 ** (bits - 1) - 1
    n_columns = x_RC.shape[1]
    padded_RC = torch.nn.functional.pad(x_RC, (0, -n_columns % group))
    grouped_RGN = padded_RC.reshape(x_RC.shape[0], -1, group)
    step_RG1 = grouped_RGN.abs().amax(2, keepdim=True) / steps
    safe_RG1 = step_RG1.where(step_RG1 > 0, torch.ones_like(step_RG1))
    rounded_RC: torch.Tensor = ((grouped_RGN / safe_RG1).round() * step_RG1).reshape(padded_RC.shape)
    return rounded_RC[:, :n_columns]


def apply(symbolic: Symbolic, parameters: QuantizeParameters, step: Step) -> Exactness:
    """Round every matrix of the layers; embeddings, head, routers and norms stay."""
    errors: list[float] = []
    found = 0
    for key, node in list(symbolic.parts.items()):
        role = key[0].removeprefix("mtp.")
        if len(node.shape) != 2 or not role.startswith(_ROLES) or key[1] is None:
            continue
        rounded = OnGrid(node, parameters.bits, parameters.group)
        symbolic.parts[key] = rounded
        if len(errors) < _SAMPLED_MATRICES and isinstance(node, Leaf):
            errors.append(_error(node, rounded))
        found += 1
    if not found:
        raise step.refuse("no matrix has a role that is quantized", got=symbolic.anatomy.architecture)
    if errors:
        symbolic.notes.append(
            f"quantize: {parameters.bits} bits in groups of {parameters.group} move weights by "
            f"{sum(errors) / len(errors):.2%} of their length ({len(errors)} matrices, {_SAMPLED_ROWS} rows of each)"
        )
    return Exactness.FPE


def _error(node: Node, rounded: Node) -> float:
    """Relative length of what rounding moves, on some rows."""
    rows = slice(0, min(_SAMPLED_ROWS, node.shape[0]))
    before, after = (one.tile(rows, one.columns, Work()).double() for one in (node, rounded))
    length = float(before.norm())
    return float((after - before).norm()) / length if length else 0.0


QUANTIZE = Operator(
    name="quantize",
    summary="weights of the layers on a grid of few-bit integers, group by group, stored in the type they have",
    classes={"": Exactness.FPE},
    needs="",
    source="2210.17323",
    parameters=QuantizeParameters,
    apply=apply,
    verbs=("perturb",),
)
