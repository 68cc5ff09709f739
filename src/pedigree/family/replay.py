"""Surgery done again: from the recorded recipe and inputs of the recorded digests, held against the recorded result.

entry -> recipe, inputs by digest -> the engine, in a temporary folder -> tensors and files against the record

REPLAYED      every tensor and file has the recorded digest; or, where another torch or processor did it, values that
              differ by no more than rounding
CONTRADICTED  something else comes out; the first tensor that differs is named
DECLARED      it could not be done again, and why
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pedigree.errors import MissingInput, PedigreeError
from pedigree.ledger.directory import registered_manifest
from pedigree.ledger.edges import name_of
from pedigree.ledger.entry import Entry
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.passport import undocumented
from pedigree.ledger.statement import MATERIALS, hex_digest
from pedigree.ledger.store import Store
from pedigree.records.artifact import SIDECAR, Manifest

if TYPE_CHECKING:
    from pedigree.surgery.engine import Outcome
    from pedigree.surgery.recipe import SurgeryRecipe
    from pedigree.weights.checkpoint import Checkpoint

ROUNDING = 4.0  # units in the last place of the number type, at the largest value of a tensor
Progress = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Replayed:
    """What came of doing one step again; `tensor` is the first one that differs.

    `stretch` says that a part of it was done again and came out as recorded: the step as a whole stays DECLARED.
    """

    entry: int
    child: str
    child_name: str
    parents: tuple[str, ...]
    verdict: Literal["REPLAYED", "CONTRADICTED", "DECLARED"]
    why: str
    tensor: str | None = None
    stretch: bool = False

    @property
    def confirms(self) -> bool:
        """Whether what was done again came out as recorded."""
        return self.stretch or self.verdict == "REPLAYED"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass
class Places:
    """Where artifacts lie on this machine.

    Args:
        folders: directories to look in: themselves, and those directly below them that hold a config.json.
        same: the artifact that one is, but for what is written beside its weights.
    """

    folders: Sequence[Path]
    same: Callable[[str], str] = lambda digest: digest
    _known: dict[Path, str] = field(default_factory=dict)

    def find(self, digest: str, hints: Iterable[Path]) -> Path | None:
        """The directory that holds an artifact: every byte is hashed, a sidecar is not believed."""
        wanted = self.same(digest)
        return next((path for path in self._candidates(hints) if self.same(self._digest(path)) == wanted), None)

    def _candidates(self, hints: Iterable[Path]) -> Iterable[Path]:
        yield from (path for path in hints if path.exists())
        for folder in self.folders:
            yield folder
            yield from sorted(path.parent for path in folder.glob("*/config.json"))
            yield from sorted(path.parent for path in folder.glob("*/*/config.json"))

    def _digest(self, path: Path) -> str:
        from pedigree.weights.artifact import artifact_id

        if path not in self._known:
            try:
                self._known[path] = hex_digest(artifact_id(path))
            except PedigreeError:
                self._known[path] = ""
        return self._known[path]


@dataclass
class Replay:
    """The steps of a ledger, done again.

    Args:
        store: the ledger, which holds what was too large for a statement.
        entries: all entries, checked.
        folders: where inputs may lie, beside where the record says they lay.
    """

    store: Store
    entries: Sequence[Entry]
    folders: Sequence[Path] = ()
    progress: Progress | None = None

    def __post_init__(self) -> None:
        graph = Lineage.of_entries(self.entries)
        by_index = {entry.index: entry for entry in self.entries}
        self.places = Places(self.folders, lambda digest: undocumented(graph, by_index, digest))

    def steps(self, wanted: Iterable[int] | None = None) -> list[Replayed]:
        """Do every step again that surgery made, or those of some entries; oldest first."""
        chosen = None if wanted is None else set(wanted)
        return [
            self.step(entry) for entry in self.entries
            if entry.leaf.kind == "derive" and entry.said is not None and (chosen is None or entry.index in chosen)
            and entry.facts.get("trade") == "surgery" and entry.leaf.subjects
        ]  # fmt: skip

    def step(self, entry: Entry) -> Replayed:
        """Do one step again."""
        parents = tuple(
            item.digest for item in (entry.said.parents if entry.said else ()) if item.role not in MATERIALS
        )
        told = (entry.index, entry.leaf.subjects[0], name_of(entry), parents)
        try:
            facts = self._whole(entry.facts)
            if not isinstance(facts.get("replay"), str):
                return Replayed(*told, "DECLARED", "its recipe was recorded before every digit of it was kept")
            with tempfile.TemporaryDirectory(prefix="pedigree-replay-") as name:
                return self._compared(entry, facts, parents, Path(name), told)
        except PedigreeError as error:
            return Replayed(*told, "DECLARED", f"it cannot be done again here: {error.sentence()}"[:300])
        except OSError as error:
            return Replayed(*told, "DECLARED", f"it cannot be done again here: {error.strerror or error}"[:300])

    def _compared(
        self, entry: Entry, facts: Mapping[str, Any], parents: tuple[str, ...], folder: Path,
        told: tuple[int, str, str, tuple[str, ...]],
    ) -> Replayed:  # fmt: skip
        from pedigree.surgery.recipe import SurgeryRecipe
        from pedigree.weights.artifact import read_artifact

        recipe = SurgeryRecipe.from_exact_json(str(facts["replay"]), folder / "replayed")
        found, missing = self._inputs(facts, parents)
        if missing:
            return Replayed(*told, "DECLARED", f"an input is not here: {', '.join(missing[:3])}"[:300])
        outcome = self._run(recipe, found)
        recorded = facts["output"]["tensors"] if isinstance(facts.get("output"), dict) else {}
        tensor = _first_difference(recorded, outcome.digests)
        if tensor is None:
            manifest = registered_manifest(self.store, told[1])
            changed = _changed_files(manifest, read_artifact(outcome.target).manifest)
            if not changed:
                return Replayed(*told, "REPLAYED", f"done again, {len(outcome.digests)} tensors bit for bit")
            return Replayed(*told, "CONTRADICTED", f"done again, and {changed[0]} is another file")
        return self._judged(facts, outcome, tensor, told)

    def _judged(
        self, facts: Mapping[str, Any], outcome: Outcome, tensor: str, told: tuple[int, str, str, tuple[str, ...]]
    ) -> Replayed:
        """Other bits: a contradiction where nothing that decides them has changed, rounding where something has."""
        from pedigree.surgery.engine import made_with

        before, now = facts.get("made_with"), made_with()
        if before == now:
            return Replayed(*told, "CONTRADICTED", f"done again, and {tensor} has other bits", tensor)
        with_what = ", ".join(f"{key} {before.get(key)}" for key in now if before.get(key) != now[key]) if isinstance(
            before, dict
        ) else "something that was not recorded"  # fmt: skip
        location = facts["output"].get("location")
        there = self.places.find(told[1], [Path(str(location))] if location else [])
        if there is None:
            why = f"other bits than with {with_what}; the result is not here, so that values cannot be compared"
            return Replayed(*told, "DECLARED", why, tensor)
        worst, name = _largest_difference(there, outcome.target)
        if worst <= ROUNDING:
            return Replayed(
                *told, "REPLAYED", f"done again within {worst:.2g} units of rounding; made with {with_what}"
            )
        return Replayed(*told, "CONTRADICTED", f"done again, and {name} differs by {worst:.2g} units of rounding", name)

    def _whole(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Facts with what was too large for the statement and is kept beside the tree."""
        found = dict(facts)
        for name, value in facts.items():
            digest = value.get("attached") if isinstance(value, dict) else None
            if isinstance(digest, str):
                content = self.store.bodies([hex_digest(digest)]).get(hex_digest(digest))
                if content is not None:
                    found[name] = json.loads(content).get(name)
        return found

    def _inputs(self, facts: Mapping[str, Any], parents: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
        """Where each place of the recipe is found now, by digest, and the places that are not."""
        inputs, named = facts.get("inputs"), facts.get("input_digests")
        places = [str(place) for place in inputs] if isinstance(inputs, dict) else []
        digests = {str(Path(place)): str(digest) for place, digest in named.items()} if isinstance(named, dict) else {}
        if not digests and len(places) == len(parents) == 1:
            digests = {str(Path(places[0])): parents[0]}
        found: dict[str, Path] = {}
        missing = []
        for place in places:
            digest = digests.get(str(Path(place)))
            # What the statement names as a parent is signed in the leaf as well; nothing else is opened.
            path = self.places.find(digest, [Path(place)]) if digest in parents and digest is not None else None
            if path is None:
                missing.append(place)
            else:
                found[place] = path
        return found, missing + self._adapters(facts, digests, parents)

    def _adapters(
        self, facts: Mapping[str, Any], digests: Mapping[str, str], parents: tuple[str, ...]
    ) -> list[str]:  # fmt: skip
        """The adapters of a step that do not lie where the recipe reads them, as they were named and signed."""
        operators = facts.get("operators")
        read = [
            str(item["parameters"]["adapter"]) for item in (operators if isinstance(operators, list) else ())
            if isinstance(item, dict) and item.get("operator") == "lora.merge"
        ]  # fmt: skip
        missing = []
        for place in read:
            digest = digests.get(str(Path(place)))
            if digest not in parents or digest is None or self.places.find(digest, [Path(place)]) != Path(place):
                missing.append(place)
        return missing

    def _run(self, recipe: SurgeryRecipe, found: Mapping[str, Path]) -> Outcome:
        from pedigree.records.recorder import NullRecorder
        from pedigree.surgery.composition import compose
        from pedigree.surgery.engine import run
        from pedigree.surgery.plan import make_plan
        from pedigree.weights.checkpoint import open_checkpoint

        def opened(place: str, pickle: bool) -> Checkpoint:
            # A record is written by whoever: it opens nothing but the inputs it names by digest, and no pickle.
            if place not in found:
                raise MissingInput("a recorded recipe reads what it does not name", where=place)
            return open_checkpoint(str(found[place]))

        composition = compose(recipe, opened)
        try:
            return run(make_plan(composition), NullRecorder(), progress=self.progress)
        finally:
            composition.close()


def _first_difference(recorded: Mapping[str, Any], now: Mapping[str, str]) -> str | None:
    """The first tensor that has another digest, or is on one side alone; shared ones are compared as files."""
    for name in sorted(recorded.keys() | now.keys()):
        about = recorded.get(name)
        before = about.get("blake3") if isinstance(about, dict) else None
        if name not in recorded or (before is not None and before != now.get(name)):
            return name
    return None


def _changed_files(before: Manifest | None, now: Manifest) -> list[str]:
    """Files that are not as they were recorded; without a kept manifest nothing is said of them."""
    if before is None:
        return []
    old, new = ({f.path: f.sha256 for f in manifest.files if f.path != SIDECAR} for manifest in (before, now))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _largest_difference(a: Path, b: Path) -> tuple[float, str]:
    """The largest difference of two results, in units of rounding at the largest value of its tensor; and where."""
    import torch

    from pedigree.weights.checkpoint import open_checkpoint

    worst, name = 0.0, ""
    with open_checkpoint(str(a)) as old, open_checkpoint(str(b)) as new:
        for key in sorted(old.tensors.keys() | new.tensors.keys()):
            if key not in old.tensors or key not in new.tensors:
                return float("inf"), key
            x, y = old.read(key), new.read(key)
            if x.shape != y.shape or x.dtype != y.dtype:
                return float("inf"), key
            if not x.dtype.is_floating_point:
                if not torch.equal(x, y):
                    return float("inf"), key
                continue
            unit = torch.finfo(x.dtype).eps * max(float(x.double().abs().max()), 1e-30) if x.numel() else 1.0
            far = float((x.double() - y.double()).abs().max()) / unit if x.numel() else 0.0
            if not far <= worst:
                worst, name = far, key
    return worst, name
