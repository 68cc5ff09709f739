"""Audit: what a tokenizer costs by language and domain, what it loses, and which of its tokens are of no use.

Every list is computed from the tokenizer and the texts given; the verdict is a few sentences that repeat the numbers.
Weights are not looked at: tokens are candidates for being under-trained, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

from pedigree.records.comparison import Producer
from pedigree.records.tokenizer import (
    AuditResult,
    Compression,
    LossRecord,
    SpellingRecord,
    TextInput,
    TokenizerAudit,
    TokenizerInput,
    TokenList,
    TokenRecord,
)
from pedigree.tokenizers.compression import Measured, Progress, measure, parities
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.hostile_texts import HOSTILE, lost_texts
from pedigree.tokenizers.rare_tokens import RareTokens, glitch_tokens, rare_tokens
from pedigree.tokenizers.reachability import Reachability, reachability
from pedigree.tokenizers.spelling_facts import SpellingFacts, spelling_facts
from pedigree.tokenizers.texts import Text

LISTED = 200  # tokens of one kind in a record


def audit(
    encoder: Encoder, texts: Sequence[Text] = (), *, progress: Progress | None = None, producer: Producer | None = None
) -> TokenizerAudit:
    """Audit one tokenizer.

    Args:
        texts: what to measure compression and use on; without any, only the tokenizer itself is looked at.
        progress: called with stage, share done and message.
        producer: what writes the record.
    """
    if progress is not None:
        progress("encoding every token again", 0.0, encoder.name)
    reached = reachability(encoder)
    measured = measure(encoder, texts, progress)
    rare = rare_tokens(encoder, measured, {u.number for u in reached.unreachable}) if texts else None
    losses = lost_texts(encoder)
    facts = spelling_facts(encoder)
    units, corpus_losses = _corpus_losses(encoder, texts, progress)
    rows = compression_records(measured)
    result = AuditResult(
        verdict=_verdict(encoder, rows, reached, rare, facts, len(losses)),
        compression=rows,
        spelling=spelling_record(facts),
        made=reached.made,
        partial=len(reached.part),
        never_in_utf8=len(reached.never_utf8),
        shadowed_bytes=len(reached.shadowed),
        whole_words_only=token_list(encoder, reached.whole_words_only),
        unreachable=unreachable_list(encoder, reached),
        seen=rare.seen if rare else None,
        never_seen=token_list(encoder, rare.never_seen) if rare else None,
        under_trained_candidates=token_list(encoder, [n for n, _ in rare.scaffold], dict(rare.scaffold))
        if rare
        else None,
        glitch=token_list(encoder, rare.glitch if rare else glitch_tokens(encoder)),
        round_trip_cases=len(HOSTILE),
        round_trip_losses=[LossRecord(case=x.case, given=x.given, returned=x.returned, note=x.note) for x in losses],
        corpus_units=units,
        corpus_losses=corpus_losses,
        not_checked=_not_checked(encoder, texts),
    )
    return TokenizerAudit(
        producer=producer or Producer(),
        tokenizer=tokenizer_input(encoder),
        texts=[text_input(text) for text in texts],
        result=result,
    )


def _corpus_losses(encoder: Encoder, texts: Sequence[Text], progress: Progress | None) -> tuple[int, int]:
    """Units of the texts, and those that do not come back."""
    units = lost = 0
    for place, text in enumerate(texts):
        if progress is not None:
            progress("decoding again", place / len(texts), text.name)
        back = encoder.decode_all(encoder.encode_all(text.units))
        units += len(text.units)
        lost += sum(a != b for a, b in zip(text.units, back, strict=True))
    return units, lost


def tokenizer_input(encoder: Encoder) -> TokenizerInput:
    """The tokenizer as a record names it."""
    return TokenizerInput(
        name=encoder.name, location=encoder.location, format=encoder.format, kind=encoder.kind, tokens=encoder.size,
        digest=encoder.digest, notes=list(encoder.notes),
    )  # fmt: skip


def text_input(text: Text) -> TextInput:
    """The text as a record names it."""
    size = sum(len(unit.encode()) for unit in text.units)
    return TextInput(
        name=text.name, location=text.location, bytes=size, units=len(text.units), unit=text.unit, group=text.group
    )


def compression_records(measured: Sequence[Measured]) -> list[Compression]:
    """One row for each text."""
    return [
        Compression(
            text=m.text.name, language=m.text.language, domain=m.text.domain, bytes=int(m.bytes.sum()),
            characters=sum(map(len, m.text.units)), tokens=int(m.tokens.sum()), bytes_per_token=m.bytes_per_token,
            tokens_per_byte=m.tokens_per_byte, parity=parity,
        )
        for m, parity in zip(measured, parities(measured), strict=True)
    ]  # fmt: skip


def spelling_record(facts: SpellingFacts) -> SpellingRecord:
    """Digits, spaces and Chinese as a record."""
    return SpellingRecord(
        longest_digits=facts.longest_digits, short_numbers_whole=facts.short_numbers_whole,
        number_split=facts.number_split, longest_spaces=facts.longest_spaces,
        spaces_before_words=facts.spaces_before_words, han_whole=facts.han_whole, han_words=facts.han_words,
        tokens_per_other_han=facts.letters_cost, one_character=facts.one_character,
    )  # fmt: skip


def surface_text(encoder: Encoder, number: int) -> str:
    """A token's surface as text, its spelling where it stands for none."""
    surface = encoder.surfaces[number]
    return str(encoder.spellings[number]) if surface is None else surface.decode("utf-8", "replace")


def token_list(encoder: Encoder, numbers: Sequence[int], times: dict[int, int] | None = None) -> TokenList:
    """Tokens as a record lists them, at most the first `LISTED`."""
    tokens = [
        TokenRecord(number=n, surface=surface_text(encoder, n), times=None if times is None else times[n])
        for n in numbers[:LISTED]
    ]
    return TokenList(count=len(numbers), complete=len(numbers) <= LISTED, tokens=tokens)


def unreachable_list(encoder: Encoder, reached: Reachability) -> TokenList:
    """Unreachable tokens with the reason and what their text becomes."""
    found = reached.unreachable
    tokens = [
        TokenRecord(number=u.number, surface=surface_text(encoder, u.number), why=u.why, becomes=list(u.becomes))
        for u in found[:LISTED]
    ]
    return TokenList(count=len(found), complete=len(found) <= LISTED, tokens=tokens)


def _not_checked(encoder: Encoder, texts: Sequence[Text]) -> list[str]:
    missing = ["embedding norms (they need the weights)"]
    if not encoder.merges:
        missing.append("tokens that are only passed through (only merges have such)")
    if not texts:
        missing.append("compression and use (no text was given)")
    elif not any(text.group for text in texts):
        missing.append("parity between languages (no parallel sentences were given)")
    return missing


def _verdict(
    encoder: Encoder,
    rows: Sequence[Compression],
    reached: Reachability,
    rare: RareTokens | None,
    facts: SpellingFacts,
    n_losses: int,
) -> list[str]:
    """Sentences, the costliest facts first."""
    said = []
    parallel = [row for row in rows if row.parity is not None]
    if len(parallel) > 1:
        dear = max(parallel, key=lambda row: row.parity or 0)
        cheap = min(parallel, key=lambda row: row.parity or 0)
        said.append(
            f"the same sentences cost {dear.parity:.2f} times the tokens of English in {dear.language}"
            f" and {cheap.parity:.2f} times in {cheap.language}"
        )
    elif len(rows) > 1:
        dear, cheap = max(rows, key=lambda r: r.tokens_per_byte), min(rows, key=lambda r: r.tokens_per_byte)
        said.append(
            f"a byte costs {dear.tokens_per_byte:.3f} tokens in {dear.text}"
            f" and {cheap.tokens_per_byte:.3f} in {cheap.text}"
        )
    if facts.one_character:
        said.append("every digit, every space and every Chinese character is a token of its own")
    unreachable = len(reached.unreachable)
    share = unreachable / encoder.size
    said.append(
        f"{unreachable:,} tokens ({share:.1%}) cannot be produced" if unreachable else "every token can be produced"
    )
    if rare is not None:
        said.append(
            f"{len(rare.never_seen):,} of {encoder.size:,} tokens never occur in these texts,"
            f" {len(rare.scaffold):,} of them are only passed through"
        )
    said.append(
        f"{n_losses} of {len(HOSTILE)} hostile texts do not come back"
        if n_losses
        else f"all {len(HOSTILE)} hostile texts come back unchanged"
    )
    return said
