"""How many tokens a text costs, by unit: the measure behind audits, comparisons and reports of growth.

The unit is bytes of UTF-8 per token (more is shorter), or tokens per byte (the cost). Parity is the number of tokens of
a language over that of English for the same sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.texts import Text

Progress = Callable[[str, float, str], None]
Counts = npt.NDArray[np.int64]
BATCH_CHARACTERS = 2_000_000


@dataclass(frozen=True, eq=False)
class Measured:
    """One text under one tokenizer.

    Attributes:
        text: what was encoded.
        tokens: tokens of each unit.
        bytes: bytes of each unit.
        uses: how often each token number occurs.
    """

    text: Text
    tokens: Counts
    bytes: Counts
    uses: Counts

    @property
    def bytes_per_token(self) -> float:
        """Mean length of a token in this text."""
        return float(self.bytes.sum() / max(1, self.tokens.sum()))

    @property
    def tokens_per_byte(self) -> float:
        """What a byte of this text costs."""
        return float(self.tokens.sum() / max(1, self.bytes.sum()))


def measure(encoder: Encoder, texts: Sequence[Text], progress: Progress | None = None) -> list[Measured]:
    """Every text, encoded unit by unit."""
    total = sum(len(unit) for text in texts for unit in text.units) or 1
    done, found = 0, []
    for text in texts:
        tokens: list[int] = []
        uses = np.zeros(encoder.size, np.int64)
        for batch in _batches(text.units):
            encoded = encoder.encode_all(batch)
            tokens += map(len, encoded)
            flat = np.fromiter((number for unit in encoded for number in unit), np.int64)
            uses += np.bincount(flat, minlength=encoder.size)[: encoder.size]
            done += sum(map(len, batch))
            if progress is not None:
                progress(f"encoding with {encoder.name}", done / total, text.name)
        sizes = np.array([len(unit.encode()) for unit in text.units], np.int64)
        found.append(Measured(text, np.array(tokens, np.int64), sizes, uses))
    return found


def _batches(units: Sequence[str]) -> list[Sequence[str]]:
    """Runs of units of about equal size, so that progress shows and memory stays small."""
    batches, start, length = [], 0, 0
    for place, unit in enumerate(units):
        length += len(unit)
        if length >= BATCH_CHARACTERS:
            batches.append(units[start : place + 1])
            start, length = place + 1, 0
    return [*batches, units[start:]] if start < len(units) else batches


def parities(measured: Sequence[Measured]) -> list[float | None]:
    """For each text its tokens over those of the English text of its group; None without one."""
    english = {m.text.group: int(m.tokens.sum()) for m in measured if m.text.group and m.text.language in ("eng", "en")}
    return [
        float(m.tokens.sum() / english[m.text.group]) if m.text.group and english.get(m.text.group) else None
        for m in measured
    ]
