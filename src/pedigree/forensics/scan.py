"""The nearest relatives of a model among many.

Search vectors rank the whole library; the best candidates are compared on fingerprints, and the first few on their
weights where those are at hand. Every model of the library counts as tried, since the ranking looked at all of them:
p-values are multiplied by that number (Bonferroni), compared or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pedigree.errors import PedigreeError
from pedigree.forensics.bank import error_rate, fingerprint_error_rate
from pedigree.forensics.compare import compare
from pedigree.forensics.fingerprint import Fingerprint, is_fingerprint
from pedigree.forensics.fingerprint_compare import compare_fingerprints, describe_fingerprint, load
from pedigree.forensics.library import Entry, Library
from pedigree.forensics.measure import Progress
from pedigree.forensics.record import producer
from pedigree.forensics.sketch import sketch
from pedigree.records.comparison import Comparison
from pedigree.records.scan import Candidate, Multiplicity, Scan, ScanResult

RELATIVES = ("identical", "related", "partly-related", "shared-initialization")
RULE = "p-values are multiplied by the number of models in the library, compared or not (Bonferroni)"


def scan(
    model: str | Path,
    library: Library,
    *,
    candidates: int = 16,
    confirm: int = 3,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Scan:
    """Find the relatives of a model in a library.

    Args:
        model: its location, or that of its fingerprint.
        library: an open library.
        candidates: how many of the best-ranked models are compared on fingerprints.
        confirm: how many of the first of them are compared on weights, where their files are on this machine.
        allow_pickle: read torch files (weights only).
        progress: called with (stage, fraction, message).
    """
    start = time.monotonic()
    tell = progress or (lambda stage, fraction, message: None)
    tell("fingerprint", 0.0, str(model))
    mine = load(model, salt=library.salt, allow_pickle=allow_pickle)
    tried, failed = library.counts()
    tell("searching", 0.0, f"{tried} models")
    ranked = library.nearest(sketch(mine), candidates)
    found: list[Candidate] = []
    for rank, (entry, similarity) in enumerate(ranked, start=1):
        tell("comparing", (rank - 1) / len(ranked), entry.location)
        candidate = _compare(mine, model, entry, library, rank, tried, rank <= confirm, allow_pickle)
        found.append(candidate.model_copy(update={"similarity": similarity}))
    relatives = sorted((c for c in found if c.verdict in RELATIVES), key=_nearness)
    return Scan(
        producer=producer(),
        created=datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        inputs={"model": describe_fingerprint(mine), "library": str(library.folder)},
        options={"candidates": candidates, "confirm": confirm, "allow_pickle": allow_pickle},
        result=ScanResult(
            verdict="relatives-found" if relatives else "none-found" if _any_seen(found) else "inconclusive",
            relatives=relatives,
            others=[c for c in found if c.verdict not in RELATIVES],
            multiplicity=_multiplicity(tried, found),
            not_checked=_not_checked(failed, tried, found),
            seconds=round(time.monotonic() - start, 3),
        ),
    )


def _compare(
    mine: Fingerprint,
    model: str | Path,
    entry: Entry,
    library: Library,
    rank: int,
    tried: int,
    whole: bool,
    allow_pickle: bool,
) -> Candidate:
    """One candidate; what goes wrong with it is said in its place."""
    blank = Candidate(location=entry.location, rank=rank)
    on = "weights" if whole and _is_local(entry.location) and not is_fingerprint(model) else "fingerprint"
    try:
        if on == "weights":
            record = compare(entry.location, model, allow_pickle=allow_pickle)
        else:
            record = compare_fingerprints(library.fingerprint(entry), mine)
    except PedigreeError as error:
        return blank.model_copy(update={"compared": "", "error": error.sentence()})
    return blank.model_copy(update={"compared": on, **_answer(record, tried)})


def _is_local(location: str) -> bool:
    return "://" not in location and Path(location).exists() and not is_fingerprint(location)


def _answer(record: Comparison, tried: int) -> dict[str, object]:
    result = record.result
    z = record.evidence_map.z if record.evidence_map is not None else []
    scores = [value for row in z for value in row if value is not None]
    corrected = None if result.log10_p is None else min(0.0, result.log10_p + math.log10(max(1, tried)))
    return {
        "verdict": result.verdict,
        "log10_p": result.log10_p,
        "log10_p_corrected": corrected,
        "score": max(scores, default=None),
        "direction": result.direction,
        "strength": result.strength,
    }


def _nearness(candidate: Candidate) -> tuple[int, float, int]:
    """Strongest word first, then the strongest layer pair."""
    return (RELATIVES.index(candidate.verdict or "related"), -(candidate.score or 0.0), candidate.rank)


def _any_seen(found: Sequence[Candidate]) -> bool:
    return any(candidate.compared for candidate in found)


def _multiplicity(tried: int, found: Sequence[Candidate]) -> Multiplicity:
    """The bound of the way of comparing that was used, the larger one where both were."""
    rates = {"weights": error_rate(), "fingerprint": fingerprint_error_rate()}
    used = [rate for on, rate in rates.items() if any(candidate.compared == on for candidate in found)]
    bound = None
    if used and all(rate is not None for rate in used):
        worst = max(rate.false_positive_upper_95 for rate in used if rate is not None)
        bound = float(1.0 - np.exp(tried * np.log1p(-worst)))
    return Multiplicity(
        tried=tried, compared=sum(bool(c.compared) for c in found), rule=RULE, any_false_upper_95=bound
    )  # fmt: skip


def _not_checked(failed: int, tried: int, found: Sequence[Candidate]) -> list[str]:
    out = []
    if failed:
        out.append(f"{failed} models of the library could not be read; pedigree library list names them")
    left = tried - len(found)
    if left:
        out.append(f"{left} models were ranked behind the candidates and not compared; --candidates takes more")
    only = sum(candidate.compared == "fingerprint" for candidate in found)
    if only:
        out.append(f"{only} candidates were compared on fingerprints only, which see units in place")
    return out
