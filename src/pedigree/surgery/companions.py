"""What stands beside the weights of the result: config, tokenizer, index, the resolved recipe and the sidecar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pedigree.surgery.symbolic import Symbolic
from pedigree.weights.checkpoint import Checkpoint

CARRIED = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "LICENSE",
    "LICENSE.txt", "NOTICE",
)  # fmt: skip
"""Files that go along as they are. Python files do not: the result runs no code of others."""
MAX_BYTES = 512 << 20
SIDECAR, RECIPE = "pedigree.json", "surgery.json"


def companions(symbolic: Symbolic, source: Checkpoint) -> tuple[dict[str, bytes], list[str]]:
    """Files beside the weights by name, and notes on what could not come along."""
    files: dict[str, bytes] = {}
    notes: list[str] = []
    if not symbolic.is_model:
        return {name: content for name, content in symbolic.files.items() if content is not None}, notes
    for name in CARRIED:
        if name in symbolic.files:
            continue
        content = source.sibling_bytes(name, MAX_BYTES)
        if content is not None:
            files[name] = content
    files |= {name: content for name, content in symbolic.files.items() if content is not None}
    if symbolic.config.values:
        files["config.json"] = (json.dumps(symbolic.config.values, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
        if "auto_map" in symbolic.config.values:
            notes.append("config.json names a class in Python files of the source; they do not come along")
    else:
        notes.append("the source has no config.json, so the result has none")
    return files, notes


def config_changes(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings that differ, by dotted key: [old, new], None where there is none."""
    changes: dict[str, list[Any]] = {}
    before = dict(old or {})
    for key in sorted({*before, *new}):
        a, b = before.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changes |= {f"{key}.{inner}": pair for inner, pair in config_changes(a, b).items()}
        elif a != b:
            changes[key] = [a, b]
    return changes


def sidecar(stamp: Mapping[str, Any], exactness: str, recipe: str, operators: Sequence[str]) -> bytes:
    """pedigree.json: where the record of the result is, and how it was made."""
    content = {**stamp, "made_by": "surgery", "recipe": recipe, "exactness": exactness, "operators": list(operators)}
    return (json.dumps(content, indent=2) + "\n").encode("utf-8")
