"""The tests of a comparison as records: each with its null, what it assumes, and why not where it was not made."""

from __future__ import annotations

import math

from pedigree.forensics.comparison.findings import CLEAR_LOG10_P, Findings
from pedigree.forensics.comparison.following import origin_of
from pedigree.forensics.comparison.operating_points import EXACT
from pedigree.forensics.comparison.verdict import Judgment
from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.sides.side import Side
from pedigree.records.comparison import TestRecord

_MATCH_NAMES = {
    "ffn": "matched units, feed-forward",
    "vo": "matched dimensions, value/output",
    "qk": "matched dimensions, query/key",
}


def list_tests(a: Side, b: Side, found: Findings) -> list[TestRecord]:
    """Every test made or skipped, exact ones first."""
    out = [_exact(name, outcome, found) for name, outcome in found.exact.items()]
    for kind, name in _MATCH_NAMES.items():
        grid = found.evidence.grids.get(kind)  # type: ignore[call-overload]
        out.append(
            TestRecord(
                name=name,
                null="matched units of B could have borne each other's held-out projections",
                assumes="one residual frame; calibrated on independently trained pairs, not exact",
                statistic=grid.best[0] if grid is not None else None,
                n=int(grid.z_IJ.size) if grid is not None else 0,
                applicable=grid is not None,
                why_not=None if grid is not None else "not read at this depth, or no common form",
            )
        )
    for kind, score in found.heads.items():
        out.append(
            TestRecord(
                name=f"matched heads, {'value/output' if kind == 'vo' else 'query/key'} subspaces",
                null="matched heads of B could have borne each other's held-out subspaces",
                assumes="one residual frame",
                statistic=score.z if score.n else None,
                n=score.n,
                applicable=score.n > 0,
                why_not=None if score.n else "too few heads of one shape",
            )
        )
    out.append(_survival(found))
    out.append(_origin(found))
    return out


def _exact(name: str, outcome: TestOutcome, found: Findings) -> TestRecord:
    card = outcome.card
    return TestRecord(
        name=f"{card.name}, {name}",
        version=card.version,
        null=card.null,
        assumes=card.assumes,
        statistic=outcome.statistic if outcome.applicable else None,
        n=outcome.n,
        log10_p=found.log10_p(name) if outcome.applicable else None,
        applicable=outcome.applicable,
        why_not=outcome.why_not,
    )


def _survival(found: Findings) -> TestRecord:
    best = max((s for s in (found.forward, found.backward) if s is not None), key=lambda s: s.middle, default=None)
    return TestRecord(
        name="survival of learned directions",
        null="only the random start is shared: learned directions of one are absent in the other",
        assumes="the leading singular directions of a trained matrix were learned, the middle ones were drawn",
        statistic=best.ratio if best is not None else None,
        n=best.matrices if best is not None else 0,
        applicable=best is not None,
        why_not=None if best is not None else "no matched matrices",
    )


def _origin(found: Findings) -> TestRecord:
    evidence = origin_of(found)
    followed = found.forward is not None or found.backward is not None
    return TestRecord(
        name="start or descent, log odds",
        null="both began at one random start and were trained apart",
        assumes="weights of the evidence fitted on small models of known descent",
        statistic=evidence.log_odds if followed else None,
        n=max((s.matrices for s in (found.forward, found.backward) if s is not None), default=0),
        applicable=followed,
        why_not=None if followed else "no matched matrices",
    )


def strength(found: Findings, judgment: Judgment) -> str:
    """How strong the answer is, in one phrase with its number and its null."""
    alone = found.kept is None or found.kept.alone
    exact = min((found.log10_p(n) for n in found.exact if n != "kept-units" or alone), default=0.0)
    z, effect = max((grid.best for grid in found.evidence.grids.values()), default=(0.0, 0.0))
    if judgment.verdict == "identical":
        return "every number of every tensor is equal"
    if judgment.verdict in ("inconclusive", "not-testable") and judgment.reasons:
        return "; ".join(judgment.reasons)
    if judgment.verdict == "unrelated":
        loud = exact <= CLEAR_LOG10_P
        words = "an exact test speaks, which alone is no relation" if loud else "exact tests silent"
        return f"largest agreement of any layer pair z = {z:.1f} (strangers reach that), {words}"
    if found.contents is not None and found.contents.telling:
        return "; ".join(judgment.reasons)
    if found.keeps_units and found.kept is not None:
        reach = math.floor(found.log10_p("kept-units"))
        return f"{found.kept.count} units are shared beyond any choice of frame and pairs (log10 p <= {reach})"
    if found.in_place:
        reach = math.floor(found.log10_p("units-in-place"))
        return f"units in place agree beyond any choice of frame and order (log10 p <= {reach})"
    if found.carried:
        return found.carried_words
    in_place = min((found.log10_p(name) for name in EXACT), default=0.0)
    if in_place <= CLEAR_LOG10_P:
        return f"units stand where they stood (exact, log10 p <= {math.floor(in_place)}); best layer pair z = {z:.0f}"
    among = found.log10_p("units-read")
    if among <= CLEAR_LOG10_P:
        words = "matched units stand to each other as their partners do, whatever the frame"
        return f"{words} (exact, log10 p <= {math.floor(among)}); best layer pair z = {z:.0f}"
    named = found.log10_p("carried-units")
    if named <= CLEAR_LOG10_P:
        words = "matched units agree in the frame that vocabulary rows give"
        return f"{words} (exact, log10 p <= {math.floor(named)}); best layer pair z = {z:.0f}"
    return f"held-out agreement of matched units {effect:.2f}, z = {z:.0f} in the best layer pair"
