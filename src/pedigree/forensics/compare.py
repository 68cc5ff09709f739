"""Compare two checkpoints: the entry point of `forensics`.

The depths are climbed until the answer is certain. Glance reads a few rows of each matrix in place; it can say
`related` when units stand where they stood, and nothing else for sure. Standard reads sampled units of every layer
(small models: everything) and climbs the gauge ladder. Full reads everything. What each depth could not have seen is
part of the record.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from pedigree.errors import BudgetExceeded, UsageError
from pedigree.forensics.arrivals import ArrivalProgress
from pedigree.forensics.comparison.findings import CLEAR_LOG10_P, Findings
from pedigree.forensics.comparison.measure import Progress, evidence_words, measure, single_thread
from pedigree.forensics.comparison.record import build_record, unseen
from pedigree.forensics.comparison.remainder import KIN, believed, rest_of
from pedigree.forensics.comparison.verdict import Judgment, judge
from pedigree.forensics.fingerprints.fingerprint import is_fingerprint
from pedigree.forensics.fingerprints.fingerprint_compare import compare_with_fingerprint
from pedigree.forensics.sides.bits import compare_bits
from pedigree.forensics.sides.sampling import WHOLE_MODEL_BYTES, Depth, choose_sample
from pedigree.forensics.sides.side import Side
from pedigree.forensics.units.evidence import holds_all
from pedigree.records.comparison import DEPTHS, Comparison, Controls, Decoy, DepthRecord, Rest
from pedigree.weights.allocator import share_heap
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint


def compare(
    a: str | Path,
    b: str | Path,
    *,
    depth: Depth | Literal["auto"] | None = None,
    budget_bytes: int | None = None,
    decoys: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    salt: str = "",
    progress: Progress | None = None,
) -> Comparison:
    """Decide whether the weights of B share ancestry with those of A, and what was done.

    Args:
        a, b: locations (directory, file, hf://, http://, fingerprint); B is the one explained in terms of A.
        depth: one fixed depth; "auto" or None to climb until certain.
        budget_bytes: most weight bytes to read from each side; reaching it ends the climb with what is known.
        decoys: models that are not the suspected parent; B is compared with each at the final depth. Where B turns out
            to be kin of one and not of A, what that one leaves of B is compared with A.
        allow_pickle: read torch files (weights only).
        salt: what fingerprints among the inputs were made with.
        progress: called with (stage, fraction, message).

    Returns:
        The record; the same inputs and options give the same record but for time fields.

    Raises:
        UsageError: there is no such depth.
        InputError, SourceError: an input cannot be read.
        BudgetExceeded: the budget does not even cover a glance.
    """
    fixed = _fixed_depth(depth)
    if is_fingerprint(a) or is_fingerprint(b):
        return compare_with_fingerprint(
            a, b, salt=salt, decoys=decoys, budget_bytes=budget_bytes, allow_pickle=allow_pickle
        )
    start = time.monotonic()
    share_heap()
    tell = ArrivalProgress(progress or (lambda stage, fraction, message: None))
    with ExitStack() as stack, single_thread():
        tell("opening", 0.0, str(a))
        left = stack.enter_context(open_checkpoint(a, allow_pickle=allow_pickle, budget_bytes=budget_bytes))
        tell("opening", 0.0, str(b))
        right = stack.enter_context(open_checkpoint(b, allow_pickle=allow_pickle, budget_bytes=budget_bytes))
        tell.watch(left.meter)
        tell.watch(right.meter)
        record, final = _climb_depths(left, right, fixed, start, tell)
        apart = left if record.result.verdict not in ("identical", *KIN) else None
        seen, left_out = _decoys(decoys, right, final, allow_pickle, budget_bytes, tell, apart)
    controls = Controls(decoys=seen, off_diagonal=record.result.controls.off_diagonal)
    not_checked = [
        *record.result.not_checked,
        *(believed(d.location) for d in seen if d.rest and d.rest.verdict in KIN),
    ]
    result = record.result.model_copy(update={"controls": controls, "not_checked": not_checked})
    options = {
        "depth": fixed or "auto",
        "budget_bytes": budget_bytes,
        "decoys": [str(d) for d in decoys],
        "allow_pickle": allow_pickle,
    }
    created = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    warnings = [*record.warnings, *left_out]
    return record.model_copy(update={"result": result, "options": options, "created": created, "warnings": warnings})


def _fixed_depth(word: Depth | Literal["auto"] | None) -> Depth | None:
    if word is None or word == "auto":
        return None
    if word not in DEPTHS:
        raise UsageError("there is no such depth", where="depth", got=str(word), expected=f"auto, {', '.join(DEPTHS)}")
    return word


def _climb_depths(
    left: Checkpoint, right: Checkpoint, depth: Depth | None, start: float, tell: Progress
) -> tuple[Comparison, Depth]:
    size = max(left.meter.total, right.meter.total)
    a, b = _sides(left, right, "glance")
    passed: list[DepthRecord] = []
    best: tuple[Comparison, Depth] | None = None
    warnings: list[str] = []
    ladder = _ladder(depth, size)
    # Where the bytes may run out a first look has to be a whole one.
    limited = left.meter.budget is not None or right.meter.budget is not None
    for step in ladder:
        try:
            a, b, found, judgment = _measure_at(a, b, step, tell, goes_on=step != ladder[-1] and not limited)
            tell(step, 1.0, f"{judgment.verdict} at {step} depth; {evidence_words(found)}")
        except BudgetExceeded as error:
            if best is None:
                raise
            warnings.append(f"the byte budget ended the comparison before {step} depth: {error.sentence()}")
            break
        record = build_record(a, b, found, judgment, step, time.monotonic() - start)
        passed.append(DepthRecord(depth=step, verdict=judgment.verdict, could_not_see=unseen(a, b, found, step)))
        best = (record, step)
        if _is_certain(a, found, judgment):
            break
        if depth is None and step == "standard" and found.bits is not None and found.bits.all_equal:
            best = _compare_every_number(a, b, found, step, start, best)
        a, b = a.at(a.sample), b.at(b.sample)  # what this depth held makes room for the next
        del found, judgment
    if best is None:
        raise BudgetExceeded("no depth could be finished", fix="raise --budget")
    record, last = best
    result = record.result.model_copy(update={"depths": passed})
    return record.model_copy(update={"result": result, "warnings": [*record.warnings, *warnings]}), last


def _ladder(depth: Depth | None, size: int) -> list[Depth]:
    """Depths to climb; small models are read whole at once, since a glance would save nothing."""
    if depth is not None:
        return [depth]
    return ["glance", "standard"] if size > WHOLE_MODEL_BYTES else ["standard"]


def _sides(left: Checkpoint, right: Checkpoint, depth: Depth) -> tuple[Side, Side]:
    sample = choose_sample(depth, max(left.meter.total, right.meter.total))
    a = Side.read(left, sample)
    b = Side.read(right, sample, a.vocabulary)
    return a.beside(b), b.beside(a)


def _measure_at(
    a: Side, b: Side, depth: Depth, progress: Progress | None, *, goes_on: bool = False
) -> tuple[Side, Side, Findings, Judgment]:
    size = max(a.checkpoint.meter.total, b.checkpoint.meter.total)
    layers, width = max(a.n_layers, b.n_layers), max(a.width, b.width)
    sample = replace(choose_sample(depth, size).fitted(layers, width), goes_on=goes_on)
    a, b = a.at(sample), b.at(sample)
    found = measure(a, b, whole_bits=sample.max_units is None, progress=progress)
    return a, b, found, judge(a, b, found)


def _compare_every_number(
    a: Side, b: Side, found: Findings, step: Depth, start: float, best: tuple[Comparison, Depth]
) -> tuple[Comparison, Depth]:
    """Where every number of the sample is equal, local files are read once to the end: they may be identical."""
    if found.bits is None or found.bits.whole or a.is_remote or b.is_remote:
        return best
    try:
        found.bits = compare_bits(a, b, found.layer_map, whole=True)
    except BudgetExceeded:
        return best
    return build_record(a, b, found, judge(a, b, found), step, time.monotonic() - start), step


def _decoys(
    locations: Sequence[str | Path],
    right: Checkpoint,
    depth: Depth,
    allow_pickle: bool,
    budget_bytes: int | None,
    tell: ArrivalProgress,
    apart: Checkpoint | None,
) -> tuple[list[Decoy], list[str]]:
    """Decoys compared, and a sentence for each that the budget left out; the answer itself is there already.

    `apart` is A where it is no kin of B, to be held against what a decoy leaves of B.
    """
    seen: list[Decoy] = []
    left_out: list[str] = []
    for number, location in enumerate(locations):
        before = f"; the one before: {seen[-1].verdict}" if seen else ""
        tell("decoys", number / len(locations), f"{number + 1} of {len(locations)}, {location}{before}")
        try:
            seen.append(_decoy(location, right, depth, allow_pickle, budget_bytes, tell, apart))
        except BudgetExceeded as error:
            left_out.append(f"decoy {location} was not compared: {error.sentence()}")
    return seen, left_out


def _is_certain(a: Side, found: Findings, judgment: Judgment) -> bool:
    """Whether a deeper look could not change the word: an exact test speaks, every part of the body was seen to be
    related, and not every number is equal (then only reading all of them can tell). Every layer has its place; or all
    of A's have, in a deeper B, whose few other layers were read whole and are none of A's in any order."""
    body = [judgment.components[name].verdict for name in ("attn", "mlp", "experts") if name in judgment.components]
    if any(word != "related" for word in body) or (found.bits is not None and found.bits.all_equal):
        return False
    if None in found.layer_map and not (
        holds_all(found.layer_map, a.n_layers)
        and not any(found.unseen(j) for j, i in enumerate(found.layer_map) if i is None)
    ):
        return False
    exact = found.log10_p("body-signs") <= CLEAR_LOG10_P
    ratios = [s.ratio for s in (found.forward, found.backward) if s is not None]
    clear = bool(ratios) and min(ratios) > 0.85
    return judgment.verdict == "related" and exact and clear


def _decoy(
    location: str | Path,
    right: Checkpoint,
    depth: Depth,
    allow_pickle: bool,
    budget_bytes: int | None,
    tell: ArrivalProgress,
    apart: Checkpoint | None,
) -> Decoy:
    look = partial(look_at, depth)
    with open_checkpoint(location, allow_pickle=allow_pickle, budget_bytes=budget_bytes) as other:
        tell.watch(other.meter)
        a, b, found, judgment = look(other, right)
        record = build_record(a, b, found, judgment, depth, 0.0)
        asked = apart is not None and judgment.verdict in ("related", "partly-related")
        rest = rest_of(apart, right, other, look) if asked and apart is not None else None
    return Decoy(
        location=str(location),
        verdict=judgment.verdict,
        log10_p=record.result.log10_p,
        score=found.evidence.best_z(),
        strength=record.result.strength,
        architecture=a.anatomy.architecture,
        rest=rest,
    )


def look_at(depth: Depth, one: Checkpoint, other: Checkpoint) -> tuple[Side, Side, Findings, Judgment]:
    """Measure and judge two open models at one depth, without a word on the way."""
    return _measure_at(*_sides(one, other, depth), depth, None)


def compare_rest(a: str | Path, b: str | Path, beside: str | Path, *, allow_pickle: bool = False) -> Rest:
    """A beside what another model leaves of B, at standard depth; for B that is kin of that one and no kin of A.

    Args:
        a, b: locations of the pair.
        beside: that of the relative of B whose part is taken out.
        allow_pickle: read torch files (weights only).

    Raises:
        InputError, SourceError: an input cannot be read.
    """
    share_heap()
    with ExitStack() as stack, single_thread():
        left, right, other = (
            stack.enter_context(open_checkpoint(place, allow_pickle=allow_pickle)) for place in (a, b, beside)
        )
        return rest_of(left, right, other, partial(look_at, "standard"))


def measure_pair(
    a: str | Path, b: str | Path, *, depth: Depth = "standard", allow_pickle: bool = False
) -> tuple[Side, Side, Findings, Judgment]:
    """Measure and judge two checkpoints at one depth; for calibration, where the findings themselves are wanted."""
    share_heap()
    left = open_checkpoint(a, allow_pickle=allow_pickle)
    right = open_checkpoint(b, allow_pickle=allow_pickle)
    with single_thread():
        return _measure_at(*_sides(left, right, depth), depth, None)
