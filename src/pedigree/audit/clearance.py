"""Clearance: one model against every model of a library, with the limit of what would have been seen.

Every model whose weights are on this machine is compared on its weights. One that is there as a fingerprint only is
compared on fingerprints, which find relatives whose units stand in place and exclude none: it leaves the answer open.
p-values are multiplied by the number of models that were tried (Bonferroni).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.errors import PedigreeError
from pedigree.ledger.directory import look_at
from pedigree.records.artifact import name_of_folder
from pedigree.records.audit import Clearance, ClearanceResult, Cleared
from pedigree.records.comparison import Comparison, Verdict
from pedigree.records.scan import Multiplicity

if TYPE_CHECKING:
    from pedigree.forensics.fingerprints.fingerprint import Fingerprint
    from pedigree.forensics.scanning.library import Entry, Library

Tell = Callable[[str, float, str], None]
RULE = "p-values are multiplied by the number of models of the library (Bonferroni)"
_STRONGEST: tuple[Verdict, ...] = ("identical", "related", "partly-related", "shared-initialization")


def clear(
    folder: Path,
    library: Library,
    *,
    allow_pickle: bool = False,
    tell: Tell = lambda stage, fraction, message: None,
) -> Clearance:
    """Test a model against every model of a library.

    Args:
        folder: where the model lies.
        library: an open library.
        allow_pickle: read torch files (weights only).
        tell: called with (stage, fraction, message).

    Raises:
        PedigreeError: the model cannot be read.
    """
    from pedigree.forensics.comparison.bank import error_rate, false_positives
    from pedigree.forensics.comparison.record import producer
    from pedigree.weights.checkpoint import open_checkpoint

    begun = time.monotonic()
    with open_checkpoint(folder, allow_pickle=allow_pickle):
        pass  # what is wrong with the model itself is no matter of the library's entries
    mine = look_at(folder)
    entries = library.entries()
    others = [entry for entry in entries if not _is_itself(entry, folder)]
    tried = sum(entry.error is None for entry in others)
    asked = _Asked(folder, library, allow_pickle, tried)
    answers: list[tuple[Cleared, Comparison | None]] = []
    for number, entry in enumerate(others):
        tell("comparing", number / max(1, len(others)), entry.location)
        answers.append(asked.of(entry))
    answers.sort(key=lambda pair: _nearness(pair[0]))
    against = [answer for answer, _ in answers]
    rate, on_weights = error_rate(), [one for one in against if one.compared == "weights"]
    verdict = _verdict(against)
    bound = 1 - math.exp(tried * math.log1p(-rate.false_positive_upper_95)) if rate and on_weights else None
    limits = [one.detection_limit for one in on_weights if one.detection_limit is not None]
    return Clearance(
        producer=producer(),
        created=datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        inputs={"model": str(folder), "library": str(library.folder)},
        options={"allow_pickle": allow_pickle},
        result=ClearanceResult(
            verdict=verdict, artifact=mine.artifact.id, name=name_of_folder(folder), library=library.folder.name,
            against=against,
            left_out=[f"{_name(entry)}: it is the model itself" for entry in entries if _is_itself(entry, folder)],
            detection_limit=max(limits, default=None),
            multiplicity=Multiplicity(
                tried=tried, compared=sum(bool(one.compared) for one in against), rule=RULE, any_false_upper_95=bound
            ),
            nearest=next((record for _, record in answers if record is not None), None),
            error_rate=rate if on_weights else None,
            false_positives=false_positives() if on_weights else None,
            not_checked=_not_checked(against, limits),
            seconds=round(time.monotonic() - begun, 3),
        ),
    )  # fmt: skip


class _Asked:
    """The model beside one entry after the other; its fingerprint is made when it is first needed."""

    def __init__(self, folder: Path, library: Library, allow_pickle: bool, tried: int) -> None:
        self.folder, self.library, self.allow_pickle, self.tried = folder, library, allow_pickle, tried
        self._mine: Fingerprint | None = None

    def of(self, entry: Entry) -> tuple[Cleared, Comparison | None]:
        """The answer on one model; what goes wrong with it is said in its place."""
        blank = Cleared(
            name=_name(entry), location=entry.location, digest=entry.header_digest, error=entry.error,
            architecture=entry.architecture or "",
        )  # fmt: skip
        if entry.error is not None:
            return blank, None
        try:
            return self._on_weights(entry, blank) if _is_here(entry) else self._on_fingerprint(entry, blank)
        except PedigreeError as error:
            return blank.model_copy(update={"error": error.sentence()}), None

    def _on_weights(self, entry: Entry, blank: Cleared) -> tuple[Cleared, Comparison]:
        from pedigree.forensics.pair import look_at_pair

        pair = look_at_pair(entry.location, self.folder, allow_pickle=self.allow_pickle)
        told = self._told(pair.comparison)
        limit = pair.detection_limit if pair.verdict in ("unrelated", "inconclusive") else None
        return blank.model_copy(update={"compared": "weights", "detection_limit": limit, **told}), pair.comparison

    def _on_fingerprint(self, entry: Entry, blank: Cleared) -> tuple[Cleared, Comparison]:
        from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints, load

        if self._mine is None:
            self._mine = load(self.folder, salt=self.library.salt, allow_pickle=self.allow_pickle)
        record = compare_fingerprints(self.library.fingerprint(entry), self._mine)
        return blank.model_copy(update={"compared": "fingerprint", **self._told(record)}), record

    def _told(self, record: Comparison) -> dict[str, object]:
        result = record.result
        z = record.evidence_map.z if record.evidence_map is not None else []
        p = result.log10_p
        return {
            "verdict": result.verdict,
            "log10_p": p,
            "log10_p_corrected": None if p is None else min(0.0, p + math.log10(max(1, self.tried))),
            "score": max((value for row in z for value in row if value is not None), default=None),
            "strength": result.strength,
        }


def _verdict(against: Sequence[Cleared]) -> Verdict:
    """The word of the nearest relative; `unrelated` only where every model was compared on its weights and is so."""
    for word in _STRONGEST:
        if any(one.verdict == word for one in against):
            return word
    done = all(one.verdict == "unrelated" and one.compared == "weights" for one in against)
    return "unrelated" if against and done else "inconclusive"


def _not_checked(against: Sequence[Cleared], limits: Sequence[float]) -> list[str]:
    told = []
    only = [one.name for one in against if one.compared == "fingerprint" and one.verdict not in _STRONGEST]
    if only:
        told.append(f"weights of {_listed(only)}: fingerprints see units in place and exclude no relation")
    told += [f"{one.name}: {one.error}" for one in against if one.error is not None]
    open_ones = [
        one.name for one in against if one.compared == "weights" and one.verdict in ("inconclusive", "not-testable")
    ]
    if open_ones:
        told.append(f"the comparison with {_listed(open_ones)} cannot say")
    if limits:
        told.append(f"an overlap below {max(limits):.1%} of the units of every layer would not have been seen")
    told.append("models that are not in the library")
    told.append("distillation and training on another model's outputs leave no trace in weights")
    return told


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _nearness(one: Cleared) -> tuple[int, float, str]:
    strongest = _STRONGEST.index(one.verdict) if one.verdict in _STRONGEST else len(_STRONGEST)
    return strongest, -(one.score or 0.0), one.location


def _name(entry: Entry) -> str:
    if "://" in entry.location:
        return entry.location.rstrip("/").rsplit("/", maxsplit=1)[-1]
    return name_of_folder(Path(entry.location))


def _is_here(entry: Entry) -> bool:
    from pedigree.forensics.fingerprints.fingerprint import is_fingerprint

    place = entry.location
    return "://" not in place and Path(place).exists() and not is_fingerprint(place)


def _is_itself(entry: Entry, folder: Path) -> bool:
    return "://" not in entry.location and Path(entry.location).resolve() == folder.resolve()
