"""What every export tells of a model: its files, its ancestors, data, people, licenses, and where its record stands.

One reading of the ledger serves the bill of materials, the model card and the rules of a policy, so that they agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pedigree.ledger.credits import Credit, behind, credits_of
from pedigree.ledger.edges import name_of
from pedigree.ledger.entry import Entry
from pedigree.ledger.life import Life, life_of
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.statement import MATERIALS
from pedigree.ledger.verification import Verification
from pedigree.records.artifact import FileDigest

_HUB = re.compile(r"(?:hf://|https://huggingface\.co/)([\w.-]+/[\w.-]+)(?:/tree/([\w.-]+)|@([\w.-]+))?/?")
DOCUMENT = "document"
"""The operation that changes what is written beside weights, and nothing else."""
_TRAINED = ("train", "pretrain", "finetune", "distill", "recorded")


@dataclass(frozen=True)
class Ancestor:
    """An artifact behind the model.

    `origin` is what was said of where it came from, "" for what was made here; `direct` is whether it is a parent.
    """

    digest: str
    name: str
    role: str
    operation: str
    entry: int | None
    origin: str = ""
    license: str = ""
    imported: bool = False
    direct: bool = False

    @property
    def hub(self) -> str:
        """`owner/name`, where it came from the Hub."""
        return hub_name(self.origin)


@dataclass(frozen=True)
class Dataset:
    """Texts that something behind the model was trained on, by the digest that the ledger holds."""

    digest: str
    name: str
    hub: str = ""


@dataclass
class Passport:
    """The facts; see the module.

    `family` and `architecture` are what config.json calls it.
    `described` is `digest`, or what it was before nothing but its card was written: the two hold the same weights.
    `imported` says that it came from elsewhere, `origin` from where, as was told.
    `relation` is one of the words of the Hub (adapter, merge, quantized, finetune), "" where none of them fits.
    """

    digest: str
    name: str
    life: Life
    ledger: str
    size: int
    entry: int | None = None
    operation: str = ""
    operators: tuple[str, ...] = ()
    ancestors: list[Ancestor] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    credits: list[Credit] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    files: Sequence[FileDigest] = ()
    family: str = ""
    architecture: str = ""
    license: str = ""
    makers: list[Entry] = field(default_factory=list)
    described: str = ""
    imported: bool = False
    origin: str = ""

    @property
    def parents(self) -> list[Ancestor]:
        """The ancestors that it was made from directly."""
        return [item for item in self.ancestors if item.direct]

    @property
    def from_scratch(self) -> bool:
        """Whether no weights from elsewhere are behind it, as far as is recorded."""
        if self.entry is None or self.imported:
            return False
        return not any(item.imported or item.entry is None for item in self.ancestors)

    @property
    def relation(self) -> str:
        """How the Hub would call it."""
        names = {name.partition(".")[0] for name in self.operators}
        if "merge" in names or len(self.parents) > 1:
            return "merge"
        if "quantize" in names:
            return "quantized"
        return "finetune" if self.operation in _TRAINED and self.parents else ""

    @property
    def base_models(self) -> list[str]:
        """The nearest ancestors that have a name on the Hub."""
        return list(dict.fromkeys(item.hub for item in self.ancestors if item.hub))


def passport_of(
    report: Verification,
    digest: str,
    *,
    files: Sequence[FileDigest] = (),
    config: Mapping[str, Any] | None = None,
    license_: str = "",
    names: Mapping[str, str] | None = None,
) -> Passport:
    """Gather what is known of an artifact.

    Args:
        report: a verification that has its entries.
        digest: 64 digits of its id.
        files: its files.
        config: its config.json.
        license_: as somebody wrote it into its card.
        names: of people by id; they are in the ledger alone, beside the tree.
    """
    graph, by_index = Lineage.of_entries(report.entries), {entry.index: entry for entry in report.entries}
    life = life_of(report, digest)
    made = Passport(digest, life.name, life, report.origin, report.size, names=dict(names or {}))
    made.files, made.license = files, license_
    told = config or {}
    architectures = told.get("architectures")
    made.family = _clean(told.get("model_type"))
    made.architecture = _clean(architectures[0]) if isinstance(architectures, list) and architectures else ""
    made.described = undocumented(graph, by_index, digest)
    made.entry = graph.maker(made.described)
    if made.entry is not None:
        own = by_index.get(made.entry)
        made.imported = graph.leaves[made.entry].kind == "artifact.import"
        if own is not None and own.said is not None:
            made.operation = own.said.operation or ""
            made.operators, made.origin = _operators(own.facts), _text(own.facts, "origin")
            made.license = made.license or _text(own.facts, "license")
    made.ancestors = _ancestors(graph, by_index, made.described)
    made.makers = [
        by_index[index] for index in graph.closure(digest)
        if index in by_index and by_index[index].leaf.kind in ("derive", "artifact.import")
    ]  # fmt: skip
    made.datasets = _datasets([by_index[index] for index in graph.closure(digest) if index in by_index])
    made.credits = credits_of(behind(report.entries, graph, digest))
    return made


def undocumented(graph: Lineage, by_index: Mapping[int, Entry], digest: str) -> str:
    """The artifact that others were made from by writing into their card alone, back to the first of them."""
    for _ in range(10_000):
        entry = by_index.get(-1 if (at := graph.maker(digest)) is None else at)
        if entry is None or entry.said is None or entry.said.operation != DOCUMENT or not entry.said.parents:
            return digest
        digest = entry.said.parents[0].digest
    return digest


def _clean(value: Any) -> str:
    """A text of a stranger's file that can be written as UTF-8; of anything else nothing."""
    return value[:200].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def hub_name(origin: str) -> str:
    """`owner/name` of a place on the Hub, "" of any other."""
    match = _HUB.fullmatch(origin.strip())
    return match[1] if match else ""


def _ancestors(graph: Lineage, by_index: Mapping[int, Entry], digest: str) -> list[Ancestor]:
    """Every artifact of weights behind one, nearest first."""
    found: dict[str, Ancestor] = {}
    waiting, depth = [digest], 0
    while waiting and depth < 1000:
        following = []
        for child in waiting:
            for index in graph.makers.get(child, ()):
                entry = by_index.get(index)
                for parent in entry.said.parents if entry is not None and entry.said is not None else ():
                    if parent.role in MATERIALS:
                        continue
                    own = undocumented(graph, by_index, parent.digest)
                    if own in found or own == digest:
                        continue
                    operation = (entry.said.operation or "") if entry is not None and entry.said is not None else ""
                    at = graph.maker(own)
                    maker = by_index.get(at) if at is not None else None
                    found[own] = _ancestor(own, parent.name, parent.role, operation, maker, depth)
                    following.append(own)
        waiting, depth = following, depth + 1
    return list(found.values())


def _ancestor(digest: str, name: str, role: str, operation: str, maker: Entry | None, depth: int) -> Ancestor:
    facts = maker.facts if maker is not None else {}
    return Ancestor(
        digest, name or (name_of(maker) if maker else "") or digest[:12], role, operation,
        maker.index if maker is not None else None, _text(facts, "origin"), _text(facts, "license"),
        imported=maker is not None and maker.leaf.kind == "artifact.import", direct=depth == 0,
    )  # fmt: skip


def _datasets(entries: Sequence[Entry]) -> list[Dataset]:
    found: dict[str, Dataset] = {}
    for entry in entries:
        hubs = {}
        corpora = entry.facts.get("corpora")
        for item in corpora if isinstance(corpora, list) else ():
            source = item.get("source") if isinstance(item, Mapping) else None
            if isinstance(source, Mapping) and source.get("kind") == "hf":
                hubs[str(item.get("digest") or "").removeprefix("sha256:")] = str(source.get("path") or "")
        for parent in entry.said.parents if entry.said is not None else ():
            if parent.role == "dataset":
                hub = hubs.get(parent.digest, "") or hub_name(parent.name)
                found.setdefault(parent.digest, Dataset(parent.digest, parent.name or parent.digest[:12], hub))
    return list(found.values())


def _operators(facts: Mapping[str, Any]) -> tuple[str, ...]:
    listed = facts.get("operators")
    names = [item.get("operator") if isinstance(item, Mapping) else item for item in listed or ()] if isinstance(
        listed, list
    ) else []  # fmt: skip
    return tuple(str(name) for name in names if name)


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return value if isinstance(value, str) else ""
