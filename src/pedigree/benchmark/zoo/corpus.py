"""Text for the zoo: the sources of the Python that runs it.

Always there, never downloaded, large enough (about ten million characters) for models of this size. Files are
dealt into parts by a digest of their relative path, so the parts are disjoint and stable, and "other data" means
other files. A text directory of one's own may be added as the part "prose".

Law  the same Python release and the same arguments give the same tokens.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.errors import MissingInput, UsageError

if TYPE_CHECKING:
    import numpy as np

N_PARTS = 4
PROSE = "prose"
_SKIPPED = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "encodings",
    "lib2to3",
    "__pycache__",
    "turtledemo",
    "pydoc_data",
}


@dataclass(frozen=True)
class Corpus:
    """Where text comes from.

    Args:
        root: directory of `*.py` files; None means the standard library of the running Python.
        prose: directory of `*.txt` files offered as the part named "prose"; None means there is none.
    """

    root: Path | None = None
    prose: Path | None = None

    def text(self, part: int | str, max_chars: int) -> str:
        """The first `max_chars` characters of a part.

        Args:
            part: 0..3 for a quarter of the source files, "prose" for the text directory.
            max_chars: upper limit on the length.

        Raises:
            UsageError: no part of that name.
            MissingInput: the part holds no text.
        """
        pieces: list[str] = []
        n_chars = 0
        for path in self._files(part):
            piece = path.read_text(encoding="utf-8", errors="ignore")
            pieces.append(piece)
            n_chars += len(piece)
            if n_chars >= max_chars:
                break
        if not pieces:
            raise MissingInput(
                "the zoo found no text to train on",
                where=str(self.root or sysconfig.get_path("stdlib")),
                got=f"no file for part {part!r}",
                fix="pass Corpus(root=...) with a directory of *.py files",
            )
        return "\n".join(pieces)[:max_chars]

    def _files(self, part: int | str) -> list[Path]:
        if part == PROSE and self.prose is not None:
            return sorted(self.prose.rglob("*.txt"))
        if not isinstance(part, int) or not 0 <= part < N_PARTS:
            raise UsageError("no such part of the corpus", got=repr(part), expected=f"0..{N_PARTS - 1} or {PROSE!r}")
        root = self.root or Path(sysconfig.get_path("stdlib"))
        dealt: list[tuple[str, Path]] = []
        for path in root.rglob("*.py"):
            relative = path.relative_to(root)
            if _SKIPPED.isdisjoint(relative.parts):
                digest = hashlib.sha256(relative.as_posix().encode()).hexdigest()
                if int(digest[:8], 16) % N_PARTS == part:
                    dealt.append((digest, path))
        return [path for _, path in sorted(dealt)]


def train_tokenizer(text: str, vocab_size: int) -> str:
    """A byte-level BPE trained on `text`, as the text of a `tokenizer.json`.

    Ids 0 and 1 are the specials <|end|> and <|mask|>; a space belongs to the word that follows it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>", "<|mask|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return str(tokenizer.to_str())


def encode(tokenizer_json: str, text: str) -> np.ndarray:
    """Ids of `text`, one flat int64 array."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    chunks = [text[start : start + 20_000] for start in range(0, len(text), 20_000)]
    return np.concatenate([np.asarray(row.ids, dtype=np.int64) for row in tokenizer.encode_batch(chunks)])
