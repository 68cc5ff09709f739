"""Comparisons of an audit, each made once and kept by the digests of both models, so that a second audit is quick.

A kept one counts while nothing has changed that a comparison depends on: the files of both models, the code and the
data of the comparison (`pedigree.forensics.revision`), the libraries it computes with, the option. What is kept is a
file for each pair, written whole or not at all: an audit that was interrupted goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.audit.places import Model, Tell
from pedigree.errors import PedigreeError
from pedigree.records.artifact import Manifest

if TYPE_CHECKING:
    from pedigree.forensics.pair import PairEvidence

FORMAT = 2  # another number forgets everything that was kept


@dataclass
class Pairs:
    """Pairs of models, compared when they are asked for.

    Attributes:
        models: by the digest under which claims know them.
        kept: folder of earlier comparisons; None: nothing is kept.
        allow_pickle: read torch files (weights only).
        tell: called with (stage, fraction, message).
        expected: how many pairs there will be about, for the share that is done.
        made, reused: how many were compared now, and before.
        failed: a sentence for each pair that could not be compared.
    """

    models: Mapping[str, Model]
    kept: Path | None
    allow_pickle: bool
    tell: Tell
    expected: int = 1
    made: int = 0
    reused: int = 0
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    _known: dict[tuple[str, str], PairEvidence | None] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """Pairs that were compared, now or before."""
        return self.made + self.reused

    def of(self, parent: str, child: str) -> PairEvidence | None:
        """The pair, None where one of the two is not at hand or the comparison failed."""
        key = (parent, child)
        if key not in self._known:
            self._known[key] = self._look(parent, child)
        return self._known[key]

    def apart(self, one: str, other: str) -> PairEvidence | None:
        """The pair for its distance alone, which has no direction: in whatever order it was compared already."""
        return self._known.get((other, one)) or self.of(one, other)

    def seen(self, parent: str, child: str) -> PairEvidence | None:
        """The pair where it was compared already, None elsewhere."""
        return self._known.get((parent, child))

    def _look(self, parent: str, child: str) -> PairEvidence | None:
        from pedigree.forensics.pair import look_at_pair

        a, b = self.models.get(parent), self.models.get(child)
        if a is None or b is None:
            return None
        file = self._file(a, b)
        found = _read(file)
        if found is not None:
            self.reused += 1
            return found
        self.tell("comparing", min(0.99, self.compared / max(1, self.expected)), f"{a.name} and {b.name}")
        try:
            found = look_at_pair(a.folder, b.folder, allow_pickle=self.allow_pickle)
        except PedigreeError as error:
            self.failed[parent, child] = error.sentence()
            return None
        self.made += 1
        plain = json.dumps(found.to_dict())
        _write(file, plain)
        return type(found).from_dict(json.loads(plain))  # as a later audit will read it, to the last digit

    def _file(self, a: Model, b: Model) -> Path | None:
        """Where the pair is kept: named by what lies on disk, not by what is claimed to, and by what measures it."""
        if self.kept is None:
            return None
        from pedigree.forensics.revision import revision

        words = f"{FORMAT} {revision()} {self.allow_pickle} {_measured(a)} {_measured(b)}"
        return self.kept / f"{hashlib.sha256(words.encode()).hexdigest()[:40]}.json"


def _measured(model: Model) -> str:
    """Digest of all that a comparison may read of a model: every file but pages of text."""
    files = [file for file in model.found.artifact.manifest.files if not file.path.endswith(".md")]
    return Manifest.of(files).artifact_id


def _read(file: Path | None) -> PairEvidence | None:
    """A kept pair; None where there is none, or what lies there is something else."""
    from pydantic import ValidationError

    from pedigree.forensics.pair import PairEvidence

    if file is None or not file.is_file():
        return None
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        return PairEvidence.from_dict(plain)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return None


def _write(file: Path | None, text: str) -> None:
    """Keep a pair; a full disk only means that it is compared again next time."""
    if file is None:
        return
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
