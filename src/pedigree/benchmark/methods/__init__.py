"""Methods of the benchmark behind one interface: ours and those of the literature, one file each.

A file that exports `METHOD` is a method; the others (`interface`, `model`, `matching`) are what methods share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import lru_cache

from pedigree.benchmark.methods.interface import Method
from pedigree.errors import UsageError

__all__ = ["all_methods", "chosen_methods"]


@lru_cache(maxsize=1)
def all_methods() -> dict[str, Method]:
    """Every method of this folder by name, ours first."""
    found: dict[str, Method] = {}
    for entry in pkgutil.iter_modules(__path__):
        method = getattr(importlib.import_module(f"{__name__}.{entry.name}"), "METHOD", None)
        if isinstance(method, Method):
            found[method.name] = method
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("pedigree"), item[0])))


def chosen_methods(names: Sequence[str]) -> list[Method]:
    """Methods of these names; all of them where no name is given.

    Raises:
        UsageError: no such method.
    """
    known = all_methods()
    for name in names:
        if name not in known:
            raise UsageError("no such method", got=name, expected=", ".join(known))
    return [method for name, method in known.items() if not names or name in names]
