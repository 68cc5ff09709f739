"""The answers of `pedigree tokenizer ...` for a terminal: 25 lines of 100 columns at most, the verdict first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from pedigree.cli.output import Line, Span, shorten
from pedigree.records.tokenizer import (
    Compression,
    TokenizerAudit,
    TokenizerInput,
    TokenizerTraining,
    TokenList,
)
from pedigree.report.plain_text import printable

MAX_LINES = 25
LABEL = 15


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
    """The verdict, one sentence a line."""
    return [labeled("verdict" if n == 0 else "", sentence, "bold") for n, sentence in enumerate(said)]


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
