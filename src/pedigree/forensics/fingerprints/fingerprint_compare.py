"""Compare two fingerprints, or a model with a fingerprint: exact tests and unit agreement on the positions both hold.

Everything is asked of units in place, so a relation that is found is as good as one found at glance depth. A
fingerprint cannot exclude one: relatives whose units were reordered or rotated do not show, and the answer is then
`inconclusive`, never `unrelated`. The error rate beside the answer was measured on fingerprints, not on weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pedigree.forensics.comparison.bank import fingerprint_error_rate
from pedigree.forensics.comparison.measure import measure, single_thread
from pedigree.forensics.comparison.operating_points import smallest_of_all
from pedigree.forensics.comparison.record import ALWAYS_UNCHECKED, build_record
from pedigree.forensics.comparison.verdict import judge
from pedigree.forensics.fingerprints.fingerprint import Fingerprint, is_fingerprint, make_fingerprint, read_fingerprint
from pedigree.forensics.fingerprints.thin_side import sides
from pedigree.records.comparison import Comparison, Decoy, InputRecord

NOT_CHECKED = (
    "fingerprints hold units in place: reordered, rotated or re-tokenized relatives are not seen on them",
    "most of the weights: a fingerprint holds a few rows of each matrix at some coordinates",
    "whether a fingerprint was made from the model that it names: made again from that model it has the same bytes",
    "equality of whole tensors; copies, splits and origins of units that the fingerprint does not hold",
)


GAINS_NOT_HELD = (
    "learned gains of norms: {who} of version 1, which holds none, so models of one random start that look like noisy "
    "copies are not told from them; made again from the model it has gains"
)

NO_GAINS = "learned gains of norms: {who} none"


def compare_with_fingerprint(
    a: str | Path,
    b: str | Path,
    *,
    salt: str = "",
    decoys: Sequence[str | Path] = (),
    budget_bytes: int | None = None,
    allow_pickle: bool = False,
) -> Comparison:
    """Compare two locations of which at least one is a fingerprint; the other is thinned in the same way first."""
    start = time.monotonic()

    def get(place: str | Path) -> Fingerprint:
        return load(place, salt=salt, allow_pickle=allow_pickle, budget_bytes=budget_bytes)

    left, right = get(a), get(b)
    record = compare_fingerprints(left, right, start)
    seen = [_decoy(place, compare_fingerprints(get(place), right)) for place in decoys]
    controls = record.result.controls.model_copy(update={"decoys": seen})
    record = record.model_copy(update={"result": record.result.model_copy(update={"controls": controls})})
    options = {
        "depth": "fingerprint",
        "budget_bytes": budget_bytes,
        "decoys": [str(place) for place in decoys],
        "allow_pickle": allow_pickle,
        "salted": bool(salt),
    }
    created = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return record.model_copy(update={"options": options, "created": created})


def _decoy(location: str | Path, record: Comparison) -> Decoy:
    z = record.evidence_map.z if record.evidence_map is not None else []
    return Decoy(
        location=str(location),
        verdict=record.result.verdict,
        log10_p=record.result.log10_p,
        score=max((value for row in z for value in row if value is not None), default=None),
        strength=record.result.strength,
        architecture=record.inputs.a.architecture,
    )


def load(
    location: str | Path, *, salt: str = "", allow_pickle: bool = False, budget_bytes: int | None = None
) -> Fingerprint:
    """The fingerprint in a file, or that of a model."""
    if is_fingerprint(location):
        return read_fingerprint(location, salt=salt)
    return make_fingerprint(location, salt=salt, allow_pickle=allow_pickle, budget_bytes=budget_bytes)


def compare_fingerprints(left: Fingerprint, right: Fingerprint, start: float | None = None) -> Comparison:
    """The record of a comparison of two fingerprints made with one salt."""
    start = time.monotonic() if start is None else start
    with single_thread():
        a, b, dropped = sides(left, right)
        found = measure(a, b, whole_bits=False)
        judgment = judge(a, b, found)
        record = build_record(a, b, found, judgment, "glance", time.monotonic() - start)
    exact = [t.log10_p for t in record.result.tests if t.log10_p is not None]
    not_checked = [*dropped, *_without_gains(left, right), *NOT_CHECKED, *ALWAYS_UNCHECKED]
    not_checked += [f"{name}: {words}" for name, side in (("A", left), ("B", right)) for words in side.model.left_out]
    result = record.result.model_copy(
        update={
            "error_rate": fingerprint_error_rate(),
            # Both points were measured on weights.
            "operating_points": None,
            "log10_p": smallest_of_all(exact) if exact and judgment.verdict != "inconclusive" else None,
            "not_checked": not_checked,
            "read": record.result.read.model_copy(
                update={
                    "bytes": left.bytes_read + right.bytes_read,
                    "of": sum(int(side.facts.get("bytes") or 0) for side in (left, right)),
                }
            ),
        }
    )
    inputs = record.inputs.model_copy(update={"a": describe_fingerprint(left), "b": describe_fingerprint(right)})
    return record.model_copy(update={"result": result, "inputs": inputs})


def _without_gains(left: Fingerprint, right: Fingerprint) -> list[str]:
    """That gains could not speak, and why."""
    norms = {"A": left.model.norms, "B": right.model.norms}
    old = [name for name, held in norms.items() if held is None]
    if old:
        return [
            GAINS_NOT_HELD.format(who="both fingerprints are" if len(old) == 2 else f"the fingerprint of {old[0]} is")
        ]
    bare = [name for name, held in norms.items() if held is not None and not held.gains]
    return [NO_GAINS.format(who="neither model has" if len(bare) == 2 else f"{bare[0]} has")] if bare else []


def describe_fingerprint(fingerprint: Fingerprint) -> InputRecord:
    """What a record says of one side."""
    facts = fingerprint.facts
    return InputRecord(
        location=fingerprint.location,
        format="fingerprint",
        digest=fingerprint.digest(),
        header_digest=facts.get("header_digest"),
        bytes=facts.get("bytes"),
        architecture=str(facts["architecture"]),
        parameters=facts["parameters"],
        notes=list(fingerprint.model.left_out),
    )
