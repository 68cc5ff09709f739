"""Inner products of several models, tensor by tensor, streamed in bands of rows.

Everything a linear question about weights needs (distances, least squares, angles) is in the Gram matrix of the models
read as vectors. It is added up in double precision, so that a residual as small as the rounding of bfloat16 survives
the subtraction; no tensor is ever held whole.

Shapes: M = models, R = rows of a band, D = columns, N = numbers of a band.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.comparison.measure import Progress
from pedigree.forensics.sides.bits import label
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.sampling import runs
from pedigree.weights.anatomy import Anatomy, Part

BAND_NUMBERS = 1 << 21
"""Numbers of one tensor of one model that are held at once."""

SAMPLED_ROWS = 512
"""Rows of a tensor that are read where tensors are not read whole."""

# Bits of the fraction with the leading one: half a unit in the last place is 2^(exponent - bits) / 2.
_FRACTION_BITS = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}


@dataclass(frozen=True)
class GramTensor:
    """Inner products of one tensor of all models.

    Attributes:
        name: role with layer, such as `layers.3.mlp.up`.
        component: "attn", "mlp", "embed", "head" or "other".
        layer: layer number, None outside the layers.
        numbers: numbers of each model that were read.
        halves_2MM: Gram matrices of even and of odd rows, double precision; one half is fitted, the other scored.
        rounding: squared error that storing the first model in its number type makes by itself; 0 where unknown.
        sources: names of the stored tensors of the first model.
    """

    name: str
    component: str
    layer: int | None
    numbers: int
    halves_2MM: Tensor
    rounding: float
    sources: tuple[str, ...] = ()

    @property
    def gram_MM(self) -> Tensor:
        """Inner products over all rows that were read."""
        return self.halves_2MM.sum(0)


@dataclass
class Alignment:
    """Tensors that all models have in one shape, and the names of those they do not."""

    rows: list[tuple[Part, ...]]
    left_out: list[str]


def align_parts(anatomies: Sequence[Anatomy]) -> Alignment:
    """Matrices of the first model with their counterparts of the same role, layer and shape in all others."""
    found = Alignment([], [])
    for part in anatomies[0].parts():
        if len(part.shape) != 2:
            continue
        others = [anatomy.part(part.role, part.layer, part.expert) for anatomy in anatomies[1:]]
        same = [p for p in others if p is not None and tuple(p.shape) == tuple(part.shape)]
        if len(same) == len(others):
            found.rows.append((part, *same))
        else:
            found.left_out.append(label(part))
    return found


def collect_grams(
    alignment: Alignment, *, whole: bool, progress: Progress | None = None, stage: str = "reading"
) -> list[GramTensor]:
    """Gram matrices of all aligned tensors.

    Args:
        alignment: what `align_parts` found.
        whole: read every row, or `SAMPLED_ROWS` in runs spread over each tensor.
        progress: called with (stage, fraction, message).
        stage: its first argument.
    """
    out = []
    for number, parts in enumerate(alignment.rows):
        if progress is not None:
            progress(stage, number / max(1, len(alignment.rows)), label(parts[0]))
        out.append(_gram_of(parts, whole))
    return out


def _gram_of(parts: tuple[Part, ...], whole: bool) -> GramTensor:
    halves = torch.zeros(2, len(parts), len(parts), dtype=torch.float64)
    numbers, rounding = 0, 0.0
    for rows in bands(parts[0], whole):
        block_MRD = read_band(parts, rows)
        numbers += block_MRD.shape[1] * block_MRD.shape[2]
        rounding += rounding_energy(block_MRD[0], parts[0].dtype)
        for half in (0, 1):
            flat_MN = block_MRD[:, half::2].flatten(1).double()
            halves[half] += flat_MN @ flat_MN.T
    return GramTensor(
        label(parts[0]), component_of(parts[0].role), parts[0].layer, numbers, halves, rounding, parts[0].sources
    )


def bands(part: Part, whole: bool) -> Iterator[slice | list[int]]:
    """Rows to read at once: all in bands, or runs spread over the tensor."""
    total, columns = part.shape[0], part.shape[1]
    step = max(2, BAND_NUMBERS // max(1, columns))
    if whole or total <= SAMPLED_ROWS:
        for begin in range(0, total, step):
            yield slice(begin, min(begin + step, total))
        return
    chosen = runs(total, SAMPLED_ROWS, 32).tolist()
    for begin in range(0, len(chosen), step):
        yield chosen[begin : begin + step]


def read_band(parts: Sequence[Part], rows: slice | list[int]) -> Tensor:
    """The same rows of the same tensor of all models, float32 [M, R, D]; damaged numbers are zero in every model."""
    block_MRD = torch.stack([part.read(rows=rows) for part in parts])
    clean = without_damage(block_MRD)
    return clean if clean is block_MRD else torch.where((clean == block_MRD).all(dim=0), clean, 0.0)


def rounding_energy(rows_RD: Tensor, dtype: str) -> float:
    """Expected squared error of rounding these numbers to their type: a twelfth of the squared last place, summed."""
    bits = _FRACTION_BITS.get(dtype)
    if bits is None:
        return 0.0
    return float((last_place(rows_RD, dtype).double() ** 2).sum()) / 12.0


def fraction_bits(dtype: str) -> int:
    """Bits of the fraction with the leading one; of types with blocks of scales, those of bfloat16."""
    return _FRACTION_BITS.get(dtype, 8)


def last_place(rows_RD: Tensor, dtype: str) -> Tensor:
    """Distance from each number to the next of its type; of types with blocks of scales, that of bfloat16."""
    bits = fraction_bits(dtype)
    exponent = torch.frexp(rows_RD)[1]
    return torch.ldexp(torch.ones_like(rows_RD), (exponent - bits).clamp_min(-126)) * (rows_RD != 0)


def component_of(role: str) -> str:
    """The component a role belongs to, in the words of a comparison."""
    if role.startswith("attn."):
        return "attn"
    if role.startswith(("mlp.", "moe.")):
        return "mlp"
    return role if role in ("embed", "head") else "other"
