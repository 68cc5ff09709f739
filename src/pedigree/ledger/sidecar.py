"""`pedigree.json` beside the weights: where their record is. It is the one name that an artifact id leaves out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pedigree.errors import PedigreeError
from pedigree.ledger.strict_json import MAX_BYTES, strict_object


def read_sidecar(folder: Path) -> dict[str, Any]:
    """What the sidecar of a directory says; nothing where there is none.

    Raises:
        MalformedFile: it is no strict JSON.
    """
    from pedigree.records.artifact import SIDECAR

    path = folder / SIDECAR
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        return strict_object(stream.read(MAX_BYTES + 1), str(path), numbers=True)


def write_sidecar(folder: Path, fields: dict[str, Any]) -> None:
    """Add fields to the sidecar of a directory; what else it says stays. Never half a file."""
    from pedigree.records.artifact import SIDECAR

    try:
        known = read_sidecar(folder)
    except PedigreeError:
        known = {}
    content = {"schema": "pedigree/sidecar", "version": 1, **known, **fields}
    temporary = folder / f".{SIDECAR}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / SIDECAR)
