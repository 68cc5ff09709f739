"""Corpora: where the documents of a run come from, always in the same order.

Law  the same files and settings give the same documents in the same order, on every machine.

Rules
1. Paths are sorted; a directory stands for the files of its kind below it; a pattern is expanded.
2. A file that holds no text or is not UTF-8, a line that is no JSON and a row without its field are errors with file
   and line. A few broken bytes are replaced: hostile text is text.
3. Nothing is downloaded unless a source says `kind: hf`.
"""

from __future__ import annotations

import glob
import json
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from blake3 import blake3

from pedigree.errors import InputError, MalformedFile, MissingInput
from pedigree.training.arithmetic import arithmetic_documents
from pedigree.training.config import SourceConfig

SUFFIXES = {"text": ("*.txt", "*.md", "*.py"), "jsonl": ("*.jsonl",), "parquet": ("*.parquet",)}
MOST_BROKEN = 0.01  # share of characters of a text file that may be replaced
_SKIPPED = {"site-packages", "test", "tests", "idlelib", "encodings", "lib2to3", "__pycache__", "pydoc_data"}


def documents(source: SourceConfig) -> Iterator[str]:
    """The documents of one corpus, in their fixed order.

    Raises:
        MissingInput: no such file, no file in the directory, or a library that is needed is absent.
        MalformedFile: a file that holds no text, a line that is no JSON, a row without its field.
    """
    limit = source.max_documents or None
    if source.kind == "arithmetic":
        return arithmetic_documents(source.seed, limit)
    if source.kind == "hf":
        return islice(_hub_rows(source), limit)
    read = {"text": _text, "python-stdlib": _text, "jsonl": _jsonl, "parquet": _parquet}[source.kind]
    return islice((text for path in files(source) for text in read(path, source)), limit)


def excerpt(source: SourceConfig, max_characters: int) -> Iterator[str]:
    """The first documents of a corpus, cut off after so many characters.

    Raises:
        MissingInput, MalformedFile: as `documents`.
    """
    left = max_characters
    for text in documents(source):
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def check_source(source: SourceConfig) -> None:
    """Make sure, before any work, that a corpus is there and says something; the Hub is not asked.

    Raises:
        MissingInput, MalformedFile: as `documents`, as far as its first text.
        InputError: there is no text in it.
    """
    if source.kind != "hf" and not any(text.strip() for text in documents(source)):
        raise InputError(
            "this corpus holds no text", where=source.path or source.kind, got="nothing but empty documents",
            expected="at least one that says something", fix="another file, or another text_field",
        )  # fmt: skip


def files(source: SourceConfig) -> list[Path]:
    """The files of one corpus, sorted by path; none for generated and remote corpora.

    Raises:
        MissingInput: nothing is there.
    """
    if source.kind in ("arithmetic", "hf"):
        return []
    if source.kind == "python-stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        found = [path for path in root.rglob("*.py") if _SKIPPED.isdisjoint(path.relative_to(root).parts)]
        return sorted(path for path in found if path.stat().st_size)
    path = Path(source.path or "")
    if path.is_dir():
        found = sorted({found for pattern in SUFFIXES[source.kind] for found in path.rglob(pattern)})
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not found:
        wanted = f"a file, a pattern, or a directory with {', '.join(SUFFIXES[source.kind])}"
        raise MissingInput(
            "the corpus is not there", where=str(path), got="no file", expected=wanted,
            fix="put it there, or correct the path; in a recipe it starts at the folder of the recipe",
        )  # fmt: skip
    return found


def source_digest(source: SourceConfig) -> str:
    """blake3 over everything that decides the documents: settings, names and bytes of the files."""
    state = blake3(json.dumps(source.model_dump(mode="json", exclude={"weight", "domain", "path"})).encode())
    if source.kind == "hf":
        state.update(str(source.path).encode())
    for path in files(source):
        state.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + str(path.stat().st_size).encode() + b"\0")
        state.update_mmap(path)
    return state.hexdigest()


def _text(path: Path, source: SourceConfig) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    if source.kind == "text":
        _check_readable(text, path)
    if not text.strip():
        raise MalformedFile(
            "this file of the corpus holds no text", where=str(path), got=f"{len(text)} characters", fix="remove it"
        )
    if source.document == "file":
        yield text
        return
    pieces = text.split("\n\n") if source.document == "paragraph" else text.splitlines()
    yield from (piece for piece in pieces if piece.strip())


def _check_readable(text: str, path: Path) -> None:
    """Refuse what is not UTF-8 text: a model would learn the marks of replaced bytes."""
    broken = text.count("\ufffd")
    if "\0" in text or broken > MOST_BROKEN * len(text):
        got = f"a zero byte at character {text.index(chr(0))}" if "\0" in text else f"{broken} broken characters"
        raise MalformedFile(
            "this file of the corpus is not UTF-8 text", where=str(path), got=f"{got} of {len(text)}",
            expected="UTF-8", fix="remove it, or convert it: iconv -f CP1251 -t UTF-8",
        )  # fmt: skip


def _jsonl(path: Path, source: SourceConfig) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise MalformedFile(
                    "this line is not JSON", where=where, got=line[:60].strip(), expected="one JSON object a line",
                    fix="kind: text, if the file is plain text",
                ) from error  # fmt: skip
            yield _field(row, source.text_field, where)


def _parquet(path: Path, source: SourceConfig) -> Iterator[str]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow import parquet as arrow
    except ImportError as error:
        raise MissingInput(
            "Parquet files need the library pyarrow", where=str(path), fix="pip install 'llm-pedigree[data]'"
        ) from error
    try:
        table = arrow.ParquetFile(path)
    except ArrowInvalid as error:
        raise MalformedFile(
            "this file is not Parquet", where=str(path), got=str(error)[:120], expected="a Parquet file",
            fix="write it anew, or name its kind: text or jsonl",
        ) from error  # fmt: skip
    names = table.schema_arrow.names
    if source.text_field not in names:
        raise MalformedFile(
            "the rows lack the field of the text", where=str(path), got=", ".join(names), expected=source.text_field,
            fix="name the field with text_field",
        )  # fmt: skip
    for batch in table.iter_batches(batch_size=1024, columns=[source.text_field]):
        yield from (str(text) for text in batch.column(0).to_pylist() if text)


def _hub_rows(source: SourceConfig) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingInput(
            "corpora of the Hub need the library datasets", where=source.path, fix="pip install 'llm-pedigree[data]'"
        ) from error
    rows = load_dataset(source.path, split=source.split, streaming=True)
    for number, row in enumerate(rows):
        yield _field(row, source.text_field, f"{source.path}, row {number}")


def _field(row: Any, field: str, where: str) -> str:
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        got = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise MalformedFile(
            "this row has no text", where=where, got=got, expected=f"a string in the field {field!r}",
            fix="name the field with text_field",
        )  # fmt: skip
    return text
