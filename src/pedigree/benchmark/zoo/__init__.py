"""Families of tiny, really trained models whose relations are known.

`make` builds a set, `make_mini` the one for tests, `make_demo` the one for `pedigree demo`.
"""

from pedigree.benchmark.zoo.orders import Zoo, make, make_demo, make_mini
from pedigree.benchmark.zoo.truth import Pair

__all__ = ["Pair", "Zoo", "make", "make_demo", "make_mini"]
