"""Every sentence the terminal and the report say about a comparison, in one place.

Rules
1. Sentences speak of files and weights, never of people, intent or law.
2. The words for verdicts are fixed; a verdict is always a word and a sentence, never a number alone.
3. Transformations are read from A to B; they describe a difference and do not by themselves say who was first.
4. What a test establishes is "not independent under its null", never the probability that somebody copied.
"""

from __future__ import annotations

import shlex

from pedigree.records.annex import Likeness
from pedigree.records.comparison import (
    DEPTHS,
    Comparison,
    ComponentVerdict,
    DirectionVerdict,
    ErrorRate,
    GaugeKind,
    InputRecord,
    Rest,
    Result,
    TestRecord,
    Verdict,
)
from pedigree.report.numbers import (
    bytes_text,
    count_text,
    number_text,
    p_text,
    percent_text,
    plural,
    seconds_text,
)

VERDICT_SENTENCES: dict[Verdict, str] = {
    "identical": "A and B hold the same weights, whatever the files, names and number formats around them.",
    "related": "The trained weights of A and B share ancestry.",
    "partly-related": "Some parts of A and B share ancestry, others do not.",
    "shared-initialization": "A and B began from the same random start and were trained apart.",
    "unrelated": "Tested, and no relation was found between the trained weights of A and B.",
    "inconclusive": "The tests that could be made do not say whether A and B are related.",
    "not-testable": "A and B offer nothing that these tests can compare.",
}

# For a page and for a terminal that has only ASCII: a second sign beside the word, for those who skim.
VERDICT_MARKS: dict[Verdict, tuple[str, str]] = {
    "identical": ("\u25c6", "="),
    "related": ("\u25cf", "+"),
    "partly-related": ("\u25d0", "/"),
    "shared-initialization": ("\u25c7", "~"),
    "unrelated": ("\u25cb", "-"),
    "inconclusive": ("?", "?"),
    "not-testable": ("\u00d7", "x"),
}

COMPONENT_SENTENCES: dict[ComponentVerdict, str] = {
    "identical": "the same numbers",
    "related": "shares ancestry",
    "shared-initialization": "same random start, trained apart",
    "unrelated": "no relation found",
    "inconclusive": "cannot tell",
    "not-testable": "not testable",
}

COMPONENT_NAMES: dict[str, str] = {
    "embed": "embeddings",
    "attn": "attention",
    "mlp": "feed-forward",
    "experts": "experts",
    "norm": "norms",
    "head": "output head",
}

DIRECTION_SENTENCES: dict[DirectionVerdict, str] = {
    "a-to-b": "B descends from A",
    "b-to-a": "A descends from B",
    "undetermined": "not determined",
}

GAUGE_SENTENCES: dict[GaugeKind, str] = {
    "identity": "both use the same basis; nothing had to be undone",
    "signed-permutation": "hidden coordinates stand in another order or sign; undone before the tests",
    "orthogonal": "the hidden space is rotated; undone before the tests",
    "partial-isometry": "the hidden spaces differ in size; the smaller was placed in the larger before the tests",
    "none": "no common basis was found",
}

LIKENESS_SENTENCES: dict[Likeness, str] = {
    "same": "the same on both sides",
    "partly": "partly the same",
    "different": "different",
    "one-side": "on one side only",
    "neither": "on neither side",
}

QUESTION = "Do the trained weights of A and B share ancestry?"
_PAID_FOR_TESTS = 1.5  # log10: thirty tests at most
_SAYS_NOTHING = -1.0  # log10: a p-value above one in ten supports no finding
_IS_ONE = -0.002  # log10: above it a p-value reads as 1

WHAT_IT_IS_NOT = "This is a finding about files. It says nothing about people, intent, lawfulness or quality."
SIGNIFICANCE_IS_NOT_SHARE = (
    "The p-value says how badly the weights fit independence. It is not the share that was inherited, "
    "and not the probability that anyone did anything."
)


def component_name(key: str) -> str:
    """The plain name of a component key."""
    return COMPONENT_NAMES.get(key, key)


def verdict_sentence(result: Result) -> str:
    """The verdict as one plain sentence, with the list for `partly-related` and the limit for `unrelated`."""
    sentence = VERDICT_SENTENCES[result.verdict]
    if result.verdict == "partly-related":
        alike = [key for key, part in result.components.items() if part.verdict in ("related", "identical")]
        if alike:
            names = ", ".join(component_name(key) for key in alike)
            foreign = any(part.verdict == "unrelated" for part in result.components.values())
            return f"Some parts share ancestry ({names}), {'others do not' if foreign else 'others could not be told'}."
    return sentence


def decisive_test(result: Result) -> TestRecord | None:
    """The applicable test that the stated p-value comes from; None where it comes from no single test.

    A stated p-value may be a little larger than that of its test: it has paid for the number of tests made.
    """
    made = [test for test in result.tests if test.applicable and test.log10_p is not None]
    best = min(made, key=lambda test: test.log10_p or 0.0, default=None)
    if best is None or best.log10_p is None or result.log10_p is None:
        return None
    return best if abs(best.log10_p - result.log10_p) <= _PAID_FOR_TESTS else None


def sure_sentences(result: Result) -> list[str]:
    """How sure: the effect in the engine's words, and the p-value with the null it belongs to."""
    sentences = [result.strength.rstrip(".")] if result.strength else []
    if result.log10_p is not None:
        found = result.verdict in ("related", "partly-related", "shared-initialization", "identical")
        if found and result.log10_p > _SAYS_NOTHING:
            sentences.append("no exact test applies here; the controls and the error rate speak")
        else:
            sentences.append(_p_sentence(result.log10_p, decisive_test(result)))
    screened = screen_sentence(result)
    if screened:
        sentences.append(screened)
    return sentences or ["no number was obtained"]


def screen_sentence(result: Result) -> str:
    """Why a pair that is not said to be related deserves a closer look, or nothing."""
    points = result.operating_points
    if points is None or points.accuse.flagged or not points.screen.flagged:
        return ""
    return f"worth a closer look, which is no finding: {', '.join(points.screen.reasons)}"


def _p_sentence(log10_p: float, test: TestRecord | None) -> str:
    p = p_text(log10_p)
    if log10_p > _IS_ONE:
        return f"exact tests: {p}"
    if test is None:
        return f"{p} under independence"
    if not test.null:
        return f"{p} under the null of test {test.name}"
    return f'{p} under the null "{test.null.rstrip(".")}" (test {test.name})'


def error_sentence(rate: ErrorRate | None) -> str:
    """The false-positive rate with the number of pairs behind it, or that it is unknown."""
    if rate is None:
        return "no error rate has been measured for this comparison"
    bound = percent_text(rate.false_positive_upper_95)
    where = f", {rate.benchmark}" if rate.benchmark else ""
    sentence = f"at most {bound} of independent pairs called related (95 % bound; {rate.pairs} pairs{where})"
    return f"{sentence}; {rate.note}" if rate.note else sentence


def direction_sentence(result: Result) -> str:
    """Who came first, with its log odds, or that it was not determined."""
    direction = result.direction
    sentence = DIRECTION_SENTENCES[direction.verdict]
    if direction.verdict != "undetermined" and direction.log_odds is not None:
        sentence += f" (log odds {number_text(abs(direction.log_odds))})"
    elif direction.verdict_if_descent != "undetermined" and direction.log_odds_if_descent is not None:
        first = "A" if direction.verdict_if_descent == "a-to-b" else "B"
        sentence += f"; if one descends from the other, {first} came first"
        sentence += f" (log odds {number_text(abs(direction.log_odds_if_descent))}), else they are siblings"
    return sentence


def has_direction(result: Result) -> bool:
    """Whether who came first is a question at all: found to be related, or answered."""
    return result.direction.verdict != "undetermined" or result.verdict in ("related", "partly-related")


def gauge_sentence(result: Result) -> str:
    """Which change of basis was undone and how well it held where it was not fitted."""
    sentence = GAUGE_SENTENCES[result.gauge.kind]
    if result.gauge.held_out is not None:
        sentence += f"; agreement on held-out tensors {number_text(result.gauge.held_out)}"
    return sentence


def rest_sentence(rest: Rest) -> str:
    """What B looks like beside A once a decoy's part is taken out of it."""
    if rest.verdict is None:
        return f"B without it was not compared: {rest.why_not or 'no reason is given'}"
    parts = [f"B without it is {rest.verdict} to A" if rest.verdict != "shared-initialization" else
             "B without it and A began from one random start"]  # fmt: skip
    if rest.score is not None:
        parts.append(f"z {number_text(rest.score)}")
    if rest.share is not None:
        parts.append(f"{number_text(rest.share)} of A beside {number_text(rest.taken_out or 0.0)} of it")
    if rest.moved:
        parts.append("it was moved as B was")
    if rest.error_rate is not None and rest.verdict in ("related", "partly-related", "shared-initialization"):
        bound = f"{100.0 * rest.error_rate.false_positive_upper_95:.2g} %"
        parts.append(f"said falsely at most {bound} of the time ({rest.error_rate.pairs} looks, 95 %)")
    return ", ".join(parts)


def off_diagonal_sentence(result: Result) -> str | None:
    """What layer pairs that should not match scored, None where none were compared."""
    off = result.controls.off_diagonal
    if not off:
        return None
    count = off.get("n")
    parts = [
        f"{label} {number_text(float(off[key]))}"
        for key, label in (("mean", "mean"), ("sd", "sd"), ("max", "highest"))
        if isinstance(off.get(key), int | float)
    ]
    lead = plural(int(count), "unmatched layer pair") if isinstance(count, int | float) else "unmatched layer pairs"
    least = off.get("matched_min")
    beside = f"; matched ones at least {number_text(float(least))}" if isinstance(least, int | float) else ""
    return f"{lead}: {', '.join(parts)}{beside}" if parts else lead


def read_sentence(result: Result) -> str:
    """Bytes and seconds, and the depth that gave the answer."""
    read = result.read
    if read.bytes > read.of:
        amount = f"{bytes_text(read.bytes)} from files of {bytes_text(read.of)} (parts of them more than once)"
    elif read.of:
        amount = f"{bytes_text(read.bytes)} of {bytes_text(read.of)} ({percent_text(read.bytes / read.of)})"
    else:
        amount = bytes_text(read.bytes)
    return f"{amount} in {seconds_text(read.seconds)}, depth {result.depth}"


def input_sentence(record: InputRecord) -> str:
    """Architecture, format and size of one side."""
    architecture = record.architecture
    if record.inferred:
        # "inferred" is what an architecture is called for which no table fits.
        architecture = "inferred roles" if architecture == "inferred" else f"{architecture} (inferred)"
    parts = [text for text in (architecture, record.format) if text]
    if record.parameters is not None:
        parts.append(f"{_parameters_text(record.parameters)} parameters")
    if record.bytes is not None:
        parts.append(bytes_text(record.bytes))
    return ", ".join(parts)


def _parameters_text(count: int) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return count_text(count)


def short_digest(digest: str | None, *, keep: int = 12) -> str:
    """`sha256:` and the first `keep` hex digits; empty where there is no digest."""
    if not digest:
        return ""
    algorithm, _, value = digest.rpartition(":")
    return f"{algorithm}:{value[:keep]}" if algorithm else value[:keep]


def reproduce_command(comparison: Comparison) -> str:
    """The command that makes this comparison again, from the record alone."""
    options = comparison.options
    words = ["pedigree", "compare", comparison.inputs.a.location, comparison.inputs.b.location]
    for decoy in options.get("decoys") or ():
        words += ["--decoy", str(decoy)]
    if options.get("depth") in DEPTHS:
        words += ["--depth", str(options["depth"])]
    if options.get("budget_bytes"):
        words += ["--budget", f"{options['budget_bytes']}B"]
    if options.get("allow_pickle"):
        words.append("--allow-pickle")
    if comparison.annex is not None:
        words.append("--annex")
    return shlex.join([*words, "--json"])
