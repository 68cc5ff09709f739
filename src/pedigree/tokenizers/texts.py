"""Texts that tokenizers are trained on and measured with: plain text, JSONL, and a folder of parallel sentences.

A text is a sequence of units: lines with their line ends, or the documents of a JSONL file. Units are encoded one by
one and are what a bootstrap draws. Texts of one group are parallel: unit i of one says what unit i of another says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pedigree.errors import InputError, MalformedFile, MissingInput

MAX_TEXT_BYTES = 1 << 30
_NTREX = re.compile(r"newstest2019-(?:src|ref)\.(?P<language>[\w-]+)\.txt")


@dataclass(frozen=True, eq=False)
class Text:
    """A named text.

    Attributes:
        name: label in tables, such as `zho/poetry`.
        units: its lines or documents, in order.
        unit: "line" or "document".
        location: the file.
        group: name shared by parallel texts, empty for others.
    """

    name: str
    units: tuple[str, ...]
    unit: str
    location: str
    group: str = ""

    @property
    def language(self) -> str:
        """The name before its first slash."""
        return self.name.partition("/")[0]

    @property
    def domain(self) -> str:
        """The name after its first slash, empty without one."""
        return self.name.partition("/")[2]


def read_text(path: str | Path, name: str | None = None) -> Text:
    """A text or JSONL file.

    Args:
        path: a JSONL file (.jsonl, .ndjson) has an object with a string `text`, or a string, on each line; any other
            file is text.
        name: its label, `language/domain`; by default the name of the file.

    Raises:
        MissingInput: no such file.
        MalformedFile: not UTF-8, or a line of a JSONL file is not a document.
        InputError: there is nothing in it.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingInput("no such text file", where=str(path))
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise InputError(
            "a text is too large", where=str(path), expected=f"up to {MAX_TEXT_BYTES} bytes", fix="split it"
        )
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedFile("a text is not UTF-8", where=str(path), got=str(error)) from error
    documents = file.suffix.lower() in (".jsonl", ".ndjson")
    units = _documents(content, str(path)) if documents else _lines(content)
    if not any(unit.strip() for unit in units):
        raise InputError(
            "there is no text in this file", where=str(path), expected="at least one line that says something"
        )
    return Text(name or file.name.split(".")[0], tuple(units), "document" if documents else "line", str(path))


def _lines(content: str) -> list[str]:
    """Lines with their ends; only a line feed ends one, so that parallel files keep step whatever else is in them."""
    parts = content.split("\n")
    return [part + "\n" for part in parts[:-1]] + [part for part in parts[-1:] if part]


def _documents(content: str, where: str) -> list[str]:
    units = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MalformedFile("a line is not JSON", where=f"{where}, line {number}", got=str(error)[:100]) from error
        text = entry.get("text") if isinstance(entry, dict) else entry
        if not isinstance(text, str):
            raise MalformedFile(
                "a line is not a document", where=f"{where}, line {number}", got=f"{line[:40]!r}",
                expected='{"text": "..."} or "..."',
            )  # fmt: skip
        units.append(text.encode("utf-8", "replace").decode("utf-8"))
    return units


def read_parallel(folder: str | Path) -> list[Text]:
    """The languages of a folder of NTREX-128: line i of every file is the same sentence.

    Raises:
        MissingInput: no folder, or no such file in it.
        MalformedFile: the files differ in their number of lines.
    """
    root = Path(folder)
    found = []
    for file in sorted(root.glob("newstest2019-*.txt")):
        match = _NTREX.fullmatch(file.name)
        if match:
            text = read_text(file, f"{match['language']}/news")
            found.append(Text(text.name, text.units, text.unit, text.location, "ntrex"))
    if not found:
        raise MissingInput("no parallel sentences here", where=str(folder), expected="newstest2019-ref.LANGUAGE.txt")
    lengths = {text.name: len(text.units) for text in found}
    if len(set(lengths.values())) > 1:
        raise MalformedFile("parallel files differ in their number of lines", where=str(folder), got=lengths)
    return found


def distinct_names(texts: Iterable[Text]) -> list[Text]:
    """The texts, with numbers behind names that occur twice."""
    seen: dict[str, int] = {}
    out = []
    for text in texts:
        seen[text.name] = seen.get(text.name, 0) + 1
        n = seen[text.name]
        out.append(text if n == 1 else Text(f"{text.name}#{n}", text.units, text.unit, text.location, text.group))
    return out
