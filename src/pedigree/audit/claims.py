"""What is said of models: by entries of a ledger, by the records of families, by model cards.

A claim is made once for each maker: `edges` are its parents, or its random start. Names are hints; a claim of the
ledger names digests, that of a card or a family names models, which are looked for among those at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pedigree.audit.places import Model
from pedigree.ledger.card import card_claims
from pedigree.ledger.entry import Entry
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.verdict import Edge
from pedigree.ledger.verification import Verification
from pedigree.records.audit import Source

FAMILY_FILE = "family.json"
ADAPTER = "adapter"  # role of a parent that is added to weights
MAX_FAMILY = 64 << 20  # bytes


@dataclass(frozen=True)
class Claim:
    """What one maker says of one model.

    Attributes:
        child: digest of the model.
        source: who says it.
        operation: what was done, in the word of the record.
        edges: one for each parent; one without a parent for a random start or an origin outside.
        operators: names of the surgery operators, in order.
        modes: what their `op` is, where they have one.
        through: digests of what stands behind adapters that were merged in: they had a part, and are named.
        settings: of the training, as the start of its run recorded them.
        parameters: what the entry says of the operation.
        states: sha256 of `state.json` of every state that its run saved, by step.
        order: place in the log or in the family; a later model cannot be the parent of an earlier one. None: unknown.
        entry: index in the log.
    """

    child: str
    source: Source
    operation: str
    edges: tuple[Edge, ...]
    operators: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[int, str] = field(default_factory=dict)
    order: int | None = None
    entry: int | None = None
    modes: tuple[str, ...] = ()
    through: frozenset[str] = frozenset()

    @property
    def parents(self) -> list[str]:
        """Digests of the parents that are named by one."""
        return [edge.parent for edge in self.edges if edge.parent]

    @property
    def from_nothing(self) -> bool:
        """Whether it is said to begin with random weights."""
        return any(edge.role == "start" for edge in self.edges)

    @property
    def origin_outside(self) -> bool:
        """Whether it only says that the model came from elsewhere."""
        return all(edge.role == "origin" for edge in self.edges)

    @property
    def exact(self) -> bool:
        """Whether its parents are the last step before the model, rather than some ancestor."""
        return self.source == "ledger"


def ledger_claims(report: Verification, wanted: Iterable[str]) -> list[Claim]:
    """The claims of a ledger about some models and everything behind them, oldest first.

    Where the same model was made again from the same parents, the newest entry counts.
    """
    graph = Lineage.of_entries(report.entries)
    behind: set[int] = set()
    for digest in wanted:
        behind.update(graph.closure(digest))
    entries = {entry.index: entry for entry in report.entries}
    by_entry: dict[int, list[Edge]] = {}
    for edge in report.edges:
        if edge.entry in behind and not edge.operation.startswith("tokenizer") and not _is_no_model(edge):
            by_entry.setdefault(edge.entry, []).append(edge)
    newest: dict[tuple[str, tuple[str, ...]], int] = {}
    for index, edges in sorted(by_entry.items()):
        newest[edges[0].child, tuple(sorted(edge.parent for edge in edges))] = index
    # An import that only says "from elsewhere" is no claim about a model that was made here.
    made = {edges[0].child for edges in by_entry.values() if edges[0].role != "origin"}
    claims = [
        _of_entry(entries[index], by_entry[index], graph, entries)
        for index in sorted(newest.values())
        if not (by_entry[index][0].role == "origin" and by_entry[index][0].child in made)
    ]
    return [claim for claim in claims if "lora.extract" not in claim.operators]  # adapters are no models


def _is_no_model(edge: Edge) -> bool:
    """Texts of a tokenizer, and adapters: held against nothing, though what stands behind an adapter is known."""
    return edge.role == ADAPTER or (edge.role == "start" and edge.parent_name == "texts")


def _of_entry(entry: Entry, edges: Sequence[Edge], graph: Lineage, entries: Mapping[int, Entry]) -> Claim:
    facts = entry.facts
    listed = facts.get("operators")
    made_by = [
        item
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, Mapping) and item.get("operator")
    ]
    operators = tuple(str(item["operator"]) for item in made_by)
    given = [item.get("parameters") for item in made_by]
    modes = tuple(str(item["op"]) for item in given if isinstance(item, Mapping) and item.get("op"))
    parameters = facts.get("parameters")
    settings: Mapping[str, Any] = {}
    for index in graph.runs.get(entry.leaf.run or "", ()):
        told = entries[index].facts.get("settings") if entries[index].leaf.kind == "run.start" else None
        if isinstance(told, Mapping):
            settings = told
    states = {}
    for index in graph.runs.get(entry.leaf.run or "", ()):
        leaf, step = entries[index].leaf, str(entries[index].facts.get("step"))
        if leaf.kind == "ckpt.save" and leaf.subjects and step.isdecimal() and entries[index].said is not None:
            states[int(step)] = leaf.subjects[0]
    first = min((index for index in graph.makers.get(edges[0].child, ())), default=entry.index)
    return Claim(
        edges[0].child, "ledger", edges[0].operation, tuple(edges), operators, settings,
        parameters if isinstance(parameters, Mapping) else {}, states, first, entry.index, modes,
        _through_adapters(entry, graph),
    )  # fmt: skip


def _through_adapters(entry: Entry, graph: Lineage) -> frozenset[str]:
    """The artifacts that adapters of an entry were made of, and everything behind those."""
    added = [parent.digest for parent in entry.said.parents if parent.role == ADAPTER] if entry.said else []
    return frozenset(
        parent for digest in added for index in graph.closure(digest) for parent in graph.leaves[index].parents
    )


def card_claim(model: Model, at_hand: Sequence[Model]) -> Claim | None:
    """What the model card in the folder of a model says of its parents; None where it says nothing."""
    claims = card_claims(model.folder) if model.folder.is_dir() else []
    if not claims:
        return None
    edges = []
    for claim in claims:
        parent = _named(claim["name"], model, at_hand)
        why = "a model card says so" if parent else "a model card says so, and no model of this name is at hand"
        edges.append(
            Edge(model.digest, model.name, parent, claim["name"], "card", claim["relation"], -1, "UNKNOWN", why)
        )
    return Claim(model.digest, "card", edges[0].operation, tuple(edges))


def _named(name: str, model: Model, at_hand: Sequence[Model]) -> str:
    """Digest of the one model at hand whose folder is called so, "" where there is none or several."""
    last = name.rstrip("/").rsplit("/", maxsplit=1)[-1].lower()
    found = {other.digest for other in at_hand if other.digest != model.digest and last in _names(other)}
    return found.pop() if len(found) == 1 else ""


def _names(model: Model) -> set[str]:
    return {model.name.lower(), model.folder.absolute().name.lower()}


def family_claims(place: Path, at_hand: Sequence[Model]) -> list[Claim]:
    """What the record of a family, `family.json`, says that its models descend from.

    A record that cannot be read says nothing.
    """
    from pydantic import ValidationError

    from pedigree.records.family_run import FamilyRun

    path = place / FAMILY_FILE
    if not path.is_file():
        return []
    try:
        with path.open("rb") as stream:
            members = FamilyRun.model_validate_json(stream.read(MAX_FAMILY)).result.members
    except (OSError, ValidationError):
        return []
    digests = {
        model.name: model.digest for model in at_hand if model.folder.absolute().is_relative_to(place.absolute())
    }
    claims = []
    for order, member in enumerate(members):
        child = digests.get(member.name)
        if child is None or member.claims is None:
            continue
        edges = [
            Edge(
                child, member.name, digests.get(parent, ""), parent, "said", "descends", -1, "UNKNOWN",
                "the record of the family says so",
            )
            for parent in member.claims
        ] or [
            Edge(
                child, member.name, "", "random weights", "start", "train", -1, "UNKNOWN",
                "the record of the family says so",
            )
        ]  # fmt: skip
        claims.append(Claim(child, "family", edges[0].operation, tuple(edges), order=None, parameters={"at": order}))
    return claims
