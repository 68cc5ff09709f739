"""One recipe at one size: its tree with the `at` parts laid over it, and the telling of names that are not there."""

from __future__ import annotations

from dataclasses import dataclass

from pedigree.family.overlay import at_size
from pedigree.family.sections import SIZES, Size
from pedigree.records.places import Node, Path
from pedigree.records.problems import Problems, nearest, one_of

SECTIONS = {"corpora": "corpus", "tokenizers": "tokenizer", "models": "step"}


@dataclass(frozen=True)
class SizedRecipe:
    """The file as it was written (`raw`), and as it is at `size` (`tree`)."""

    raw: Node
    tree: Node
    size: Size
    problems: Problems

    @classmethod
    def of(cls, raw: Node, size: Size, problems: Problems) -> SizedRecipe:
        """The recipe at `size`. Entries that are no mappings are left out; the check of the top has told them."""
        tree = Node(raw.mark, {}, dict(raw.children), dict(raw.key_marks))
        for section in SECTIONS:
            before = raw.children.get(section, Node(raw.mark, {}))
            after = Node(before.mark, {}, {}, dict(before.key_marks))
            for name, entry in before.children.items():
                if isinstance(name, str) and isinstance(entry.value, dict):
                    _check_sizes(entry, (section, name, "at"), problems)
                    after.children[name] = at_size(entry, size)
            tree.children[section] = after
        return cls(raw, tree, size, problems)

    def entries(self, section: str) -> dict[str, Node]:
        """The entries of a section by name."""
        return {str(name): node for name, node in self.tree.children[section].children.items()}

    def unknown(self, section: str, name: str, path: Path, *, but: str | None = None) -> None:
        """Tell that `path` names what is not in `section`, and what is there but for `but`.

        Nothing where it is there and broken: that is told already.
        """
        if self.raw.reaches((section, name)):
            return
        what = SECTIONS[section]
        names = [other for other in self.entries(section) if other != but]
        node, key_mark = self.tree.find(path)
        self.problems.add(
            node.mark if self.tree.reaches(path) else key_mark, f"there is no {what} of this name", path=path,
            got=repr(name)[:80], expected=one_of(names) if names else f"a {what} in this file",
            fix=nearest(name, names),
        )  # fmt: skip


def _check_sizes(entry: Node, path: Path, problems: Problems) -> None:
    sizes = entry.children.get("at")
    if sizes is None:
        return
    if not isinstance(sizes.value, dict):
        problems.add(sizes.mark, "this value does not fit", path=path, expected="a mapping of " + " and ".join(SIZES))
        return
    for size, part in sizes.children.items():
        if size not in SIZES:
            problems.add(
                sizes.key_marks[size], "there is no such size", path=path, got=repr(size)[:80],
                expected=" or ".join(SIZES), fix=nearest(str(size), SIZES),
            )  # fmt: skip
        elif not isinstance(part.value, dict):
            problems.add(part.mark, "this value does not fit", path=(*path, size), expected="a mapping")
