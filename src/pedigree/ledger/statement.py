"""What an event says, as an in-toto Statement v1; of operations on weights as SLSA provenance v1.

    operation   predicateType https://slsa.dev/provenance/v1, buildType urn:pedigree:operation:WORD:1
    the rest    predicateType urn:pedigree:event:1

The payload is canonical JSON (RFC 8785) with every number as text. `pedigree_seen` is the size and root of the tree
before the event: who signs it signs all that came before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from pedigree.errors import MalformedFile, UsageError
from pedigree.records.canonical import hashed_bytes

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
EVENT = "urn:pedigree:event:1"
OPERATION = "urn:pedigree:operation:{}:1"
BUILDER = "urn:pedigree:recorder:local:1"
MANIFEST = "manifest"  # name of the subject whose digest is an artifact id

# Events that nobody signs one by one; the next signed event covers them through the tree it has seen.
UNSIGNED = ("run.beat",)
# Kinds that make weights or take them in; each says so with an operation.
MAKING = ("ckpt.save", "derive", "artifact.import")
MATERIALS = ("dataset", "tokenizer", "code", "config", "environment", "recipe", "state")
"""Roles of parents that are no weights: they need no entry of their own."""


@dataclass(frozen=True)
class Subject:
    """Something the event is about: a name as a hint, and a hexadecimal sha256."""

    name: str
    digest: str


@dataclass(frozen=True)
class Parent:
    """Something it was made from: digest, role (init, merge-input, teacher, tokenizer, dataset, code, config), name."""

    digest: str
    role: str = "init"
    name: str = ""


@dataclass(frozen=True)
class Draft:
    """An event before it has a place in the tree.

    `facts["parameters"]` are what a policy may ask for; the other facts are kept beside them.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    subjects: tuple[Subject, ...] = ()
    parents: tuple[Parent, ...] = ()
    operation: str | None = None
    attachments: tuple[bytes, ...] = ()

    def with_attachment(self, data: bytes) -> Draft:
        """The same with bytes that are kept beside the tree, under their sha256."""
        return replace(self, attachments=(*self.attachments, data))

    @property
    def signed(self) -> bool:
        """Whether it gets a signature of its own."""
        return self.kind not in UNSIGNED

    def payload(self, seen_size: int, seen_root: bytes, time: str, version: str) -> bytes:
        """The bytes of its statement."""
        seen = {"root": seen_root.hex(), "size": str(seen_size)}
        facts = dict(self.facts)
        if not self.signed:
            return hashed_bytes({"facts": facts, "kind": self.kind})
        subjects = self.subjects or (Subject(self.kind, sha256(hashed_bytes(facts)).hexdigest()),)
        statement: dict[str, Any] = {
            "_type": STATEMENT,
            "subject": [{"name": item.name, "digest": {"sha256": item.digest}} for item in subjects],
        }
        parents = [
            {"name": item.name, "digest": {"sha256": item.digest}, "annotations": {"role": item.role}}
            for item in self.parents
        ]
        if self.operation is None:
            predicate: dict[str, Any] = {"facts": facts, "kind": self.kind, "time": time, "pedigree_seen": seen}
            if parents:
                predicate["resolvedDependencies"] = parents
            return hashed_bytes({**statement, "predicateType": EVENT, "predicate": predicate})
        predicate = {
            "buildDefinition": {
                "buildType": OPERATION.format(self.operation),
                "externalParameters": facts.pop("parameters", {}),
                "internalParameters": {"kind": self.kind, "facts": facts},
                "resolvedDependencies": parents,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"pedigree": version}},
                "metadata": {"invocationId": self.run or "", "finishedOn": time},
            },
            "pedigree_seen": seen,
        }
        return hashed_bytes({**statement, "predicateType": PROVENANCE, "predicate": predicate})


@dataclass(frozen=True)
class Said:
    """A statement as it is read back: the same parts a draft had, whatever its predicate."""

    kind: str
    facts: dict[str, Any]
    subjects: tuple[Subject, ...]
    parents: tuple[Parent, ...]
    operation: str | None
    seen_size: int | None
    seen_root: str | None
    time: str

    @classmethod
    def of(cls, value: Mapping[str, Any], where: str) -> Said:
        """Read a statement that `Draft.payload` made.

        Raises:
            MalformedFile: it lacks something, or is of another kind.
        """
        try:
            subjects = tuple(Subject(str(item["name"]), _digest(item)) for item in value["subject"])
            predicate, operation = value["predicate"], None
            if value["predicateType"] == PROVENANCE:
                build = predicate["buildDefinition"]
                operation = build["buildType"].split(":")[-2]
                inner = build["internalParameters"]
                kind = inner["kind"]
                facts = {**inner["facts"], "parameters": build["externalParameters"]}
                listed, time = build["resolvedDependencies"], predicate["runDetails"]["metadata"]["finishedOn"]
            elif value["predicateType"] == EVENT:
                kind, facts, time = predicate["kind"], predicate["facts"], predicate["time"]
                listed = predicate.get("resolvedDependencies", [])
            else:
                raise MalformedFile("a statement of a kind that is not ours", where=where, got=value["predicateType"])
            parents = tuple(
                Parent(_digest(item), str(item["annotations"]["role"]), str(item["name"])) for item in listed
            )
            seen = predicate["pedigree_seen"]
            return cls(kind, dict(facts), subjects, parents, operation, int(seen["size"]), str(seen["root"]), time)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise MalformedFile(
                "a statement lacks what it must say", where=where, got=f"{type(error).__name__} {error}"
            ) from error


def _digest(item: Mapping[str, Any]) -> str:
    return str(item["digest"]["sha256"])


def hex_digest(text: str) -> str:
    """The 64 digits of `sha256:...` or of the digits alone.

    Raises:
        UsageError: it is no such digest.
    """
    digits = text.removeprefix("sha256:")
    if len(digits) != 64 or any(sign not in "0123456789abcdef" for sign in digits):
        raise UsageError("this is no sha256 digest", got=text[:80], expected="sha256: and 64 hexadecimal digits")
    return digits
