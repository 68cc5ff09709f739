"""Bit pass: which tensors are equal, number for number, whatever their name, file, shard or lossless cast.

Equality of sampled rows settles most honest cases within a few megabytes; equality of whole tensors names what was
frozen. Constant tensors (gains at one, biases at zero, rotary tables) are equal between strangers and are left out.

Shapes: canonical parts are [rows, columns] or [n].
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pedigree.forensics.contents import digest_tensors
from pedigree.forensics.side import Side
from pedigree.weights.anatomy import Part

EDGE_ROWS = 4


@dataclass
class BitPass:
    """Outcome of the bit pass.

    Attributes:
        equal: names (in B) of informative parts equal to their counterpart.
        equal_after_cast: equal only after rounding to the coarser of the two number types.
        different: names of parts that differ.
        constant: parts that are constant in both and say nothing.
        unpaired: parts of B without a counterpart of the same shape.
        whole: whether all rows were looked at (else a sample).
        equal_share: share of equal numbers over all informative parts.
        coarser: "a" or "b", whose number type is the coarser one among parts equal after rounding.
    """

    equal: list[str] = field(default_factory=list)
    equal_after_cast: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    whole: bool = True
    equal_share: float = 0.0
    same: int = 0
    seen: int = 0
    coarser: str | None = None

    @property
    def all_equal(self) -> bool:
        """Whether nothing differs and nothing is without counterpart."""
        return bool(self.equal) and not (self.equal_after_cast or self.different or self.unpaired or self.missing)


def compare_bits(a: Side, b: Side, layer_map: list[int | None], whole: bool) -> BitPass:
    """Compare counterparts number for number along a layer map.

    Args:
        a, b: the two models.
        layer_map: layer of A for each layer of B.
        whole: read whole parts, or only some rows of each.
    """
    out = BitPass(whole=whole)
    used: set[tuple[str, int | None, int | None]] = set()
    for part in b.anatomy.parts():
        layer = part.layer if part.layer is None or part.layer >= len(layer_map) else layer_map[part.layer]
        other = None if part.layer is not None and layer is None else a.anatomy.part(part.role, layer, part.expert)
        name = label(part)
        if other is None or tuple(other.shape) != tuple(part.shape):
            out.unpaired.append(name)
            continue
        used.add((other.role, other.layer, other.expert))
        _compare_part(other, part, name, whole, out)
    out.missing = [label(p) for p in a.anatomy.parts() if (p.role, p.layer, p.expert) not in used]
    if out.all_equal:
        _compare_rest(a, b, out)
    out.equal_share = out.same / out.seen if out.seen else 0.0
    return out


def _compare_rest(a: Side, b: Side, out: BitPass) -> None:
    """Tensors without a role (a classifier, an adapter) decide whether files that agree otherwise are the same."""
    left, right = digest_tensors(a.checkpoint, a.anatomy.unmapped), digest_tensors(b.checkpoint, b.anatomy.unmapped)
    extra, gone = Counter(right.values()) - Counter(left.values()), Counter(left.values()) - Counter(right.values())
    out.unpaired += [name for name, digest in right.items() if digest in extra]
    out.missing += [name for name, digest in left.items() if digest in gone]


def label(part: Part) -> str:
    """Role with layer and expert, such as `layers.3.mlp.up` or `embed`."""
    prefix = "" if part.layer is None else f"layers.{part.layer}."
    suffix = "" if part.expert is None else f".{part.expert}"
    return f"{prefix}{part.role}{suffix}"


def _compare_part(a: Part, b: Part, name: str, whole: bool, out: BitPass) -> None:
    x, y = _rows(a, whole), _rows(b, whole)
    wide_x, wide_y = x.double(), y.double()
    if _is_constant(wide_x) and _is_constant(wide_y):
        out.constant.append(name)
        return
    same = int((wide_x == wide_y).sum())
    out.same += same
    out.seen += int(wide_x.numel())
    if same == wide_x.numel():
        out.equal.append(name)
    elif x.dtype != y.dtype and bool((x.to(_coarser(x, y)) == y.to(_coarser(x, y))).all()):
        out.equal_after_cast.append(name)
        out.coarser = "a" if _coarser(x, y) == x.dtype else "b"
    else:
        out.different.append(name)


def _rows(part: Part, whole: bool) -> Tensor:
    total = part.shape[0]
    if whole or total <= 4 * EDGE_ROWS:
        return part.read_native()
    middle = total // 2
    edges = [range(EDGE_ROWS), range(middle, middle + EDGE_ROWS), range(total - EDGE_ROWS, total)]
    return part.read_native(rows=[row for edge in edges for row in edge])


def _coarser(x: Tensor, y: Tensor) -> torch.dtype:
    return min((x.dtype, y.dtype), key=lambda kind: torch.finfo(kind).bits)


def _is_constant(x: Tensor) -> bool:
    return x.numel() == 0 or bool((x == x.flatten()[0]).all())
