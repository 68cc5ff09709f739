"""The recorder that writes a ledger: told of everything by training and surgery, never in their way.

    event -> line in a file (at once) -> queue -> one thread: digests, statement, ledger

Laws
1. What is told is first a line of `JsonlRecorder`: where the ledger cannot be written, the events are there. It is in
   the file when a call returns, and the thread forces it to disk: a save does not wait for the disk behind it.
2. A start is in the ledger before `run_start` returns, but for a ledger that does not answer within `PATIENCE`.
3. Files are hashed in the thread; a state is named by its `state.json`, which holds the digests of all its files.
4. What signs and stores is loaded in the thread: the one who works waits for the place of the ledger alone.
5. Nothing that goes wrong here reaches the caller. It is kept in `failures`, and in the ledger when it answers again.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.errors import PedigreeError
from pedigree.ledger.collector import uncollected
from pedigree.ledger.materials import Material, as_materials, named_parents, outputs_of
from pedigree.ledger.place import LedgerPlace
from pedigree.ledger.repository import code_at
from pedigree.ledger.run_id import new_run_id
from pedigree.ledger.sidecar import read_sidecar, write_sidecar
from pedigree.ledger.statement import MANIFEST, MATERIALS, Draft, Parent, Subject, hex_digest
from pedigree.ledger.surroundings import surroundings
from pedigree.records.canonical import hashed_bytes
from pedigree.records.recorder import Facts, JsonlRecorder, Recorder

if TYPE_CHECKING:
    from pedigree.ledger.log import Ledger, Receipt

PATIENCE = 10.0  # seconds that a start waits for the ledger
LARGEST_FACTS = 32_000  # bytes of facts in a statement; more of them lie beside it, under their digest
_FAILURES = (PedigreeError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError)


@dataclass
class _Context:
    """What is found out once, in the thread."""

    ledger: Ledger
    actors: list[dict[str, str]]
    parents: list[Parent]
    code: dict[str, Any] | None
    surroundings: dict[str, Any]


@dataclass
class _State:
    """What the thread remembers of the run."""

    inputs: list[Parent] = field(default_factory=list)
    ended: bool = False
    receipts: int = 0
    untold: list[str] = field(default_factory=list)


class LedgerRecorder:
    """Records into a ledger, and into a file of lines beside the work.

    Args:
        place: the ledger; made on first use.
        spool: who is told first, at once.
        project: the folder whose code ran.
    """

    def __init__(self, place: LedgerPlace, spool: Recorder, project: Path | None = None) -> None:
        self.place, self.spool = place, spool
        self.run = new_run_id()
        self.failures: list[str] = []
        self.receipts: list[Receipt] = []
        self._project = project or Path.cwd()
        self._context: _Context | None = None
        self._state = _State()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="pedigree-ledger", daemon=True)
        self._thread.start()

    # -- told by the one who works --------------------------------------------------------------------------------

    @property
    def stamp(self) -> dict[str, Any]:
        """Where the record is: the file of lines, and the run in the ledger."""
        return {**self.spool.stamp, "run": self.run}

    def run_start(self, facts: Facts) -> None:
        """Write the event and wait until the ledger has it."""
        self._spool(self.spool.run_start, facts)
        done = threading.Event()
        self._put(lambda: self._start(facts), done.set)
        self._put(lambda: self._look_at_inputs(facts))
        done.wait(PATIENCE)

    def beat(self, facts: Facts) -> None:
        """Write the event."""
        self._spool(self.spool.beat, facts)
        self._put(lambda: self._append(Draft("run.beat", facts, self.run)))

    def checkpoint(self, facts: Facts) -> None:
        """Write the event; the state is looked at in the thread."""
        self._spool(self.spool.checkpoint, facts)
        self._put(lambda: self._checkpoint(facts))

    def decision(self, facts: Facts) -> None:
        """Write the event."""
        self._spool(self.spool.decision, facts)
        self._put(lambda: self._append(self._signed("run.decision", facts)))

    def derive(self, facts: Facts) -> None:
        """Write the event; inputs and outputs are hashed in the thread, and the outputs get their sidecar."""
        self._spool(self.spool.derive, facts)
        self._put(lambda: self._derive(facts))

    def run_end(self, facts: Facts) -> None:
        """Write the event."""
        self._spool(self.spool.run_end, facts)
        self._put(lambda: self._append(self._signed("run.end", facts)))

    def close(self) -> list[str]:
        """Wait until everything is in the ledger; what went wrong."""
        self._queue.put(None)
        self._thread.join()
        return self.failures

    # -- in the thread ------------------------------------------------------------------------------------------

    def _put(self, action: Callable[[], object], after: Callable[[], None] = lambda: None) -> None:
        def guarded() -> None:
            try:
                action()
            except _FAILURES as error:
                self._failed(error)
            finally:
                after()

        self._queue.put(guarded)

    def _failed(self, error: Exception) -> None:
        sentence = error.sentence() if isinstance(error, PedigreeError) else f"{type(error).__name__}: {error}"
        self.failures.append(sentence)
        self._state.untold.append(sentence)

    def _spool(self, tell: Callable[[Facts], None], facts: Facts) -> None:
        try:
            tell(facts)
        except (OSError, ValueError, TypeError) as error:
            self._failed(error)
        if isinstance(self.spool, JsonlRecorder) and not self.spool.at_once:
            self._put(self.spool.force)

    def _work(self) -> None:
        self._put_first_look()
        while (action := self._queue.get()) is not None:
            action()
        if self._context is not None:
            self._context.ledger.close()

    def _put_first_look(self) -> None:
        """Open the ledger before anything is told: it takes its time while the caller builds a model."""
        try:
            with uncollected():
                self._look()
                import pedigree.weights.artifact  # noqa: F401 - importing holds every thread; no save shall wait for it
        except _FAILURES as error:  # tried again with the first event, which keeps what went wrong
            self._state.untold.append(f"{type(error).__name__}: {error}")

    def _look(self) -> _Context:
        if self._context is None:
            # Loaded here, in the thread: what signs and stores is larger than all that the caller has to wait for.
            from pedigree.ledger.log import Ledger
            from pedigree.ledger.people import person_here

            ledger = Ledger(self.place)
            person = person_here(ledger.database, self._project)
            around, code = surroundings(), code_at(self._project)
            parents = [Parent(hex_digest(around["digest"]), "environment", "packages")]
            if code is not None:
                told = code.to_dict()
                digest = hashlib.sha256(hashed_bytes(told)).hexdigest()
                parents.append(Parent(digest, "code", code.commit or "uncommitted"))
            actors = [{"id": person.id, "role": "operator"}]
            self._context = _Context(ledger, actors, parents, code.to_dict() if code else None, around)
        return self._context

    def _append(self, draft: Draft) -> Receipt:
        ledger = self._look().ledger
        if self._state.untold:
            missed = Draft("exception", {"untold": self._state.untold[:20]}, self.run)
            ledger.append(missed)
            self._state.untold.clear()
        receipt = ledger.append(draft)
        self.receipts.append(receipt)
        return receipt

    def _signed(self, kind: str, facts: Facts, **more: Any) -> Draft:
        context = self._look()
        kept, attached = _slim({**facts, "actors": context.actors})
        return Draft(kind, kept, self.run, attachments=attached, **more)

    def _start(self, facts: Facts) -> None:
        context = self._look()
        inputs = as_materials(facts.get("inputs"))
        parents = [*context.parents, *named_parents(facts), *self._claimed(inputs)]
        resumed = facts.get("resumed_from")
        if resumed and (Path(str(resumed)) / "state.json").is_file():
            parents.append(Parent(_sha256(Path(str(resumed)) / "state.json"), "state", Path(str(resumed)).name))
        told = {**facts, "environment": context.surroundings, "code": context.code}
        self._append(self._signed("run.start", told, parents=tuple(parents)))
        self._state.inputs = [parent for parent in parents if parent.role not in ("state",)]

    def _claimed(self, inputs: Sequence[Material]) -> list[Parent]:
        """Inputs as their sidecars name them: to have something at the start; they are hashed afterwards."""
        found = []
        for material in inputs:
            claimed = material.digest
            if claimed is None and material.path is not None and material.path.is_dir():
                claimed = str(read_sidecar(material.path).get("artifact") or "")
            if claimed:
                found.append(Parent(hex_digest(claimed), material.role, material.name))
        return found

    def _look_at_inputs(self, facts: Facts) -> None:
        """Hash what was loaded; enter it where the ledger does not know it."""
        for material in as_materials(facts.get("inputs")):
            try:
                self._took(self._hashed(material))
            except _FAILURES as error:
                self._failed(error)

    def _took(self, parent: Parent) -> None:
        claimed = [known for known in self._state.inputs if known.name == parent.name and known.role == parent.role]
        others = [known for known in self._state.inputs if known not in claimed]
        if claimed != [parent]:
            self._append(self._signed("run.input", {"name": parent.name, "role": parent.role}, parents=(parent,)))
        self._state.inputs = [*others, parent]

    def _hashed(self, material: Material) -> Parent:
        """An input by its artifact id, registered as of unverified origin where nothing is known of it."""
        from pedigree.ledger.registration import register_unknown
        from pedigree.weights.artifact import artifact_id

        if material.path is None or not material.path.exists():
            return Parent(hex_digest(material.digest or ""), material.role, material.name)
        if material.role in MATERIALS:
            return Parent(hex_digest(artifact_id(material.path)), material.role, material.name)
        context = self._look()
        digest = register_unknown(context.ledger, material, context.actors, self.run)
        return Parent(digest, material.role, material.name)

    def _checkpoint(self, facts: Facts) -> None:
        folder = Path(str(facts.get("path", "")))
        state = folder / "state.json"
        for _ in range(600):  # with several ranks a state is put in place a little later
            if state.is_file():
                break
            time.sleep(0.1)
        subjects = (Subject("state.json", _sha256(state)),) if state.is_file() else ()
        more = {} if subjects else {"gap": "the state was gone before it could be looked at"}
        self._append(self._signed("ckpt.save", {**facts, **more, "name": folder.name}, subjects=subjects))

    def _derive(self, facts: Facts) -> None:
        from pedigree.weights.artifact import read_artifact

        context = self._look()
        inputs = as_materials(facts.get("inputs"))
        parents = [self._hashed(material) for material in inputs] or list(self._state.inputs)
        added = as_materials(facts.get("adapters"))
        parents += [self._hashed(material) for material in added]
        # Which input is which: two of one shape can be told apart by digest alone when the step is done again.
        named = zip([*inputs, *added], parents, strict=False) if inputs else ()
        lying = {str(item.path): parent.digest for item, parent in named if item.path}
        parents += [parent for parent in context.parents if parent not in parents]
        operation = str(facts.get("operation") or facts.get("trade") or "derive")
        for output in outputs_of(facts):
            artifact = read_artifact(output)
            subjects = [Subject(MANIFEST, hex_digest(artifact.id))]
            subjects += [Subject(file.path, file.sha256) for file in artifact.manifest.files][:64]
            # `model` is how the folder of weights below that of a step is called: the step has the name.
            name = output.parent.name if output.name == "model" else output.name
            told = {**facts, "name": facts.get("name") or name, **({"input_digests": lying} if lying else {})}
            told["parameters"] = facts.get("parameters") or {"operators": facts.get("operators") or operation}
            draft = self._signed("derive", told, subjects=tuple(subjects), parents=tuple(parents), operation=operation)
            receipt = self._append(draft.with_attachment(artifact.manifest.to_bytes()))
            if output.is_dir():
                write_sidecar(output, sidecar_fields(context.ledger.origin, artifact.id, receipt))


def sidecar_fields(origin: str, artifact: str, receipt: Receipt) -> dict[str, Any]:
    """What the sidecar of an artifact says of its record."""
    return {"artifact": artifact, "ledger": {"origin": origin, "index": receipt.index, "checkpoint": receipt.note}}


def _slim(facts: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Facts that fit into a statement; those that are too large are attached and named by their digest."""
    kept, attached = {}, []
    for name, value in facts.items():
        data = hashed_bytes({name: value})
        if len(data) > LARGEST_FACTS:
            attached.append(data)
            kept[name] = {"attached": "sha256:" + hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        else:
            kept[name] = value
    return kept, tuple(attached)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
