"""An adapter merged into its base: only the matrices it touches are written.

Law     W + s B A in float32, rounded once; a module that is not in the base, or does not fit, is refused by name before
        anything is written. The part of each change that rounding to the stored type takes away is told.
Source  LoRA 2106.09685, rsLoRA 2312.03732, DoRA 2402.09353.

Shapes  R = rows of a tile, C = its columns, r = rank
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.errors import PedigreeError, ProblemsFound, UsageError
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.low_rank import Adapter, factors, read_adapter, rounding_loss, with_magnitude
from pedigree.surgery.nodes import Computed, Leaf, Work, as_type
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.selection import Selection, everything, take
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.weights.part import Piece

if TYPE_CHECKING:
    import torch

_SAMPLED_ROWS = 64


class LoraParameters(Parameters):
    """The adapter, and a factor on what it adds."""

    adapter: str
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Adapted(Computed):
    """A matrix plus a product of two, rows of their own length for DoRA."""

    b_Or: torch.Tensor
    a_rI: torch.Tensor
    length_O: torch.Tensor | None = None

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile and what the adapter adds there."""
        whole = everything(self.shape[1])
        chosen = whole if self.length_O is not None or cols is None else cols
        tile_RC = as_type(self.node.tile(rows, chosen, work), self.dtype).clone()
        tile_RC += (take(self.b_Or, 0, rows) @ take(self.a_rI, 1, chosen)).to(tile_RC.dtype)
        if self.length_O is None:
            return tile_RC
        tile_RC = with_magnitude(tile_RC, take(self.length_O, 0, rows).to(tile_RC.dtype))
        return tile_RC if cols is None else take(tile_RC, 1, cols)


def apply(symbolic: Symbolic, parameters: LoraParameters, step: Step) -> Exactness:
    """Add the adapter's products to the matrices they belong to."""
    place = str(Path(step.folder, parameters.adapter))
    adapter = read_adapter(place)
    symbolic.adapters.append(place)
    problems: list[PedigreeError] = []
    held = {stored.origin: stored.keys for stored in symbolic.stored}
    losses: list[float] = []
    for module in sorted(adapter.pairs):
        keys = held.get(f"{module}.weight", ())
        if not keys:
            problems.append(UsageError("the base has no such module", where=module, fix="is this its base model?"))
            continue
        problem = _add(symbolic, adapter, module, keys, parameters.weight, losses)
        if problem is not None:
            problems.append(problem)
    for name in adapter.whole:
        problems.append(UsageError("the adapter replaces a whole tensor, which is not merged here", where=name))
    if problems:
        raise ProblemsFound(f"step {step.number + 1}, {step.name}", problems[:12], len(problems))
    if losses:
        worst, mean = max(losses), sum(losses) / len(losses)
        symbolic.notes.append(
            f"lora: rounding to the stored type takes away {mean:.1%} of the change on average, {worst:.1%} at worst "
            f"({len(losses)} matrices, {_SAMPLED_ROWS} rows of each)"
        )
    return Exactness.NFP


def _add(
    symbolic: Symbolic, adapter: Adapter, module: str, keys: Sequence[Key], weight: float, losses: list[float]
) -> PedigreeError | None:
    """One module, which may hold several parts one after the other (fused storage)."""
    import torch

    b_Or, a_rI = factors(adapter, module)
    b_Or = b_Or * weight
    length_O = adapter.checkpoint.read(adapter.magnitudes[module]).float() if module in adapter.magnitudes else None
    if length_O is not None and weight != 1.0:
        return UsageError("a DoRA adapter has no weight", where=module, got=weight, expected=1.0)
    nodes = [symbolic.parts[key] for key in keys]
    pieces: list[Piece] = []
    for node in nodes:
        if not isinstance(node, Leaf):
            return UsageError("the matrix was changed before", where=module, fix="make lora.merge the first step")
        pieces.append(node.part.pieces[0])
    if any(piece.lead is not None or piece.swapped for piece in pieces):
        return UsageError("adapters on packed tensors are not merged", where=module)
    rows = sum(node.shape[0] for node in nodes)
    if (b_Or.shape[0], a_rI.shape[1]) != (rows, nodes[0].shape[1]):
        return UsageError(
            "the adapter does not fit",
            where=module,
            got=(b_Or.shape[0], a_rI.shape[1]),
            expected=(rows, nodes[0].shape[1]),
        )
    for key, node, piece in zip(keys, nodes, pieces, strict=True):
        index = (
            torch.from_numpy(piece.order.copy()) if piece.order is not None else torch.arange(piece.start, piece.stop)
        )
        adapted = Adapted(node, b_Or[index], a_rI, None if length_O is None else length_O[index])
        sample = slice(0, min(_SAMPLED_ROWS, node.shape[0]))
        base = node.tile(sample, node.columns, Work())
        exact = adapted.tile(sample, node.columns, Work())
        losses.append(rounding_loss(exact, as_type(exact, symbolic.dtype or node.dtype), base))
        symbolic.parts[key] = adapted
    return None


LORA_MERGE = Operator(
    name="lora.merge",
    summary="an adapter (LoRA, rsLoRA, DoRA) merged into its base, rounding loss told",
    classes={"": Exactness.NFP},
    needs="an adapter in peft's layout",
    source="2106.09685, 2312.03732, 2402.09353",
    parameters=LoraParameters,
    apply=apply,
    verbs=("fold",),
)
