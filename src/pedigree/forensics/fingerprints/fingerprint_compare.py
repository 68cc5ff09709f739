"""Compare two fingerprints, or a model with a fingerprint: exact tests and unit agreement on the positions both hold.

First everything is asked of units in place, so a relation that is found is as good as one found at glance depth. Where
nothing stands in place rows are laid side by side in the frame of tokens (`token_look.py`), which no turn of the stream
changes. A fingerprint cannot exclude a relation: some disguises do not show, and the answer is then `inconclusive`,
never `unrelated`. The error rate beside the answer was measured on fingerprints, not on weights.
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
from pedigree.forensics.comparison.verdict import IN_PLACE_COSINE, judge
from pedigree.forensics.fingerprints.fingerprint import Fingerprint, is_fingerprint, make_fingerprint, read_fingerprint
from pedigree.forensics.fingerprints.thin_side import naming_of, sides, turned_sides
from pedigree.forensics.fingerprints.token_look import look_by_tokens
from pedigree.forensics.frames.ladder import TABLES
from pedigree.records.comparison import Comparison, Decoy, GaugeKind, InputRecord, Transformation

NOT_CHECKED = (
    "fingerprints hold few units, at chosen positions, and a frame of vocabulary rows: relatives whose units were "
    "reordered or whose stream was turned show by attention or by vocabulary rows that were kept, or not at all",
    "most of the weights: a fingerprint holds a few rows of each matrix at some coordinates",
    "whether a fingerprint was made from the model that it names: made again from that model it has the same bytes",
    "equality of whole tensors; copies, splits and origins of units that the fingerprint does not hold",
)


GAINS_NOT_HELD = (
    "learned gains of norms: {who} of version 1, which holds none, so models of one random start that look like noisy "
    "copies are not told from them; made again from the model it has gains"
)

BY_TOKENS = (
    "what was done to coordinates: nothing stands in place, and weights were laid side by side in the frame that "
    "vocabulary rows give"
)

NAMES_BELIEVED = (
    "whether vocabulary rows bear their own names: the frame rests on them, and whoever renames rows chooses it; a "
    "model whose rows were renamed writes no text with its own tokenizer"
)

FRAME_NOT_HELD = (
    "models whose stream was turned: {who} no frame of vocabulary rows; made again from the model it has one where "
    "there is a tokenizer"
)

DESCENT = ("related", "partly-related")
TOLD = ("identical", "related", "partly-related", "shared-initialization")
"""Words after which rows in the frame of tokens are not asked."""

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
        stands = max(found.tables.get(f"{role}-in-place", 0.0) for role in TABLES) >= IN_PLACE_COSINE
        # What stands in place and leaves only the origin open is not asked again without gains, in a coarser frame.
        turned = None if judgment.verdict in TOLD or judgment.open_origin else turned_sides(left, right)
        if turned is not None:
            by_tokens, told = look_by_tokens(turned, naming_of(left.model, right.model))
            # Rows that agree where they stand, with gains beside them, say more about descent than that frame can.
            overruled = told.verdict in DESCENT and found.layers_hit("ffn", "vo", "qk")
            if (told.verdict in TOLD or by_tokens.layers_hit("ffn", "qk")) and not overruled:
                (a, b), found, judgment, dropped = turned, by_tokens, told, [BY_TOKENS, NAMES_BELIEVED]
        record = build_record(a, b, found, judgment, "glance", time.monotonic() - start)
    if a.sample.by_tokens:
        record = _in_the_stream(record, same_width=left.model.width == right.model.width, stands=stands)
    exact = [t.log10_p for t in record.result.tests if t.log10_p is not None]
    not_checked = [
        *dropped,
        *_without_frame(left, right),
        *_without_gains(left, right),
        *NOT_CHECKED,
        *ALWAYS_UNCHECKED,
    ]
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


def _in_the_stream(record: Comparison, *, same_width: bool, stands: bool) -> Comparison:
    """A record of rows in the frame of tokens with what that says of the streams: vocabulary rows stand in place, or
    some turn leads from one to the other."""
    result = record.result
    if result.gauge.kind == "none" or not same_width:
        return record
    kind: GaugeKind = "identity" if stands else "orthogonal"
    # Equal rows are rounded products, and no equal tensors.
    changes = [change for change in result.transformations if change.kind != "tensors-frozen"]
    if result.verdict in ("related", "partly-related") and not stands:
        what = "residual coordinates rotated, or permuted and negated"
        changes.insert(0, Transformation(kind="gauge-disguise", gauge=kind, what=what))
    gauge = result.gauge.model_copy(update={"kind": kind})
    return record.model_copy(update={"result": result.model_copy(update={"gauge": gauge, "transformations": changes})})


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


def _without_frame(left: Fingerprint, right: Fingerprint) -> list[str]:
    """That models could be compared in place only, and why."""
    bare = [name for name, side in (("A", left), ("B", right)) if not side.model.turns]
    who = "the fingerprints hold" if len(bare) == 2 else f"the fingerprint of {''.join(bare)} holds"
    return [FRAME_NOT_HELD.format(who=who)] if bare else []


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
