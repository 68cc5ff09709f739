"""One mapping laid over another, places kept: how a step says what differs at one size."""

from __future__ import annotations

from pedigree.records.places import Node

# A mapping that names one of these anew describes another thing: nothing of the one below shows through.
IDENTITIES = ("kind", "member")


def overlaid(base: Node | None, over: Node | None) -> Node | None:
    """`over` on top of `base`: mappings key by key, anything else is replaced; each value keeps its place."""
    if over is None or base is None:
        return base if over is None else over
    if not isinstance(base.value, dict) or not isinstance(over.value, dict) or _is_another(base, over):
        return over
    result = Node(base.mark, {}, dict(base.children), dict(base.key_marks))
    for key, child in over.children.items():
        merged = overlaid(base.children.get(key), child)
        if merged is not None:
            result.children[key] = merged
            result.key_marks[key] = over.key_marks[key]
    return result


def at_size(node: Node, size: str) -> Node:
    """A part of the recipe as it is at one size: its `at: {size: ...}` laid over it, and `at` gone."""
    sizes = node.children.get("at")
    plain = Node(node.mark, {}, {k: v for k, v in node.children.items() if k != "at"}, dict(node.key_marks))
    over = sizes.children.get(size) if sizes is not None else None
    return overlaid(plain, over if over is not None and isinstance(over.value, dict) else None) or plain


def _is_another(base: Node, over: Node) -> bool:
    for key in IDENTITIES:
        named = over.children.get(key)
        before = base.children.get(key)
        if named is not None and (before is None or before.value != named.value):
            return True
    return False
