"""The answers of `pedigree tokenizer ...` for a terminal: 25 lines of 100 columns at most, the verdict first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from pedigree.cli.output import Line, Span, shorten
from pedigree.records.tokenizer import (
    BeforeAndAfter,
    Compression,
    Ratio,
    TokenizerAudit,
    TokenizerComparison,
    TokenizerConcatenation,
    TokenizerExtension,
    TokenizerInput,
    TokenizerTraining,
    TokenList,
)
from pedigree.report.plain_text import printable

MAX_LINES = 25
LABEL = 18


def fitted(head: Sequence[Line], table: Sequence[Line], tail: Sequence[Line]) -> list[Line]:
    """Head, as much of the table as fits, tail."""
    room = MAX_LINES - len(head) - len(tail)
    shown = list(table)
    if len(shown) > room:
        shown = [*shown[: max(0, room - 1)], labeled("", f"and {len(shown) - room + 1} more (--json has all)")]
    return [*head, *shown, *tail][:MAX_LINES]


def labeled(label: str, text: str, style: str = "") -> Line:
    """A label and its words on one line."""
    return (Span(f"{label:<{LABEL}}", "bold"), Span(shorten(text, 100 - LABEL), style))


def wrapped(label: str, text: str, most: int = 2) -> list[Line]:
    """A label and its words on as many lines as allowed."""
    lines = textwrap.wrap(printable(text), 100 - LABEL, break_on_hyphens=False) or [""]
    if len(lines) > most:
        lines = [*lines[: most - 1], shorten(lines[most - 1] + " ...", 100 - LABEL)]
    return [labeled(label if n == 0 else "", line) for n, line in enumerate(lines)]


def sentences(said: Iterable[str]) -> list[Line]:
    """The verdict, each sentence on a line of its own, or two."""
    return [line for n, sentence in enumerate(said) for line in wrapped("verdict" if n == 0 else "", sentence)]


def about(label: str, tokenizer: TokenizerInput) -> Line:
    """A tokenizer in one line."""
    return labeled(label, f"{tokenizer.name}: {tokenizer.kind}, {tokenizer.tokens:,} tokens, {tokenizer.digest[:19]}")


def row(*cells: str) -> Line:
    """A line of a table: a name, then numbers to the right."""
    return (Span(f"{shorten(cells[0], 24):<24}" + "".join(f"{cell:>15}" for cell in cells[1:])),)


def compression_table(rows: Sequence[Compression]) -> list[Line]:
    """What texts cost, the dearest first."""
    if not rows:
        return []
    lines: list[Line] = [row("text", "bytes", "tokens", "bytes/token", "tokens/byte", "over English")]
    for one in sorted(rows, key=lambda one: -one.tokens_per_byte):
        parity = "" if one.parity is None else f"{one.parity:.2f}"
        numbers = (f"{one.bytes:,}", f"{one.tokens:,}", f"{one.bytes_per_token:.3f}", f"{one.tokens_per_byte:.4f}")
        lines.append(row(one.text, *numbers, parity))
    return lines


def listed(tokens: TokenList, most: int = 8) -> str:
    """How many, and the first of them."""
    if not tokens.count:
        return "none"
    whole = [token for token in tokens.tokens if "\ufffd" not in token.surface] or tokens.tokens
    shown = ", ".join(repr(token.surface) for token in whole[:most])
    return f"{tokens.count:,}: {shown}"


def audit_lines(record: TokenizerAudit) -> list[Line]:
    """The answer of `audit`."""
    result, spelling = record.result, record.result.spelling
    head = [about("tokenizer", record.tokenizer), *sentences(result.verdict)]
    digits = f"up to {spelling.longest_digits} in a token; 1234567 is {' | '.join(spelling.number_split)}"
    chinese = f"{spelling.han_whole:.1%} of 20,902 characters are one token; {spelling.han_words:,} tokens hold several"
    candidates = result.under_trained_candidates
    losses = "; ".join(f"{loss.case} ({loss.note})" for loss in result.round_trip_losses)
    tail = [
        labeled("digits", digits),
        labeled("spaces", f"up to {spelling.longest_spaces} in a token"),
        labeled("Chinese", chinese),
        labeled("unreachable", listed(result.unreachable)),
        labeled("passed through", listed(candidates) if candidates else "no text was given"),
        labeled("known glitches", listed(result.glitch)),
        *wrapped("round trip", losses or "nothing is lost"),
        *wrapped("not checked", "; ".join(result.not_checked)),
    ]
    return fitted(head, compression_table(result.compression), tail)


def training_lines(record: TokenizerTraining) -> list[Line]:
    """The answer of `train`."""
    head = [about("trained", record.tokenizer)]
    return fitted(head, compression_table(record.compression), [labeled("written", ", ".join(record.files))])


def ratio_row(ratio: Ratio) -> Line:
    """A ratio with its interval and what it says."""
    interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    return row(ratio.text or "all together", f"{ratio.ratio:.3f}", interval, ratio.verdict)


def comparison_lines(record: TokenizerComparison) -> list[Line]:
    """The answer of `compare`: for two tokenizers by text, for more by pair."""
    result = record.result
    head = [*(about("tokenizer" if n == 0 else "", t) for n, t in enumerate(record.tokenizers[:5]))]
    table: list[Line] = []
    if len(record.tokenizers) == 2:
        head += [wrapped_line for said in result.verdict for wrapped_line in wrapped("verdict", said)]
        table.append(row("text", "ratio", "95 % interval", "the first is"))
        table += [ratio_row(ratio) for ratio in sorted(result.ratios, key=lambda ratio: ratio.ratio)]
    else:
        table += sentences(result.verdict)
    tail = [
        labeled("overlap" if n == 0 else "", f"{o.a}, {o.b}: {o.shared:,} shared of {o.of_a:,} and {o.of_b:,}")
        for n, o in enumerate(result.overlap[:6])
    ]
    method = f"paired bootstrap over units, {result.draws:,} draws; up to {result.margin:.1%} counts as no difference"
    return fitted(head, table, [*tail, labeled("method", method)])


def growth_table(rows: Sequence[BeforeAndAfter]) -> list[Line]:
    """Texts before and after."""
    if not rows:
        return []
    lines: list[Line] = [row("text", "tokens before", "after", "bytes/token", "after", "change")]
    for one in rows:
        before, after = one.before, one.after
        change = f"{after.tokens / max(1, before.tokens) - 1:+.1%}"
        lengths = (f"{before.bytes_per_token:.3f}", f"{after.bytes_per_token:.3f}")
        lines.append(row(one.text, f"{before.tokens:,}", f"{after.tokens:,}", *lengths, change))
    return lines


def extension_lines(record: TokenizerExtension) -> list[Line]:
    """The answer of `extend`."""
    result = record.result
    made = (
        f"{result.merges:,} learned, {result.characters:,} characters, {result.whole_tokens:,} whole tokens"
        f" ({result.on_the_way:,} parts for them), {result.specials:,} controls"
    )
    examples = ", ".join(repr(token.surface) for token in result.examples if "\ufffd" not in token.surface)
    head = [about("base", record.base), about("grown", record.tokenizer), *sentences(result.verdict)]
    tail = [
        labeled("added", made),
        *wrapped("such as", examples),
        labeled("unreachable", listed(result.unreachable_added)),
        labeled("written", ", ".join(record.files)),
    ]
    return fitted(head, growth_table(result.texts), tail)


def concatenation_lines(record: TokenizerConcatenation) -> list[Line]:
    """The answer of `concat`."""
    result = record.result
    head = [about("A", record.a), about("B", record.b), about("joined", record.tokenizer), *sentences(result.verdict)]
    merges = f"{result.merges_from_a:,} of A, {result.merges_from_b:,} of B, {result.merges_made_up:,} made up"
    table = []
    for kind, count in ((kind, count) for kind, count in result.conflicts.items() if count):
        shown = result.examples.get(kind, [])
        first = next((c for c in shown if c.surface is not None), shown[0] if shown else None)
        about_it = "" if first is None else (f"{first.surface!r}: " if first.surface is not None else "") + first.detail
        table.append(labeled(kind[: LABEL - 1], f"{count:>7,}  {about_it}"))
    tail = [labeled("merges", merges), labeled("written", ", ".join(record.files))]
    return fitted(head, table, tail)
