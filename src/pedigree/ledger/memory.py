"""What this verifier has seen before: of each ledger the newest good checkpoint and its root keys.

A history that was rewritten or rolled back after it was seen here does not meet it again (trust on first use). The
file lies outside of every project, in PEDIGREE_SEEN or the state folder of the user.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pedigree.errors import PedigreeError
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.strict_json import MAX_BYTES, strict_object

VARIABLE = "PEDIGREE_SEEN"


@dataclass(frozen=True)
class Remembered:
    """What is known of a ledger."""

    note: Checkpoint
    root_keys: tuple[str, ...]


class Memory:
    """Checkpoints seen before.

    Args:
        path: the file; by default that of the user.
    """

    def __init__(self, path: Path | None = None) -> None:
        named = os.environ.get(VARIABLE)
        state = os.environ.get("XDG_STATE_HOME") or str(Path(os.environ.get("HOME") or "/nowhere") / ".local" / "state")
        self.path = path or Path(named or Path(state) / "pedigree" / "ledgers.json")

    def recall(self, origin: str) -> Remembered | None:
        """What was seen of a ledger; None where it is new, or the file cannot be read."""
        try:
            with self.path.open("rb") as stream:
                known = strict_object(stream.read(MAX_BYTES + 1), str(self.path)).get(origin)
            if not isinstance(known, dict):
                return None
            return Remembered(Checkpoint.from_note(str(known["note"])), tuple(known["root_keys"]))
        except (OSError, PedigreeError, KeyError, TypeError):
            return None

    def remember(self, note: Checkpoint, root_keys: list[str]) -> bool:
        """Keep a checkpoint that was found good, where it is newer than the one kept; whether it could be written."""
        known = self.recall(note.origin)
        if known is not None and known.note.size >= note.size:
            return True
        try:
            content = {}
            if self.path.is_file():
                content = strict_object(self.path.read_bytes(), str(self.path))
            content[note.origin] = {"note": note.to_note(), "root_keys": root_keys}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.path)
        except (OSError, PedigreeError):
            return False
        return True
