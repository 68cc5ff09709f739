"""What the pages of audits and clearances say, in one place; fixed words, each with its sentence.

Sentences speak of files and records, never of people or intent.
"""

from __future__ import annotations

from collections.abc import Mapping

from pedigree.records.audit import Answer, Audit, AuditEdge, CheckWord, EdgeVerdict, Lie, Source, State
from pedigree.records.comparison import ErrorRate
from pedigree.report.numbers import percent_text, plural

EDGE_SENTENCES: Mapping[EdgeVerdict, str] = {
    "VERIFIED": "signed, in the tree, and under a checkpoint that somebody else holds",
    "REPLAYED": "the operation was done again and gave the same digests; the weights agree",
    "CORROBORATED": "the weights agree with what is claimed",
    "DECLARED": "recorded and signed; it could not be held against weights",
    "UNKNOWN": "claimed or left open, and nothing at hand can be held against it",
    "STALE": "the weights are those recorded, other files beside them have changed since",
    "SUSPECT": "a check is in doubt",
    "CONTRADICTED": "weights, files or signatures say something else",
}
ANSWER_SENTENCES: Mapping[EdgeVerdict, str] = {
    "VERIFIED": "Every claim stands as it was recorded.",
    "REPLAYED": "Every claim that could be asked is borne out by the weights.",
    "CORROBORATED": "Every claim is borne out by the weights.",
    "DECLARED": "No claim is contradicted; at least one is recorded only and could not be held against weights.",
    "UNKNOWN": "No claim is contradicted; at least one could not be held against anything.",
    "STALE": "The weights are as claimed, but files beside them are not those that were recorded.",
    "SUSPECT": "No claim is contradicted outright; at least one is in doubt.",
    "CONTRADICTED": "At least one claim is contradicted by the weights, the files or the record.",
}
# For a page and for ASCII: a second sign beside the word, for those who skim.
EDGE_MARKS: Mapping[EdgeVerdict, str] = {
    "VERIFIED": "\u25c6", "REPLAYED": "\u25c6", "CORROBORATED": "\u25cf", "DECLARED": "\u25cb", "UNKNOWN": "?",
    "STALE": "\u25d0", "SUSPECT": "\u25d1", "CONTRADICTED": "\u2717",
}  # fmt: skip
LIE_SENTENCES: Mapping[Lie, str] = {
    "undeclared-parent": "a model that is not named had a part in it",
    "swapped-sibling": "another model is the nearer relative",
    "hidden-step": "more or something else was done than is recorded",
    "wrong-upload": "the files are those of another model",
    "not-from-scratch": "it did not begin with random weights",
    "not-the-parent": "the declared parent is none",
    "frozen-moved": "weights that were recorded as frozen have changed",
    "frozen-undeclared": "weights were left as they were without a record of it",
    "changed-files": "the files are not those that were recorded",
    "backwards": "what is called the child was there before what is called the parent",
}
CHECK_NAMES: Mapping[CheckWord, str] = {
    "files": "files", "relation": "relation", "operation": "operation", "steps": "steps", "states": "saved states",
    "frozen": "frozen parts", "parents": "other parents", "nearest": "nearest relative", "start": "random start",
    "direction": "direction",
}  # fmt: skip
ANSWER_NAMES: Mapping[Answer, str] = {
    "agrees": "agrees", "note": "noted", "cannot-say": "cannot say", "doubtful": "in doubt", "disagrees": "disagrees",
}  # fmt: skip
STATE_SENTENCES: Mapping[State, str] = {
    "as-recorded": "as recorded", "weights-as-recorded": "weights as recorded, other files changed",
    "changed": "not as recorded", "unrecorded": "in no record", "missing": "recorded; its files are not here",
    "unreadable": "could not be read",
}  # fmt: skip
SOURCE_NAMES: Mapping[Source, str] = {
    "ledger": "ledger", "card": "model card", "family": "record of the family"
}  # fmt: skip
NOTHING_CLAIMED = (
    "Nothing is claimed of these models in a ledger, a record of the family or a model card; nothing was compared."
)
WHAT_IT_IS_NOT = (
    "This is a finding about files and what is recorded of them. It says nothing about people, intent, lawfulness or "
    "quality. A record shows what was recorded, not that all was."
)


def source_text(edge: AuditEdge) -> str:
    """Who claims it."""
    return f"entry {edge.entry}" if edge.source == "ledger" else SOURCE_NAMES[edge.source]


def claim_text(edge: AuditEdge) -> str:
    """The claim in a few words: child, parent, operation."""
    if edge.role == "start":
        return f"{edge.child_name} began with random weights"
    if edge.role == "origin":
        return f"{edge.child_name} came from elsewhere ({edge.parent_name or 'not told'})"
    parent = edge.parent_name or "an unnamed model"
    if edge.operation == "descends":
        return f"{edge.child_name} descends from {parent}"
    return f"{edge.child_name} was made from {parent} by {edge.operation}"


def counts_text(audit: Audit) -> str:
    """How many edges have which word, gravest first."""
    order = list(EDGE_SENTENCES)
    counts = sorted(audit.result.counts.items(), key=lambda item: -order.index(item[0]))
    return ", ".join(f"{count} {word.lower()}" for word, count in counts)


def measured_text(rate: ErrorRate | None, wrong: int | None) -> str:
    """The measured rate and the end of its interval, with the pairs behind them."""
    if rate is None or wrong is None:
        return "no error rate was measured for these comparisons"
    bound = percent_text(rate.false_positive_upper_95)
    measured = f"{wrong} of {plural(rate.pairs, 'independent pair')} called related ({rate.benchmark})"
    return f"{measured}; that still allows a rate of {bound} (upper end of the 95 % interval)"


def several_text(pairs: int, bound: float | None) -> str:
    """What many comparisons do to the error rate."""
    if bound is None or not pairs:
        return "nothing was compared"
    many = f"{plural(pairs, 'pair')} compared here"
    return f"{many}: chance of any false relation among so many independent ones at most {percent_text(bound)}"
