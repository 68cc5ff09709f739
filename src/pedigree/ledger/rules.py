"""The rules of a policy, held against the record of one model: each is kept, set aside by a signed entry, or not kept.

Law  nothing passes without a trace: a rule that is not kept and was set aside names the entry that did so, its signer
     and its reason; `record` - signatures, places in the tree, keys, files - is never set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from pedigree.ledger.entry import Entry
from pedigree.ledger.key_ring import KeyLife
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.passport import Ancestor, Passport
from pedigree.ledger.verdict import SAYS_NO, WORST_LAST, Problem
from pedigree.ledger.verification import Verification
from pedigree.records.policy import EvaluationRule, Policy

NEVER_WAIVED = ("record",)
_FOUND = ("REPLAYED", "CORROBORATED")


@dataclass(frozen=True)
class Ruling:
    """One rule: whether it is kept, what was found or is missing, and who set it aside where it is not."""

    rule: str
    kept: bool
    sentence: str
    waived_by: int | None = None
    waiver: str = ""

    @property
    def passes(self) -> bool:
        """Kept, or set aside."""
        return self.kept or self.waived_by is not None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "passes": self.passes}


@dataclass(frozen=True)
class Case:
    """What is judged: a model, its passport, and the verification that both were read from.

    `problems` are those of the files and of the life of the model.
    """

    passport: Passport
    report: Verification
    problems: Sequence[Problem]

    @property
    def ids(self) -> set[str]:
        """Digests of the model: as it is, and as it was before its card was written."""
        return {self.passport.digest, self.passport.described}

    def about(self, *kinds: str) -> Iterator[Entry]:
        """Entries of some kinds about this model that are signed by keys good for them."""
        spoiled = {item.entry for item in self.report.problems if item.verdict in SAYS_NO}
        for entry in self.report.entries:
            good = entry.leaf.kind in kinds and entry.said is not None and entry.index not in spoiled
            if good and self.ids & set(entry.leaf.subjects):
                yield entry

    def signers(self, entry: Entry) -> list[KeyLife]:
        """The keys that signed an entry and were good at it."""
        if entry.envelope is None:
            return []
        lives = [life for life in self.report.ring.lives.values() if life.good_at(entry.index)]
        signed = {key.id for key in entry.envelope.signers([life.key for life in lives])}
        return [life for life in lives if life.key.id in signed]


def judge(policy: Policy, case: Case) -> list[Ruling]:
    """Hold every rule of a policy against a model; the rules that it does not name are not asked."""
    found = [
        *_record(case), *_release(policy, case), *_edges(policy, case), *_evidence(policy, case),
        *_ancestry(policy, case), *_freshness(policy, case),
    ]  # fmt: skip
    waivers = _waivers(policy, case)
    return [_waived(ruling, waivers) for ruling in found]


def named(life: KeyLife, words: Iterable[str]) -> bool:
    """Whether a key is meant by one of some words: its name, or eight digits of its id or of its holder's first."""
    ids = (life.key.id, life.first)
    return any(
        (word and word == life.name) or (len(word) >= 8 and any(known.startswith(word) for known in ids))
        for word in words
    )


def _record(case: Case) -> Iterator[Ruling]:
    grave = [item for item in case.problems if item.verdict in SAYS_NO and item.verdict != "STALE"]
    if case.passport.entry is None:
        yield Ruling("record", False, "no entry of the ledger makes this model")
    elif grave:
        more = f", and {len(grave) - 1} more" if len(grave) > 1 else ""
        yield Ruling("record", False, grave[0].sentence + more)
    else:
        yield Ruling("record", True, f"{case.passport.life.entries} entries behind the model hold")


def _release(policy: Policy, case: Case) -> Iterator[Ruling]:
    """Whether those who may released it, and how many of them signed."""
    if policy.release is None:
        return
    releases = list(case.about("release"))
    if not releases:
        yield Ruling("release", False, "no release of this model is recorded: pedigree ledger export --release DIR")
    else:
        yield Ruling("release", True, f"released by entry {releases[-1].index}")
    signed = {
        life.first: life for entry in (*releases, *case.about("approval")) for life in case.signers(entry)
        if life.role == "actor"
    }  # fmt: skip
    strange = [life for entry in releases[-1:] for life in case.signers(entry) if not named(life, policy.release.by)]
    if policy.release.by and releases:
        kept = not strange
        whose = ", ".join(life.name or life.key.id[:12] for life in strange)
        yield Ruling("signers", kept, "signed by those who may" if kept else f"the release is signed by {whose}")
    counted = [life for life in signed.values() if not policy.release.by or named(life, policy.release.by)]
    wanted = policy.release.signatures
    names = ", ".join(sorted(life.name or life.key.id[:12] for life in counted)) or "nobody"
    missing = "" if len(counted) >= wanted else ": pedigree ledger approve DIR"
    yield Ruling("signatures", len(counted) >= wanted, f"{len(counted)} of {wanted} signatures, by {names}{missing}")


def _edges(policy: Policy, case: Case) -> Iterator[Ruling]:
    """Whether every edge behind the model is worth as much as is asked for."""
    if policy.edges is None:
        return
    limit = WORST_LAST.index(policy.edges.upper())
    bad = [edge for edge in case.passport.life.edges if WORST_LAST.index(edge.verdict) > limit]
    if bad:
        edge = bad[0]
        told = f"{edge.child_name or edge.child[:12]} <- {edge.parent_name or edge.parent[:12] or 'nothing'}"
        yield Ruling("edges", False, f"{len(bad)} edges are worth less than {policy.edges}: {told} is {edge.verdict}")
    else:
        yield Ruling("edges", True, f"{len(case.passport.life.edges)} edges, none worth less than {policy.edges}")


def _evidence(policy: Policy, case: Case) -> Iterator[Ruling]:
    for word in policy.audits:
        yield _lineage(case) if word == "lineage" else _attached(word, case)
    for rule in policy.evaluations:
        yield _evaluation(rule, case)


def _lineage(case: Case) -> Ruling:
    """Whether a signed finding of the weights, or a replay, stands behind every edge between weights."""
    found = {
        (str(entry.facts.get("child")), str(entry.facts.get("parent")))
        for entry in case.report.entries
        if entry.leaf.kind in ("forensic", "replay") and entry.facts.get("verdict") in _FOUND
    }
    edges = [edge for edge in case.passport.life.edges if edge.parent and edge.operation != "document"]
    missing = [edge for edge in edges if (edge.child, edge.parent) not in found]
    if missing:
        names = ", ".join(edge.child_name or edge.child[:12] for edge in missing[:3])
        sentence = f"{len(missing)} of {len(edges)} edges have no finding (pedigree ledger replay): {names}"
        return Ruling("audits", False, sentence)
    return Ruling("audits", True, f"lineage: findings on all {len(edges)} edges")


def _attached(word: str, case: Case) -> Ruling:
    for entry in case.about("attach"):
        if word in (entry.facts.get("name"), str(entry.facts.get("schema", "")).removeprefix("pedigree/")):
            return Ruling("audits", True, f"{word}: entry {entry.index}")
    return Ruling("audits", False, f"no {word} is attached: pedigree ledger attach DIR FILE")


def _evaluation(rule: EvaluationRule, case: Case) -> Ruling:
    """The newest attached number of one measurement, and its limits."""
    value, at = None, None
    for entry in case.about("attach"):
        numbers = entry.facts.get("numbers")
        if isinstance(numbers, dict) and rule.of in numbers:
            value, at = _number(numbers[rule.of]), entry.index
    if value is None:
        return Ruling("evaluations", False, f"no evaluation of {rule.of} is attached: pedigree ledger attach DIR FILE")
    if rule.at_most is not None and not value <= rule.at_most:
        return Ruling("evaluations", False, f"{rule.of} is {value:g}, at most {rule.at_most:g} is asked (entry {at})")
    if rule.at_least is not None and not value >= rule.at_least:
        return Ruling("evaluations", False, f"{rule.of} is {value:g}, at least {rule.at_least:g} is asked (entry {at})")
    return Ruling("evaluations", True, f"{rule.of} is {value:g} (entry {at})")


def _ancestry(policy: Policy, case: Case) -> Iterator[Ruling]:
    made = case.passport
    if policy.ancestors is not None:
        own = Ancestor(made.described, made.name, "self", made.operation, made.entry, made.origin)
        bad = [item for item in (own, *made.ancestors) if _meant(item, policy.ancestors.exclude)]
        sentence = ", ".join(item.hub or item.name for item in bad[:4])
        yield Ruling(
            "ancestors", not bad, f"excluded: {sentence}" if bad else f"{len(made.ancestors)} ancestors, allowed"
        )
        if policy.ancestors.unrecorded == "refuse":
            missing = [item.name for item in made.ancestors if item.entry is None]
            yield Ruling("unrecorded", not missing, f"never registered: {', '.join(missing[:4])}" if missing
                         else "every ancestor is registered")  # fmt: skip
    if policy.licenses is not None:
        yield from _licenses(policy, made)
    if policy.datasets is not None:
        bad_data = [
            item.hub or item.name for item in made.datasets
            if any(_matches(word, (item.name, item.hub), item.digest) for word in policy.datasets.exclude)
        ]  # fmt: skip
        told = f"excluded: {', '.join(bad_data[:4])}" if bad_data else f"{len(made.datasets)} data sets, allowed"
        yield Ruling("datasets", not bad_data, told)
    if policy.scratch is not None and policy.scratch.required:
        foreign = [f"{name} ({role})" for name, role in _foreign(case) if role not in policy.scratch.allow]
        told = f"from elsewhere: {', '.join(dict.fromkeys(foreign))[:200]}" if foreign else "nothing from elsewhere"
        yield Ruling("scratch", not foreign, told)


def _licenses(policy: Policy, made: Passport) -> Iterator[Ruling]:
    rules = policy.licenses
    if rules is None:
        return
    held = [(made.name, made.license), *((item.hub or item.name, item.license) for item in made.ancestors)]
    bad = [f"{name}: {word}" for name, word in held if word and _any(word, rules.exclude)]
    imported = [made.name] if made.imported and not made.license else []
    imported += [item.hub or item.name for item in made.ancestors if item.imported and not item.license]
    if bad:
        yield Ruling("licenses", False, f"excluded: {', '.join(bad[:4])}")
    elif imported and rules.unknown == "refuse":
        fix = "pedigree import DIR --license WORD"
        yield Ruling("licenses", False, f"no license is recorded of {', '.join(imported[:4])}: {fix}")
    else:
        yield Ruling("licenses", True, "none is excluded")


def _foreign(case: Case) -> Iterator[tuple[str, str]]:
    """What came from elsewhere, or from where nothing is recorded, with the role in which it was used."""
    made, graph = case.passport, Lineage.of_entries(case.report.entries)
    if made.imported:
        yield made.name, "self"
    for item in made.ancestors:
        if item.imported or item.entry is None:
            yield item.hub or item.name, item.role
    for entry in made.makers:
        for parent in entry.said.parents if entry.said is not None else ():
            at = graph.maker(parent.digest)
            if parent.role == "tokenizer" and at is not None and graph.leaves[at].kind == "artifact.import":
                yield parent.name or parent.digest[:12], "tokenizer"


def _freshness(policy: Policy, case: Case) -> Iterator[Ruling]:
    rules = policy.freshness
    if rules is not None and rules.max_age_days is not None:
        age = case.report.age_days
        kept = age is not None and age <= rules.max_age_days
        told = "unknown" if age is None else f"{age:.1f} days"
        yield Ruling("freshness", kept, f"age of the newest entry: {told}, at most {rules.max_age_days:g}")
    if rules is not None and rules.anchored:
        at = case.passport.entry
        kept = at is not None and at < case.report.anchored
        covered = f"a checkpoint held outside covers {case.report.anchored:,} entries"
        yield Ruling(
            "anchored", kept, covered if kept else "no checkpoint held outside covers the model: --checkpoint FILE"
        )


def _waivers(policy: Policy, case: Case) -> dict[str, tuple[int, str]]:
    """The rules that somebody who may has set aside for this model: entry and reason."""
    rules = policy.waivers
    found: dict[str, tuple[int, str]] = {}
    for entry in case.about("waiver") if rules is not None else ():
        who = [life for life in case.signers(entry) if rules is not None and named(life, rules.by)]
        word = str(entry.facts.get("rule"))
        if who and rules is not None and word in rules.rules and word not in NEVER_WAIVED:
            found[word] = (entry.index, f"{who[0].name or who[0].key.id[:12]}: {entry.facts.get('reason')}")
    return found


def _waived(ruling: Ruling, waivers: dict[str, tuple[int, str]]) -> Ruling:
    if ruling.kept or ruling.rule not in waivers:
        return ruling
    entry, why = waivers[ruling.rule]
    return replace(ruling, waived_by=entry, waiver=why)


def _meant(item: Ancestor, words: Iterable[str]) -> bool:
    return any(_matches(word, (item.name, item.hub), item.digest) for word in words)


def _matches(word: str, names: Iterable[str], digest: str) -> bool:
    """Whether a word of a policy means something: a digest by at least eight digits, or a pattern of a name."""
    digits = word.removeprefix("sha256:").lower()
    if len(digits) >= 8 and digest.startswith(digits):
        return True
    return any(name and fnmatchcase(name.lower(), word.lower()) for name in names)


def _any(word: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(word.lower(), pattern.lower()) for pattern in patterns)


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
