"""The source of the package as syntax trees, imports and definitions, for the tests that hold the house rules."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "pedigree"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files() -> list[Path]:
    """All files of the package, sorted."""
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of one file, with `parent` set on every node."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return tree


def place(path: Path, node: ast.AST | int = 1) -> str:
    """`file:line`, as editors and terminals understand it."""
    line = node if isinstance(node, int) else getattr(node, "lineno", 1)
    return f"{path.relative_to(ROOT)}:{line}"


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path: Path) -> str:
    """The room a file stands in: the first name below `pedigree`."""
    return Path(path.relative_to(PACKAGE).parts[0]).stem


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def report(problems: Iterable[str], fix: str) -> None:
    """Fail with the whole list at once and one sentence on how to mend it."""
    lines = sorted(set(problems))
    if lines:
        pytest.fail(f"{len(lines)} place(s):\n  " + "\n  ".join(lines) + f"\nfix: {fix}", pytrace=False)


def for_type_checking(node: ast.AST) -> bool:
    """Whether an import exists for the type checker only."""
    while (node := getattr(node, "parent", None)) is not None:  # type: ignore[assignment]
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING"):
            return True
    return False


def imported_names(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Every dotted name that an import statement may load, lazy imports included; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def longest_module(name: str, known: set[str]) -> str | None:
    """The deepest module of ours that a dotted name reaches; None for a foreign name."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def import_graph() -> dict[str, dict[str, str]]:
    """Module -> modules it imports -> place of the statement; what only the type checker sees is left out."""
    known = {module_name(path) for path in python_files()}
    graph: dict[str, dict[str, str]] = {name: {} for name in known}
    for path in python_files():
        here = module_name(path)
        for name, node in imported_names(tree_of(path)):
            target = longest_module(name, known)
            if target is not None and target != here and not for_type_checking(node):
                graph[here].setdefault(target, place(path, node))
    return graph


def find_loop(graph: dict[str, dict[str, str]]) -> list[str]:
    """One import loop as a list of modules with the first repeated at the end; empty when there is none."""
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(module: str) -> list[str]:
        state[module] = 1
        trail.append(module)
        for target in sorted(graph.get(module, {})):
            if state.get(target) == 1:
                return [*trail[trail.index(target) :], target]
            if target not in state and (loop := visit(target)):
                return loop
        state[module] = 2
        trail.pop()
        return []

    for module in sorted(graph):
        if module not in state and (loop := visit(module)):
            return loop
    return []


def reachable(graph: dict[str, dict[str, str]], start: str) -> dict[str, list[str]]:
    """Every module that `start` reaches, with one path to it."""
    paths = {start: [start]}
    todo = [start]
    while todo:
        module = todo.pop()
        for target in graph.get(module, {}):
            if target not in paths:
                paths[target] = [*paths[module], target]
                todo.append(target)
    return paths


def is_protocol(node: ast.ClassDef) -> bool:
    """Whether a class is a typing.Protocol."""
    bases = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
    return any(dotted(base).rpartition(".")[2] == "Protocol" for base in bases)


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions and classes of a module and the public methods of its public classes.

    Methods of a Protocol are left out: they only name what others document where they do it.
    """

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef) and not is_protocol(node):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(tree.body, "")


def tracked_files() -> list[Path]:
    """Files under version control that are text; where there is no git, the test is skipped."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0 or not listing.stdout:
        pytest.skip("not a git checkout: the list of tracked files is unknown")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines in a fresh interpreter that sees this checkout."""
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
