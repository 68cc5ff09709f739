"""The texts of the experiments: the installed Python's own documentation and sources, and generated sums.

Everything is there on every machine that can run Pedigree; nothing is downloaded. Another version of Python has other
texts, so numbers are compared within one run of an experiment, not across machines.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from pedigree.tokenizers.companions import written
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions
from pedigree.tokenizers.training import train as train_tokenizer
from pedigree.training.config import SourceConfig
from pedigree.training.shards import Vocabulary
from pedigree.training.sources import excerpt, files

HELD_OUT = 0.03
LEAST_DOCSTRING = 80  # characters; shorter ones are names of arguments more often than sentences
SMALLEST = 257  # ids that a byte-level vocabulary needs: the bytes and the separator
_TOKENIZER_TEXT = 3_000_000  # characters of each corpus


def documentation(place: Path) -> SourceConfig:
    """English prose: the language reference that `help()` prints, and the docstrings of the standard library.

    Args:
        place: where the files are written, once.
    """
    folder = place / "corpora" / "documentation"
    if not (folder / "whole").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(_prose()):
            (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
        (folder / "whole").touch()
    return SourceConfig(kind="text", path=str(folder), domain="documentation", held_out=HELD_OUT)


def code() -> SourceConfig:
    """Sources of the standard library."""
    return SourceConfig(kind="python-stdlib", domain="code", held_out=HELD_OUT, max_documents=200)


def sums() -> SourceConfig:
    """Sums in four languages."""
    return SourceConfig(kind="arithmetic", domain="sums", held_out=HELD_OUT, max_documents=20_000)


def vocabulary(place: Path, sources: tuple[SourceConfig, ...], size: int) -> Vocabulary:
    """A byte-level BPE tokenizer of at most `size` ids, trained on the sources and kept."""
    size = max(size, SMALLEST)
    folder = place / "tokenizers" / "-".join([*(source.domain for source in sources), str(size)])
    path = folder / "tokenizer.json"
    if not path.is_file():
        texts = [Text(s.domain, tuple(excerpt(s, _TOKENIZER_TEXT)), "document", s.domain) for s in sources]
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{os.getpid()}"
        hidden.write_text(written(train_tokenizer(texts, TrainingOptions(size=size)).definition), encoding="utf-8")
        hidden.replace(path)
    return Vocabulary.load(path)


def _prose() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    for path in files(SourceConfig(kind="python-stdlib")):
        found = docstrings(path.read_text(encoding="utf-8", errors="replace"))
        if found:
            yield "\n\n".join(found) + "\n"


def docstrings(source: str) -> list[str]:
    """The longer docstrings of a module, in the order of the text; none of a text that is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    places = sorted((node for node in ast.walk(tree) if isinstance(node, kinds)), key=lambda n: getattr(n, "lineno", 0))
    found = [ast.get_docstring(node) for node in places]
    return [text for text in found if text and len(text) >= LEAST_DOCSTRING]
