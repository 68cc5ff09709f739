"""A small project with a ledger, and the means of somebody who has the database, and some of the keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pedigree.ledger.keys import PrivateKey
from pedigree.ledger.log import Ledger, LedgerPlace
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.registration import register
from pedigree.ledger.run_id import new_run_id
from pedigree.ledger.statement import MANIFEST, Draft, Parent, Subject, hex_digest
from pedigree.ledger.store import Store
from pedigree.ledger.verification import Verification, verify
from pedigree.weights.artifact import read_artifact


@dataclass
class Project:
    """Artifacts by name, and the ledger that knows them."""

    folder: Path
    ledger: Ledger
    ids: dict[str, str] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    actors: tuple[dict[str, str], ...] = ({"id": "person:one", "role": "operator"},)

    @classmethod
    def start(cls, folder: Path) -> Project:
        """A project with its genesis."""
        return cls(folder, Ledger(LedgerPlace.find(str(folder / "ledger.db"))))

    def weights(self, name: str, content: str) -> Path:
        """A directory with a weight file and a config."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        (place / "model.safetensors").write_text(content)
        (place / "config.json").write_text(json.dumps({"name": name}))
        return place

    def make(
        self, name: str, *parents: str, operation: str = "train", run: str | None = None, role: str = "init",
        keys: list[PrivateKey] | None = None, **parameters: Any,
    ) -> Path:  # fmt: skip
        """Weights, and the entry that says how they were made."""
        place = self.weights(name, f"weights of {name}")
        artifact = read_artifact(place)
        self.ids[name] = hex_digest(artifact.id)
        draft = Draft(
            "derive", {"name": name, "parameters": parameters, "actors": list(self.actors)}, run,
            (Subject(MANIFEST, self.ids[name]),),
            tuple(Parent(self.ids.get(parent, parent), role, parent) for parent in parents), operation,
        )  # fmt: skip
        receipt = self.ledger.append(draft.with_attachment(artifact.manifest.to_bytes()), keys)
        self.entries[name] = receipt.index
        return place

    def take_in(self, name: str, origin: str = "hf://owner/name") -> Path:
        """Weights from elsewhere."""
        place = self.weights(name, f"weights of {name}")
        artifact = read_artifact(place)
        self.ids[name] = hex_digest(artifact.id)
        self.entries[name] = register(self.ledger, artifact, origin=origin, actors=self.actors).index
        return place

    def run(self, name: str, *parents: str, steps: int = 3, **start: Any) -> Path:
        """A whole training run."""
        run = new_run_id()
        self.ledger.append(
            Draft("run.start", {"name": name, "step": 0, **start}, run, parents=(Parent("d" * 64, "dataset", "texts"),))
        )
        for step in range(1, steps + 1):
            self.ledger.append(Draft("run.beat", {"step": step, "tokens": 10 * step}, run))
        state = Subject("state.json", hex_digest("sha256:" + f"{hash(name) & 0xFFFF:064x}"))
        self.ledger.append(Draft("ckpt.save", {"step": steps, "tokens": 10 * steps, "name": name}, run, (state,)))
        self.ledger.append(Draft("run.end", {"outcome": "finished", "step": steps}, run))
        return self.make(name, *parents, run=run, tokens=10 * steps)

    @property
    def note(self) -> Checkpoint:
        """The newest checkpoint: what somebody keeps elsewhere."""
        return Checkpoint.from_note(self.ledger.store.head().note)

    def verify(self, *outside: Checkpoint, **options: Any) -> Verification:
        """Check the ledger as it lies there."""
        return verify(Store(self.ledger.database), outside, **options)

    def verdict(self, name: str, *outside: Checkpoint) -> str:
        """The verdict on the edges of one artifact."""
        edges = [edge for edge in self.verify(*outside).edges if edge.child == self.ids[name]]
        assert edges, f"{name} has no edge"
        return " ".join(sorted({edge.verdict for edge in edges}))

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """The file under the ledger, with nothing in the way."""
        connection = sqlite3.connect(self.ledger.place.database)
        for verb in ("update", "delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS keep_{verb}")
        yield connection
        connection.commit()
        connection.close()

    def write_anew(self, change: Any, upto: int | None = None) -> None:
        """Write the whole history again from changed leaves, with the keys of the project: an insider's work.

        Args:
            change: called with index and leaf; the leaf to write instead.
            upto: entries to keep.
        """
        rows = [(row.index, row.leaf) for row in self.ledger.store.rows()][:upto]
        with self.database() as connection:
            for table in ("entry", "node", "head"):
                connection.execute(f"DELETE FROM ledger_{table}")
        store, origin = self.ledger.store, self.note_origin
        for index, leaf in rows:
            with self.ledger.database.write():
                size, root = store.add(store.head(), change(index, leaf), None)
                store.put_head(Checkpoint(origin, size, root).signed([self.ledger.key("log")]))

    @property
    def note_origin(self) -> str:
        """The name of the log."""
        return self._origin

    def __post_init__(self) -> None:
        self._origin = self.ledger.origin


def words(report: Verification) -> set[str]:
    """The words of all problems."""
    return {problem.word for problem in report.problems}
