"""YAML text as a tree that knows where each value stands; hostile text is refused before anything is built from it.

Rules, each of which becomes a problem with line and column, not an exception of the parser
1. A file is UTF-8, at most MAX_BYTES, holds one document, at most MAX_DEPTH deep and MAX_VALUES values large.
2. Anchors, aliases and tags are refused, all of them: a recipe means what it shows, and no file of a few lines may
   expand into millions of values or name a Python object.
3. A mapping holds each key once. Keys are text as written.
4. Plain values follow the core schema of YAML 1.2, not 1.1: `true` and `false` are the only truth values (`no` is a
   word, `12:30` is text), `1e-4` is a number, `1_000_000` too. A number that is written with an exponent and is whole
   is an integer (`13.2e12` tokens). Numbers are finite, integers at most LARGEST.

The events of the parser are put together here with a stack of our own, so that depth costs no recursion.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pedigree.errors import MissingInput
from pedigree.records.places import Mark, Node
from pedigree.records.problems import Problems

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_VALUES = 20_000
MAX_DIGITS = 400
LARGEST = 2**53 - 1  # beyond it integers are not exact in every reader of JSON

_INTEGER = re.compile(r"[-+]?\d[\d_]*")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F_]+")
_FLOAT = re.compile(r"[-+]?(\.\d[\d_]*|\d[\d_]*(\.[\d_]*)?)([eE][-+]?\d+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"true": True, "false": False, "True": True, "False": False, "null": None, "~": None, "": None}


def _near(path: Path) -> str | None:
    """The recipe beside `path` whose name is nearest, as a fix."""
    try:
        known = sorted(found.name for found in path.parent.glob("*.y*ml"))[:1000]
    except (OSError, ValueError):
        return None
    near = difflib.get_close_matches(path.name, known, n=1, cutoff=0.5)
    return f"did you mean {path.parent / near[0]}?" if near else None


def read_text(path: Path, problems: Problems) -> str | None:
    """The text of a file that is small enough and UTF-8; None, and a problem, where it is not.

    Raises:
        MissingInput: there is no such file, or it is no regular file.
    """
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise MissingInput(
            "there is no such recipe", where=str(path), got="no file", expected="a YAML file", fix=_near(path)
        ) from error
    if not stat.S_ISREG(kind):
        what = "a directory" if stat.S_ISDIR(kind) else "no regular file"
        raise MissingInput("a recipe is a file", where=str(path), got=what, fix="name one .yaml file")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        problems.add(Mark(1, 1), "the file is too large for a recipe", expected=f"at most {MAX_BYTES:,} bytes")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line_start = before.rfind(b"\n") + 1
        column = len(before[line_start:].decode("utf-8", "replace")) + 1
        got = f"byte 0x{content[error.start]:02x}"
        problems.add(Mark(before.count(b"\n") + 1, column), "this is not UTF-8", got=got, fix="save the file as UTF-8")
        return None


def parse_tree(text: str, problems: Problems) -> Node | None:
    """The tree of the one document in `text`; None where there is none. Problems are added, not raised."""
    builder = _Builder(problems)
    try:
        for event in _events(text):
            if not builder.take(event):
                return None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        problems.add(mark, "this character is not allowed in YAML", got=f"U+{_codepoint(error.character):04X}")
        return None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        words = (error.problem or "unreadable").split("\n", maxsplit=1)[0]
        context = f" {error.context}" if error.context else ""
        fix = 'quote text that holds ": "' if "mapping values" in words else None
        problems.add(_mark(at), f"this is not YAML: {words}{context}"[:200], fix=fix)
        return None
    if builder.root is None and not problems.found:
        problems.add(Mark(1, 1), "the file is empty", expected="a recipe", fix="see docs/guide/recipes.md")
    return builder.root


def _events(text: str) -> Iterator[yaml.Event]:
    yield from yaml.parse(text, Loader=yaml.SafeLoader)


def _codepoint(character: object) -> int:
    return ord(character) if isinstance(character, str) else int(str(character))


def _mark(mark: Any) -> Mark:
    """Our place for one of the parser, which counts from zero."""
    return Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)


class _Builder:
    """Puts events together: a stack of open mappings and lists, each with the key that waits for its value."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.root: Node | None = None
        self._open: list[Node] = []
        self._keys: list[tuple[str | int, Mark] | None] = []
        self._documents = 0
        self._values = 0

    def take(self, event: yaml.Event) -> bool:
        """Add one event; False where reading on would be pointless or dangerous."""
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self.problems.add(mark, "a second document begins here", expected="one family in one file")
                return False
            if event.tags:
                self.problems.add(mark, "tags are not allowed in recipes", got="a %TAG line", fix="remove it")
        elif isinstance(event, yaml.AliasEvent):
            self._refuse_anchor(event, mark)
            return self._put(Node(mark), mark)
        elif isinstance(event, yaml.NodeEvent):
            return self._take_node(event, mark)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
            self._keys.pop()
        return True

    def _take_node(self, event: yaml.NodeEvent, mark: Mark) -> bool:
        if event.anchor is not None:
            self._refuse_anchor(event, mark)
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.problems.add(mark, "tags are not allowed in recipes", got=repr(tag)[:80], fix="remove the tag")
        if isinstance(event, yaml.ScalarEvent):
            if self._waits_for_key():
                return self._take_key(event.value, mark)
            quoted = event.style is not None
            value = event.value if quoted or tag is not None else self._plain_value(event.value, mark)
            return self._put(Node(mark, value), mark)
        if self._waits_for_key():
            self.problems.add(mark, "a key must be a word", got="a list or mapping")
            return False
        node = Node(mark, {} if isinstance(event, yaml.MappingStartEvent) else [])
        if not self._put(node, mark):
            return False
        self._open.append(node)
        self._keys.append(None)
        if len(self._open) > MAX_DEPTH:
            self.problems.add(mark, "this is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
            return False
        return True

    def _refuse_anchor(self, event: yaml.NodeEvent, mark: Mark) -> None:
        sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
        self.problems.add(
            mark, "anchors and aliases are not allowed in recipes", got=f"{sign}{event.anchor}"[:80],
            fix="write the value out, or let one step continue another with `from`",
        )  # fmt: skip

    def _waits_for_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._keys[-1] is None

    def _take_key(self, key: str, mark: Mark) -> bool:
        parent = self._open[-1]
        if key in parent.children:
            first = f"only that of line {parent.key_marks[key].line}"
            self.problems.add(mark, "this key stands here twice", got=repr(key)[:80], expected=first)
        self._keys[-1] = (key, mark)
        return True

    def _put(self, node: Node, mark: Mark) -> bool:
        self._values += 1
        if self._values > MAX_VALUES:
            self.problems.add(mark, "there are too many values", expected=f"at most {MAX_VALUES:,}")
            return False
        if not self._open:
            self.root = node
            return True
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.children[len(parent.children)] = node
            return True
        if self._keys[-1] is None:  # an alias in the place of a key
            return False
        key, key_mark = self._keys[-1]
        if key not in parent.children:
            parent.children[key] = node
            parent.key_marks[key] = key_mark
        self._keys[-1] = None
        return True

    def _plain_value(self, text: str, mark: Mark) -> Any:
        """What a plain scalar means under the core schema of YAML 1.2."""
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            self.problems.add(mark, "numbers must be finite", got=text)
            return None
        if not _FLOAT.fullmatch(text) and not _HEXADECIMAL.fullmatch(text):
            return text
        if len(text) > MAX_DIGITS:
            self.problems.add(mark, "this number has too many digits", expected=f"at most {MAX_DIGITS}")
            return None
        if _HEXADECIMAL.fullmatch(text) or _INTEGER.fullmatch(text):
            whole = int(text.replace("_", ""), 16 if "x" in text else 10)
            if abs(whole) > LARGEST:
                self.problems.add(mark, "this number is too large", got=text[:40], expected=f"at most {LARGEST}")
                return None
            return whole
        number = float(text.replace("_", ""))
        if not math.isfinite(number):
            self.problems.add(mark, "numbers must be finite", got=text[:40])
            return None
        is_whole = "e" in text.lower() and number.is_integer() and abs(number) <= LARGEST
        return int(number) if is_whole else number
