"""What the answer of a comparison depends on beside the two models: this program, its data, and what it computes with.

A comparison that was kept is as good as a new one only while none of it has changed: a bank with other pairs moves
thresholds, a role table moves tensors, and a version number says nothing of either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.resources.abc import Traversable

ROOMS = ("forensics", "tokenizers", "weights")
"""The rooms whose code and data a comparison runs through."""
_RECORD = "records/comparison.py"
_LIBRARIES = ("llm-pedigree", "torch", "numpy", "scipy", "tokenizers")
_READ = (".py", ".json")


@cache
def revision() -> str:
    """64 hexadecimal digits over code, data and versions."""
    whole, package = hashlib.sha256(), files("pedigree")
    record = (_RECORD, package.joinpath(_RECORD).read_bytes())
    for room in ROOMS:
        for name, data in [record, *_below(package.joinpath(room), room)]:
            whole.update(f"{name} {len(data)}\n".encode() + data)
    for library in _LIBRARIES:
        whole.update(f"{library} {_version(library)}\n".encode())
    return whole.hexdigest()


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file that counts, in one order."""
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        name = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _below(entry, name)
        elif entry.name.endswith(_READ):
            yield name, entry.read_bytes()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
