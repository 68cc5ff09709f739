"""What a model card claims of the parents of a model: names, never more than that."""

from __future__ import annotations

from pathlib import Path

import yaml

MAX_CARD = 2 << 20  # bytes


def card_claims(folder: Path) -> list[dict[str, str]]:
    """The `base_model` entries of README.md with their relation; nothing where there is no readable card."""
    path = folder / "README.md"
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CARD).decode("utf-8", "replace")
    except OSError:
        return []
    if not text.startswith("---"):
        return []
    head = text[3:].partition("\n---")[0]
    try:
        fields = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError):
        return []
    if not isinstance(fields, dict):
        return []
    named = fields.get("base_model")
    names = named if isinstance(named, list) else [named]
    relation = str(fields.get("base_model_relation") or "unsaid relation")
    return [{"name": str(name)[:300], "relation": relation[:60]} for name in names[:64] if name]
