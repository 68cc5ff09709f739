"""Another number type. Widening is exact; narrowing rounds each number once, to nearest even.

Law     every written number is the nearest of its type to the number of the source (times its block scale).
"""

from __future__ import annotations

from typing import Literal

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Leaf
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.symbolic import Loose, Symbolic
from pedigree.weights.dimensions import read_hints
from pedigree.weights.scales import find_scales

TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MANTISSA = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 3}
_EXPONENT = {"F64": 11, "F32": 8, "F16": 5, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 5}


class CastParameters(Parameters):
    """The type to write."""

    to: Literal["float64", "float32", "float16", "bfloat16"]
    keep: tuple[str, ...] = ("moe.router.bias",)
    """Roles that keep the type they have."""


def apply(symbolic: Symbolic, parameters: CastParameters, step: Step) -> Exactness:
    """Set the type; block scales are multiplied in and left out."""
    target = TYPES[parameters.to]
    symbolic.dtype = target
    symbolic.kept_types = frozenset(parameters.keep)
    scales = find_scales(symbolic.checkpoint, read_hints(symbolic.checkpoint.config))
    helpers = {name for name, _ in scales.values()}
    if helpers:
        symbolic.stored = [
            stored for stored in symbolic.stored
            if not (isinstance(stored.loose, Loose) and stored.loose.name in helpers)
        ]  # fmt: skip
        for level in symbolic.config.levels():
            level.pop("quantization_config", None)
    if symbolic.config.find("dtype") or symbolic.config.values:
        found = symbolic.config.find("dtype")
        level, key = found if found else (next(symbolic.config.levels()), "torch_dtype")
        level[key] = parameters.to
    olds = {node.part.dtype for node in symbolic.parts.values() if isinstance(node, Leaf)}
    exact = all(
        _MANTISSA.get(old, 99) <= _MANTISSA[target] and _EXPONENT.get(old, 99) <= _EXPONENT[target] for old in olds
    )
    return Exactness.FP0 if exact and not helpers else Exactness.FPE


CAST = Operator(
    name="cast",
    summary="write every float tensor in another type; 8-bit block scales are multiplied in",
    classes={"to more bits": Exactness.FP0, "to fewer bits": Exactness.FPE},
    needs="",
    source="IEEE 754, round to nearest even",
    parameters=CastParameters,
    apply=apply,
    verbs=("fold",),
)
