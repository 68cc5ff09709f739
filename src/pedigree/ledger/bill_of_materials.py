"""The bill of materials of a model: CycloneDX ML-BOM (ECMA-424), version 1.6 or 1.7, from the record alone.

    model component   files with two digests, license, people, model card, pedigree (the ancestors)
    data components   the texts that something behind it was trained on
    formulation       one workflow for each entry that made or took in weights: inputs, outputs, when

The same record gives the same bytes: times are those of entries, the serial number follows from artifact and ledger.
The vocabulary has no word for training; such a task is `build`, and what it was stands in its name.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from pedigree.ledger.entry import Entry
from pedigree.ledger.passport import Ancestor, Dataset, Passport
from pedigree.ledger.statement import MATERIALS

VERSIONS = ("1.6", "1.7")
_NAMESPACE = uuid.UUID("6f2a1e0c-6d0b-5d55-9a51-1f6c8c2f7a10")
# Names on the Hub and those of SPDX; others are told as they were written.
_SPDX = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0", "cc0-1.0": "CC0-1.0",
    "gpl-3.0": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only", "mpl-2.0": "MPL-2.0",
}  # fmt: skip
_DIALECT = "http://cyclonedx.org/schema/bom-{}.schema.json"


def bill_of_materials(passport: Passport, version: str, producer: str) -> dict[str, Any]:
    """The bill, as its JSON has it.

    Args:
        passport: what is known of the model.
        version: one of `VERSIONS`.
        producer: version of this program.
    """
    serial = uuid.uuid5(_NAMESPACE, f"{passport.ledger} {passport.digest} {passport.entry}")
    bill: dict[str, Any] = {
        "$schema": _DIALECT.format(version), "bomFormat": "CycloneDX", "specVersion": version,
        "serialNumber": f"urn:uuid:{serial}", "version": 1,
        "metadata": {
            "timestamp": passport.life.last or "1970-01-01T00:00:00.000Z",
            "tools": {"components": [{"type": "application", "name": "pedigree", "version": producer}]},
            "component": _model(passport),
        },
        "components": [_data(item) for item in passport.datasets],
        "dependencies": [
            {"ref": _ref(passport.digest), "dependsOn": sorted(_ref(item.digest) for item in passport.datasets)}
        ],
        "formulation": [{"bom-ref": "formula", "workflows": [_workflow(entry) for entry in passport.makers]}],
    }  # fmt: skip
    if not passport.makers:
        del bill["formulation"]
    return bill


def _model(passport: Passport) -> dict[str, Any]:
    files = [
        {"type": "file", "bom-ref": f"file:{passport.digest}:{file.path}", "name": file.path,
         "hashes": [{"alg": "SHA-256", "content": file.sha256}, {"alg": "BLAKE3", "content": file.blake3}]}
        for file in passport.files
    ]  # fmt: skip
    model: dict[str, Any] = {
        "type": "machine-learning-model", "bom-ref": _ref(passport.digest), "name": passport.name or "unnamed",
        "version": passport.digest[:12], "modelCard": _card(passport),
        "pedigree": {
            "ancestors": [_ancestor(item) for item in passport.ancestors],
            "notes": "; ".join(passport.life.gaps) or "no gap was found; what was never recorded leaves none",
        },
        "properties": _properties({
            "pedigree:artifact": "sha256:" + passport.digest, "pedigree:ledger": passport.ledger,
            "pedigree:entry": "" if passport.entry is None else str(passport.entry),
            "pedigree:origin": passport.origin, "pedigree:verdict": passport.life.verdict,
            "pedigree:from-scratch": str(passport.from_scratch).lower(),
        }),
    }  # fmt: skip
    if files:
        model["components"] = files
    if passport.license:
        model["licenses"] = _license(passport.license)
    people = [
        {"bom-ref": credit.person, "name": passport.names.get(credit.person) or credit.person}
        for credit in passport.credits
    ]
    if people:
        model["authors"] = people
    return model


def _card(passport: Passport) -> dict[str, Any]:
    parameters: dict[str, Any] = {"datasets": [{"ref": _ref(item.digest)} for item in passport.datasets]}
    if passport.datasets:
        parameters["approach"] = {"type": "self-supervised"}
    if passport.family:
        parameters["architectureFamily"] = passport.family
    if passport.architecture:
        parameters["modelArchitecture"] = passport.architecture
    facts = {
        "pedigree:operation": passport.operation, "pedigree:operators": ", ".join(passport.operators),
        "pedigree:tokens": "" if passport.life.tokens is None else str(passport.life.tokens),
        "pedigree:floating-point-operations": (
            "" if passport.life.operations is None else f"{passport.life.operations:.6g}"
        ),
        **{f"pedigree:credit:{credit.person}": f"{', '.join(credit.roles)}; {credit.entries} entries"
           for credit in passport.credits},
    }  # fmt: skip
    return {"modelParameters": parameters, "properties": _properties(facts)}


def _ancestor(item: Ancestor) -> dict[str, Any]:
    status = "unverified origin" if item.imported else "" if item.entry is not None else "not recorded"
    found: dict[str, Any] = {
        "type": "machine-learning-model", "bom-ref": _ref(item.digest), "name": item.hub or item.name,
        "properties": _properties({
            "pedigree:artifact": "sha256:" + item.digest, "pedigree:role": item.role,
            "pedigree:operation": item.operation, "pedigree:origin": item.origin,
            "pedigree:entry": "" if item.entry is None else str(item.entry), "pedigree:status": status,
        }),
    }  # fmt: skip
    if item.license:
        found["licenses"] = _license(item.license)
    return found


def _data(item: Dataset) -> dict[str, Any]:
    return {
        "type": "data", "bom-ref": _ref(item.digest), "name": item.hub or item.name,
        "data": [{"type": "dataset", "name": item.name}],
        "properties": _properties({"pedigree:digest": "sha256:" + item.digest}),
    }  # fmt: skip


def _workflow(entry: Entry) -> dict[str, Any]:
    """How one artifact was made. Its inputs and outputs are told as properties: a resource must be in the same bill."""
    said = entry.said
    name = (said.operation if said is not None else None) or entry.leaf.kind
    parents = said.parents if said is not None else ()
    inputs = [
        {"parameters": [{"name": "sha256:" + parent.digest, "value": f"{parent.role} {parent.name}".strip()}]}
        for parent in parents if parent.role in MATERIALS or parent.digest
    ]  # fmt: skip
    found: dict[str, Any] = {
        "bom-ref": f"entry:{entry.index}", "uid": f"{entry.index}", "name": f"{name}: {entry.facts.get('name') or ''}",
        "taskTypes": ["build" if entry.leaf.kind == "derive" else "copy"], "timeEnd": entry.leaf.time,
        "properties": _properties({f"pedigree:made:{digest}": "artifact" for digest in entry.leaf.subjects[:1]}),
    }  # fmt: skip
    if inputs:
        found["inputs"] = [{"source": {"externalReference": _statement(entry)}, **item} for item in inputs]
    return found


def _statement(entry: Entry) -> dict[str, str]:
    """Where the signed statement is found: by its digest in the ledger."""
    return {"type": "attestation", "url": f"urn:pedigree:statement:sha256:{entry.leaf.body}"}


def _license(word: str) -> list[dict[str, Any]]:
    known = _SPDX.get(word.lower())
    return [{"license": {"id": known} if known else {"name": word}}]


def _properties(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in facts.items() if value]


def _ref(digest: str) -> str:
    return f"sha256:{digest}"
