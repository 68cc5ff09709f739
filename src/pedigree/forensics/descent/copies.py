"""Trained matrices that are equal number for number: a copy, whatever else was done.

No two trainings end at the same numbers in a whole matrix. But a matrix that was frozen before anything was learned is
equal in all models of one seed, and one that a formula gave is equal in all that use the formula. So equality counts
where the matrix was trained before it was copied, as can be seen in it: part of its energy stands out of what a random
matrix can have (`survival.learning_of`), or the gain in front of it, equal too, was learned. And a formula's
numbers are left out (`contents.is_computed`).

Null    that two matrices were trained apart. There is no p-value: thousands of numbers that are equal to the last bit
        have no probability worth writing down.
What this buys: where matrices of the body are equal number for number, nobody chose the frame of the others, since
turning the stream of either model would have moved these.

Shapes: N = rows, D = columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.descent.survival import SEEN_LEARNING, learning_of
from pedigree.forensics.sides.bits import BitPass, label
from pedigree.forensics.sides.contents import is_computed
from pedigree.forensics.sides.linear import singular_values, without_damage
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import read_gain
from pedigree.weights.anatomy import Part
from pedigree.weights.checkpoint import Checkpoint

BODY = ("attn.", "mlp.", "moe.expert.", "moe.shared.")

LEAST_SIDE = 24
"""Shorter side of a matrix below which chance makes spectra too uneven to see learning in."""

MOST_LOOKED_AT, MOST_ROWS = 12, 512
"""Equal matrices that are looked at for learning, and rows of each."""

LEAST_COPIES = 2
"""Matrices that have to be equal and trained."""

MOST_TENSORS = 64
"""Equal tensors without a role that are looked at for learning."""


@dataclass(frozen=True)
class Copies:
    """Matrices of the body that are equal number for number.

    Attributes:
        equal: how many are equal.
        looked_at: how many of them were looked at.
        trained: those of them in which learning can be seen, by name (in B).
    """

    equal: int
    looked_at: int
    trained: tuple[str, ...]

    @property
    def told(self) -> bool:
        """Whether trained matrices were copied."""
        return len(self.trained) >= LEAST_COPIES

    def of(self, *kinds: str) -> tuple[str, ...]:
        """Names of the trained ones whose role begins with one of the kinds."""
        return tuple(name for name in self.trained if name.split(".", 2)[-1].startswith(kinds))


def find_copies(a: Side, b: Side, layer_map: Sequence[int | None], bits: BitPass) -> Copies | None:
    """Equal matrices of the body, and in which of them learning can be seen; None where none is equal.

    Args:
        a, b: the models.
        layer_map: for each layer of B its layer in A.
        bits: what was equal along that map.
    """
    same = {*bits.equal, *bits.equal_after_cast}
    parts = [part for part in b.anatomy.parts() if label(part) in same and _is_matrix_of_body(part)]
    if not parts:
        return None
    some = [parts[k] for k in spread_evenly(len(parts), min(len(parts), MOST_LOOKED_AT)).tolist()]
    trained = tuple(label(part) for part in some if _was_trained(a, b, layer_map, part))
    return Copies(len(parts), len(some), trained)


def _is_matrix_of_body(part: Part) -> bool:
    return part.role.startswith(BODY) and len(part.shape) == 2 and min(part.shape) >= LEAST_SIDE


def _was_trained(a: Side, b: Side, layer_map: Sequence[int | None], part: Part) -> bool:
    rows = spread_evenly(int(part.shape[0]), min(int(part.shape[0]), MOST_ROWS)).tolist()
    matrix_ND = without_damage(part.read(rows=rows))
    if is_computed(matrix_ND):
        return False
    return _shows_learning(matrix_ND) or _gain_was_copied(a, b, layer_map, part)


def _shows_learning(matrix_ND: Tensor) -> bool:
    learned = learning_of(singular_values(matrix_ND - matrix_ND.mean()), *matrix_ND.shape)
    return learned is not None and learned >= SEEN_LEARNING


def handed_down(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the tensors, equal in two files whose roles are unknown, that one file has from the other.

    A seed gives the same matrices to whoever draws from it, and a formula or a count one more table; neither is told
    from its numbers with certainty. So matrices in which no learning can be seen are left out, and what is left speaks
    where learning is seen in one of them and it is not alone.

    Args:
        checkpoint: the file that is read.
        names: tensors that are equal to one of the other file, and that nobody can compute.
    """
    if len(names) < LEAST_COPIES:
        return ()
    left: list[str] = []
    learned = 0
    for k in spread_evenly(len(names), min(len(names), MOST_TENSORS)).tolist():
        told = _learning_in(checkpoint.read(names[k]))
        if told is None or told >= SEEN_LEARNING:
            left.append(names[k])
        learned += told is not None and told >= SEEN_LEARNING
    return tuple(left) if learned and len(left) >= LEAST_COPIES else ()


def _learning_in(tensor: Tensor) -> float | None:
    """Share of energy that was visibly learned; None of what has no spectrum to be held against a random one."""
    rows_ND = tensor.to(torch.float32).flatten(1) if tensor.ndim > 1 else tensor[None]
    if min(rows_ND.shape) < LEAST_SIDE:
        return None
    rows_ND = without_damage(rows_ND[spread_evenly(len(rows_ND), min(len(rows_ND), MOST_ROWS))])
    return learning_of(singular_values(rows_ND - rows_ND.mean()), *rows_ND.shape)


def _gain_was_copied(a: Side, b: Side, layer_map: Sequence[int | None], part: Part) -> bool:
    """Whether the gain in front was learned and is equal, too: gains begin at one number."""
    if part.layer is None or part.layer >= len(layer_map) or (layer := layer_map[part.layer]) is None:
        return False
    norm = "norm.attn" if part.role.startswith("attn.") else "norm.mlp"
    x_D, y_D = read_gain(a.anatomy, norm, layer), read_gain(b.anatomy, norm, part.layer)
    if x_D is None or y_D is None or x_D.shape != y_D.shape or len(x_D) < LEAST_SIDE:
        return False
    return bool(torch.equal(x_D, y_D)) and not bool((x_D == x_D[0]).all()) and len(torch.unique(x_D)) > len(x_D) // 2
