"""What an extension did: what was added, whether all of it can be produced, and what texts cost before and after."""

from __future__ import annotations

from collections.abc import Sequence

from pedigree.records.comparison import Producer
from pedigree.records.tokenizer import (
    BeforeAndAfter,
    ExtensionResult,
    TokenizerExtension,
    TokenList,
    TokenRecord,
)
from pedigree.tokenizers.audit import LISTED, compression_records, surface_text, text_input, tokenizer_input
from pedigree.tokenizers.compression import Progress, measure
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.extension import Extended, ExtensionOptions
from pedigree.tokenizers.hostile_texts import lost_texts
from pedigree.tokenizers.reachability import reachability
from pedigree.tokenizers.texts import Text

EXAMPLES = 24


def extension_record(
    base: Encoder,
    grown: Extended,
    texts: Sequence[Text],
    options: ExtensionOptions,
    *,
    progress: Progress | None = None,
    producer: Producer | None = None,
) -> TokenizerExtension:
    """The record of an extension, measured on the given texts (those it learned from, and others)."""
    encoder = grown.encoder
    new = range(base.size, encoder.size)
    dead = reachability(encoder, new).unreachable
    listed = [
        TokenRecord(number=u.number, surface=surface_text(encoder, u.number), why=u.why, becomes=list(u.becomes))
        for u in dead[:LISTED]
    ]
    old, now = measure(base, texts, progress), measure(encoder, texts, progress)
    rows = [
        BeforeAndAfter(text=before.text, before=before, after=after)
        for before, after in zip(compression_records(old), compression_records(now), strict=True)
    ]
    same = [measured.text.name for measured in now if not measured.uses[base.size :].any()]
    lost = len(lost_texts(base)), len(lost_texts(encoder))
    result = ExtensionResult(
        added=len(new),
        characters=len(grown.characters),
        merges=len(grown.merges),
        whole_tokens=len(grown.whole),
        on_the_way=len(grown.on_the_way),
        specials=len(grown.specials),
        first_new=base.size,
        unreachable_added=TokenList(count=len(dead), complete=len(dead) <= LISTED, tokens=listed),
        examples=[TokenRecord(number=n, surface=surface_text(encoder, n)) for n in _spread(new)],
        texts=rows,
        round_trip_losses_before=lost[0],
        round_trip_losses_after=lost[1],
        verdict=_verdict(len(new), len(dead), rows, same, lost),
    )
    return TokenizerExtension(
        producer=producer or Producer(),
        base=tokenizer_input(base),
        tokenizer=tokenizer_input(encoder),
        texts=[text_input(text) for text in texts],
        options={
            "add": options.add, "tokens": list(options.tokens), "specials": list(options.specials),
            "min_frequency": options.min_frequency, "longest": options.longest,
        },
        result=result,
    )  # fmt: skip


def _spread(numbers: range) -> list[int]:
    """A few numbers from the whole range."""
    step = max(1, len(numbers) // EXAMPLES)
    return list(numbers[::step][:EXAMPLES])


def _verdict(
    added: int, dead: int, rows: Sequence[BeforeAndAfter], same: Sequence[str], lost: tuple[int, int]
) -> list[str]:
    said = [f"{added:,} tokens were added behind the old ones, which stand as they were"]
    said.append(f"{dead:,} of the new tokens cannot be produced" if dead else "every new token can be produced")
    gains = [(row.after.bytes_per_token / row.before.bytes_per_token, row) for row in rows]
    if gains:
        most, row = max(gains, key=lambda pair: pair[0])
        said.append(
            f"{row.text} gains most: {row.before.bytes_per_token:.3f} -> {row.after.bytes_per_token:.3f}"
            f" bytes per token ({most - 1:+.1%})"
        )
        if same:
            said.append(f"no new token is used in {', '.join(same)}")
    if lost[1] > lost[0]:
        said.append(f"{lost[1] - lost[0]} hostile texts no longer come back")
    else:
        said.append("every hostile text that came back before still does")
    return said
