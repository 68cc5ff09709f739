"""Places in a file, and values that know theirs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]  # keys and list indices from the top of the file


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a file, both numbers from 1."""

    line: int
    column: int


@dataclass
class Node:
    """One value of the file: where it stands, and what it is in plain Python.

    `children` holds the values of a mapping by key or of a list by index, `key_marks` where each key stands.
    """

    mark: Mark
    value: Any = None
    children: dict[str | int, Node] = field(default_factory=dict)
    key_marks: dict[str | int, Mark] = field(default_factory=dict)

    def plain(self) -> Any:
        """The value with everything below it as dict, list, str, int, float, bool and None."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.children.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.children.values()]
        return self.value

    def reaches(self, path: Path) -> bool:
        """Whether there is a value at the very end of `path`."""
        node: Node | None = self
        for part in path:
            node = node.children.get(part) if node is not None else None
        return node is not None

    def find(self, path: Path) -> tuple[Node, Mark]:
        """The deepest value that `path` reaches and where its key stands (the value itself where it has no key)."""
        node, mark = self, self.mark
        for part in path:
            child = node.children.get(part)
            if child is None:
                break
            mark = node.key_marks.get(part, child.mark)
            node = child
        return node, mark
