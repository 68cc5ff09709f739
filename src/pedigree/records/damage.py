"""The record of expected damage: what a surgery costs on texts, told before it is paid for.

Law     fields may be added, never renamed. Shares and bits are plain numbers; a measure that was not taken is None.
"""

from __future__ import annotations

from pydantic import Field

from pedigree.records.comparison import Record


class TextDamage(Record):
    """One text, before and after.

    Attributes:
        text: its name.
        bytes: its length in UTF-8.
        bytes_per_token_before, bytes_per_token_after: mean length of a token; larger is cheaper.
        copied_share: share of its tokens, cut by the new tokenizer, whose rows are copied; None without a swap.
        bits_per_byte_before, bits_per_byte_after: cost of the text for the old and the new model; None where the
            models were not run.
        kl: nats per token from the old to the new model, where both cut the text alike and were run.
    """

    text: str
    bytes: int
    bytes_per_token_before: float
    bytes_per_token_after: float
    copied_share: float | None = None
    bits_per_byte_before: float | None = None
    bits_per_byte_after: float | None = None
    kl: float | None = None


class Damage(Record):
    """What is expected of a surgery.

    Attributes:
        rows_copied, rows_made: tokens of the new vocabulary with an old row, and with a made one; None without a swap.
        controls_new: control tokens without a counterpart.
        texts: one entry for each probe text.
        measured: whether the result was made in a temporary place and run.
        why_not: why it was not.
    """

    rows_copied: int | None = None
    rows_made: int | None = None
    controls_new: list[str] = Field(default_factory=list)
    texts: list[TextDamage] = Field(default_factory=list)
    measured: bool = False
    why_not: str = ""
