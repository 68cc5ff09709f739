"""Cosine of all parameters in place (PCS of HuRef, 2312.04828): tensors of one role, layer and shape, no others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model


@dataclass(frozen=True)
class RawCosine(Described):
    """One number: the cosine of what stands in the same place with the same shape."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Inner product over the product of the lengths, over all matching tensors."""
        inner = one = two = 0.0
        for key, part in a.anatomy.by_key.items():
            other = b.anatomy.by_key.get(key)
            if other is None or other.shape != part.shape:
                continue
            x, y = a.part(*key), b.part(*key)
            if x is not None and y is not None:
                inner += float((x.double() * y.double()).sum())
                one += float(x.double().norm() ** 2)
                two += float(y.double().norm() ** 2)
        if not one or not two:
            return Answer(None, why_not="no tensor of one place has one shape in both")
        return Answer(inner / math.sqrt(one * two))


METHOD = RawCosine("raw_cosine", "raw cosine, PCS (2023)", "2312.04828, PCS")
