"""Inputs and outputs, as those who work name them: paths, digests, or mappings of both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedigree.ledger.statement import Parent

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True)
class Material:
    """Something that was read: where it lies, or its digest, and its part in the work."""

    path: Path | None
    digest: str | None
    role: str
    name: str


def as_materials(value: Any) -> list[Material]:
    """Read `inputs`: a list of paths or mappings (path, digest, role, name), or a mapping from paths."""
    if isinstance(value, Mapping):
        value = [{"path": key} for key in value]
    if isinstance(value, str | Path):
        value = [value]
    found = []
    for item in value or ():
        told = item if isinstance(item, Mapping) else {"path": item}
        path = Path(str(told["path"])) if told.get("path") else None
        digest = _DIGEST.fullmatch(str(told.get("digest") or ""))
        name = str(told.get("name") or (path.name if path else "") or "unnamed")
        found.append(Material(path, digest[1] if digest else None, str(told.get("role") or "init"), name))
    return found


def outputs_of(facts: Mapping[str, Any]) -> list[Path]:
    """Where the result lies: `outputs`, a list of paths, or `output` with its `location`."""
    listed = facts.get("outputs")
    if listed is None:
        output = facts.get("output")
        listed = [output.get("location") if isinstance(output, Mapping) else output]
    if isinstance(listed, str | Path) or not isinstance(listed, Sequence):
        listed = [listed]
    return [Path(str(item)) for item in listed if item]


def named_parents(facts: Mapping[str, Any]) -> list[Parent]:
    """What a run of ours names by digest: its settings, its tokenizer, its corpora."""
    found = []
    settings = facts.get("settings")
    tokenizer = settings.get("tokenizer") if isinstance(settings, Mapping) else None
    for digest, role, name in (
        (facts.get("digest"), "config", "settings"),
        (facts.get("recipe_digest"), "recipe", str(facts.get("recipe", ""))),
        (tokenizer, "tokenizer", "tokenizer"), *_corpora(facts.get("corpora")),
    ):  # fmt: skip
        match = _DIGEST.fullmatch(str(digest or ""))
        if match:
            found.append(Parent(match[1], role, name))
    return found


def _corpora(value: Any) -> list[tuple[Any, str, str]]:
    found = []
    for item in value or () if isinstance(value, Sequence) else ():
        source = item.get("source") if isinstance(item, Mapping) else None
        told = source if isinstance(source, Mapping) else {}
        name = str(told.get("path") or told.get("kind") or "corpus")
        found.append((item.get("digest") if isinstance(item, Mapping) else None, "dataset", name))
    return found
