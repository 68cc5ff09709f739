"""The nearest relatives of a model among many.

Search vectors rank the whole library; the best candidates are compared on fingerprints, and the first few on their
weights where those are at hand. Where the nearest is a parent, the others are also held against what it leaves of the
model, which shows the minor parent of a merge (`remainder.py`). Every model of the library counts as tried, since the
ranking looked at all of them: p-values are multiplied by that number (Bonferroni), compared or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from pedigree.errors import MalformedFile, PedigreeError
from pedigree.forensics.compare import compare, compare_rest
from pedigree.forensics.comparison.bank import error_rate, fingerprint_error_rate
from pedigree.forensics.comparison.measure import Progress
from pedigree.forensics.comparison.record import ALWAYS_UNCHECKED, producer
from pedigree.forensics.comparison.remainder import believed
from pedigree.forensics.fingerprints.fingerprint import WITHOUT_TOKEN_FRAME, Fingerprint, is_fingerprint
from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints, describe_fingerprint, load
from pedigree.forensics.scanning.library import Entry, Library
from pedigree.forensics.scanning.sketch import Floats, sketch
from pedigree.forensics.spread import ANY_FAULT, spread_out
from pedigree.forensics.trees.kinship import mark_of
from pedigree.records.comparison import Comparison, Rest
from pedigree.records.record import Record
from pedigree.records.scan import Candidate, Multiplicity, Scan, ScanResult

T = TypeVar("T")
Answer = TypeVar("Answer", bound=Record)

RELATIVES = ("identical", "related", "partly-related", "shared-initialization")
MOST_RANKED = 4096
"""Models that are ranked at most to find as many different ones as are wanted."""

NEAR = 0.4
"""Similarity of search vectors beyond that of strangers: those of the calibration families reach 0.36, relatives have
0.42 to 0.98."""

UNTOLD = ("inconclusive", "not-testable")
"""Answers that exclude nothing."""

MOST_NAMED = 3
"""Candidates that are named in one sentence."""

LIGHT = 1 << 24
"""Parameters up to which a candidate is compared on weights before it is said that there is no relative."""

RULE = "p-values are multiplied by the number of models in the library, compared or not (Bonferroni)"


def scan(
    model: str | Path,
    library: Library,
    *,
    candidates: int = 16,
    confirm: int = 3,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    workers: int = 1,
    fleet: str | None = None,
    keep: Path | None = None,
) -> Scan:
    """Find the relatives of a model in a library.

    Args:
        model: its location, or that of its fingerprint.
        library: an open library.
        candidates: how many of the best-ranked models are compared on fingerprints.
        confirm: how many of the first of them are compared on weights, where their files are on this machine. Small
            ones behind them are, too, if fingerprints call them relatives, or if no relative is among all that; zero
            for none at all.
        allow_pickle: read torch files (weights only).
        progress: called with (stage, fraction, message).
        workers, fleet: where models are compared on weights, see `spread.spread_out`.
        keep: file of comparisons on weights, and of what the nearest leaves, to which those of this run are added; what
            is there is not made again.

    Raises:
        UsageError: the cluster cannot be used.
    """
    start = time.monotonic()
    tell = progress or (lambda stage, fraction, message: None)
    run = _Run(str(model), allow_pickle, tell, workers, fleet, _Kept(keep, allow_pickle))
    tell("fingerprint", 0.0, str(model))
    mine = load(model, salt=library.salt, allow_pickle=allow_pickle)
    tried, failed = library.counts()
    tell("searching", 0.0, f"{tried} models")
    ranked, copies = _distinct(library, sketch(mine), candidates)
    here = [] if is_fingerprint(model) else [entry for entry, _ in ranked if _has_weights(entry.location)]
    first = {entry.location for entry, _ in ranked[:confirm]}
    on_weights = _on_weights([entry.location for entry in here if entry.location in first], run)
    found = _answers(mine, ranked, library, tried, on_weights, tell)
    # Fingerprints see units in place, and of twins of one start less than weights; a small model takes a second or two
    # to be looked at properly. First those that fingerprints alone call relatives, then all if there is none.
    light = [e.location for e in here if confirm and e.location not in first and (e.parameters or LIGHT + 1) <= LIGHT]
    for ask_all in (False, True):
        named = {c.location for c in found if c.verdict in RELATIVES}
        asked = [place for place in light if place in named or (ask_all and not named)]
        if asked := [place for place in asked if place not in on_weights]:
            on_weights |= _on_weights(asked, run)
            found = _answers(mine, ranked, library, tried, on_weights, tell)
    relatives = sorted((c for c in found if c.verdict in RELATIVES), key=_nearness)
    found = _against_the_rest(found, relatives, run)
    return Scan(
        producer=producer(),
        created=datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        inputs={"model": describe_fingerprint(mine), "library": str(library.folder)},
        options={"candidates": candidates, "confirm": confirm, "allow_pickle": allow_pickle},
        result=ScanResult(
            verdict="relatives-found" if relatives else "none-found" if _excludes(found) else "inconclusive",
            relatives=relatives,
            others=[c for c in found if c.verdict not in RELATIVES],
            multiplicity=_multiplicity(tried, found),
            not_checked=[
                *_not_checked(failed, tried, found, copies),
                *_not_held(mine, found, library),
                "models that are not in the library",
                *ALWAYS_UNCHECKED,
            ],
            seconds=round(time.monotonic() - start, 3),
        ),
    )


def _distinct(library: Library, query_E: Floats, wanted: int) -> tuple[list[tuple[Entry, float]], int]:
    """The nearest models, of those with equal fingerprints one, and how many others of them there are.

    Whoever may add to a library could fill all places with copies of one model. Of equal ones the first whose weights
    are on this machine is taken, else the first.
    """
    asked = wanted
    while True:
        ranked = library.nearest(query_E, asked)
        chosen: dict[str, tuple[Entry, float]] = {}
        for entry, similarity in ranked:
            key = entry.digest or entry.location
            before = chosen.get(key)
            if before is None or (not _has_weights(before[0].location) and _has_weights(entry.location)):
                chosen[key] = (entry, similarity)
        if len(chosen) >= wanted or len(ranked) < asked or asked >= MOST_RANKED:
            first = list(chosen.values())[:wanted]
            kept = {entry.digest for entry, _ in first}
            return first, sum(entry.digest in kept for entry, _ in ranked) - len(first)
        asked *= 4


def _answers(
    mine: Fingerprint,
    ranked: Sequence[tuple[Entry, float]],
    library: Library,
    tried: int,
    on_weights: Mapping[str, Comparison | str],
    tell: Progress,
) -> list[Candidate]:
    """An answer for each candidate, on weights where there is one."""
    found: list[Candidate] = []
    for rank, (entry, similarity) in enumerate(ranked, start=1):
        tell("comparing", (rank - 1) / len(ranked), entry.location)
        candidate = _candidate(mine, entry, library, rank, tried, on_weights.get(entry.location))
        found.append(candidate.model_copy(update={"similarity": similarity}))
    return found


@dataclass(frozen=True)
class _Run:
    """What is the same for all that a scan compares on weights: the model, and where and how it is done."""

    model: str
    allow_pickle: bool
    tell: Progress
    workers: int
    fleet: str | None
    kept: _Kept


def _against_the_rest(found: list[Candidate], relatives: Sequence[Candidate], run: _Run) -> list[Candidate]:
    """The same candidates; those that are no relatives on weights against what the nearest relative leaves."""
    near = next((c for c in relatives if c.compared == "weights" and c.verdict in ("related", "partly-related")), None)
    if near is None:
        return found
    beside = near.location
    apart = [c.location for c in found if c.compared == "weights" and c.verdict not in RELATIVES]
    rests = {place: rest for place in apart if (rest := run.kept.get(Rest, place, run.model, beside)) is not None}
    tasks = [HeldAgainstRest(place, run.model, beside, run.allow_pickle) for place in apart if place not in rests]
    for done in spread_out(look_at_rest, tasks, workers=run.workers, address=run.fleet):
        place, answer = done.task.location, done.result
        if isinstance(answer, Rest):
            run.kept.put(answer, place, run.model, beside)
        rests[place] = answer if isinstance(answer, Rest) else Rest(why_not=answer or done.lost)
        run.tell("what the nearest leaves", len(rests) / max(1, len(apart)), place)
    return [
        c.model_copy(update={"rest": rests[c.location], "rest_of": beside}) if c.location in rests else c for c in found
    ]


@dataclass(frozen=True)
class Confirming:
    """A model of the library to compare on weights, and the one that is scanned."""

    location: str
    model: str
    allow_pickle: bool = False


@dataclass(frozen=True)
class HeldAgainstRest:
    """A model of the library, and what to hold it against: the one that is scanned, without its relative's part."""

    location: str
    model: str
    beside: str
    allow_pickle: bool = False


def look_at_rest(task: HeldAgainstRest) -> Rest | str:
    """The answer, or in one sentence why there is none."""
    return _or_why_not(lambda: compare_rest(task.location, task.model, task.beside, allow_pickle=task.allow_pickle))


def confirm_one(task: Confirming) -> Comparison | str:
    """The comparison, or in one sentence why there is none."""
    return _or_why_not(lambda: compare(task.location, task.model, allow_pickle=task.allow_pickle))


def _or_why_not(answer: Callable[[], T]) -> T | str:
    try:
        return answer()
    except PedigreeError as error:
        return error.sentence()
    except ANY_FAULT as error:
        return f"could not be compared: {type(error).__name__}: {error}"[:500]


def _on_weights(locations: Sequence[str], run: _Run) -> dict[str, Comparison | str]:
    """Comparisons on weights by location, spread out; those that are kept are not made again."""
    found: dict[str, Comparison | str] = {
        place: record for place in locations if (record := run.kept.get(Comparison, place, run.model)) is not None
    }
    tasks = [Confirming(place, run.model, run.allow_pickle) for place in locations if place not in found]
    for done in spread_out(confirm_one, tasks, workers=run.workers, address=run.fleet):
        place = done.task.location
        found[place] = done.result if done.result is not None else str(done.lost)
        if isinstance(done.result, Comparison):
            run.kept.put(done.result, place, run.model)
        said = f"{len(found)} of {len(locations)}; {place}"
        run.tell("comparing on weights", len(found) / max(1, len(locations)), said)
    return found


class _Kept:
    """Answers about two or three models, in a file of JSON lines that is only added to; see `kinship.KeptPairs`.

    A line holds the marks of the models with colons between them, a space, and the record.
    """

    def __init__(self, path: Path | None, allow_pickle: bool) -> None:
        self._path, self._allow = path, allow_pickle
        self._marks: dict[str, str] = {}
        self._lines: dict[str, str] = {}
        if path is not None and path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise MalformedFile(
                    "the kept comparisons cannot be read", where=str(path), got=str(error), fix="name another file"
                ) from error
            self._lines = {marks: record for marks, _, record in (line.partition(" ") for line in lines)}

    def get(self, kind: type[Answer], *places: str) -> Answer | None:
        """The answer about these models, where it is there and readable."""
        line = self._lines.get(self._key(places)) if self._lines else None
        try:
            return None if line is None else kind.model_validate_json(line)
        except ValueError:
            return None

    def put(self, record: Record, *places: str) -> None:
        """Keep an answer; not where one of the models cannot be opened any more."""
        key = self._key(places) if self._path is not None else ""
        if self._path is None or not key:
            return
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(f"{key} {record.model_dump_json(by_alias=True)}\n")
            stream.flush()

    def _key(self, places: Sequence[str]) -> str:
        for place in places:
            if place not in self._marks:
                self._marks[place] = mark_of(place, self._allow)
        marks = [self._marks[place] for place in places]
        return ":".join(marks) if all(marks) else ""


def _candidate(
    mine: Fingerprint, entry: Entry, library: Library, rank: int, tried: int, whole: Comparison | str | None
) -> Candidate:
    """One candidate, on weights where it was compared so; what went wrong with it is said in its place."""
    blank = Candidate(location=entry.location, rank=rank)
    try:
        record = compare_fingerprints(library.fingerprint(entry), mine) if whole is None else whole
    except PedigreeError as error:
        record = error.sentence()
    if isinstance(record, str):
        return blank.model_copy(update={"compared": "", "error": record})
    on = "fingerprint" if whole is None else "weights"
    return blank.model_copy(update={"compared": on, **_answer(record, tried)})


def _has_weights(location: str) -> bool:
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


def _excludes(found: Sequence[Candidate]) -> bool:
    """Whether something was compared, and no comparison on weights was left open: then there is a candidate that may be
    a relative, as `compare` and `clear` say of the same two models. Fingerprints leave all strangers open."""
    if any(candidate.compared == "weights" and candidate.verdict == "inconclusive" for candidate in found):
        return False
    return any(candidate.compared and candidate.verdict != "not-testable" for candidate in found)


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


def _not_checked(failed: int, tried: int, found: Sequence[Candidate], copies: int) -> list[str]:
    out = []
    if failed:
        out.append(f"{failed} models of the library could not be read; pedigree library list names them")
    if copies:
        out.append(f"{copies} models have the fingerprint of a candidate and were not compared again")
    left = tried - len(found) - copies
    if left:
        out.append(f"{left} models were ranked behind the candidates and not compared; --candidates takes more")
        last = found[-1] if found else None
        if last is not None and (last.verdict in RELATIVES or (last.similarity or 0.0) >= NEAR):
            near = f"similarity {last.similarity or 0.0:.2f}"
            out.append(f"the last candidate is as near as relatives are ({near}): others as near may stand behind it")
    out += [believed(c.rest_of) for c in found if c.rest_of and c.rest and c.rest.verdict in RELATIVES][:1]
    open_on_weights = [c.location for c in found if c.compared == "weights" and c.verdict in UNTOLD]
    if open_on_weights:
        more = f" and {len(open_on_weights) - MOST_NAMED} more" if len(open_on_weights) > MOST_NAMED else ""
        out.append(f"comparisons on weights that cannot say: {', '.join(open_on_weights[:MOST_NAMED])}{more}")
    only = sum(candidate.compared == "fingerprint" for candidate in found)
    if only:
        out.append(
            f"{only} candidates were compared on fingerprints only, which see no order of units, and a stream that "
            "was turned only where vocabulary rows were kept"
        )
    return out


def _not_held(mine: Fingerprint, found: Sequence[Candidate], library: Library) -> list[str]:
    """What could not be asked where fingerprints of older versions were compared."""
    on_prints = [candidate.location for candidate in found if candidate.compared == "fingerprint"]
    bare = len(on_prints) if mine.model.norms is None else library.outdated(on_prints, WITHOUT_TOKEN_FRAME)
    still = len(on_prints) if not mine.model.turns else library.outdated(on_prints)
    out = []
    if bare:
        out.append(
            f"learned gains of norms, for {bare} candidates: fingerprints of version 1 hold none, so models of one "
            "random start that look like noisy copies are not told from them; library add makes them again"
        )
    if still:
        out.append(
            f"models whose stream was turned, for {still} candidates: one of the fingerprints holds no frame of "
            "vocabulary rows; library add makes those of older versions again"
        )
    return out
