"""Where something was made: interpreter, packages, system. Names of machines and people stay out."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

from pedigree.records.canonical import canonical_digest


def surroundings() -> dict[str, Any]:
    """Python, system, and the packages that are installed with their versions, and one digest over all of it."""
    packages = {}
    for found in metadata.distributions():
        name = found.metadata["Name"]
        if name:
            packages[name.lower().replace("_", "-")] = found.version
    told = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 0,
        "interpreter": sys.implementation.name,
        "packages": dict(sorted(packages.items())),
    }
    return {**told, "digest": canonical_digest(told)}
