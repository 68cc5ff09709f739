"""Text from tokens as they come: whole characters only, and nothing of a stop string.

Laws
1. Every piece is whole: bytes that begin a character wait for its other bytes, and are dropped if those never come.
2. Bytes that can be no character become U+FFFD, as they would all at once.
3. Text that may be the beginning of a stop string waits until it is known to be none; a stop string is never shown.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from pedigree.tokenizers.encoder import Encoder


class IncrementalText:
    """The text of one answer, token by token.

    Args:
        encoder: the tokenizer; control tokens and numbers without a token are no text.
        stop: strings that end the answer.
    """

    def __init__(self, encoder: Encoder, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        """Whether a stop string was met; what comes later is no part of the answer."""
        self._surfaces, self._stop = encoder.surfaces, tuple(text for text in stop if text)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, number: int) -> str:
        """What is certain after one more token; often nothing."""
        surface = self._surfaces[number] if 0 <= number < len(self._surfaces) else None
        if self.stopped or not surface:
            return ""
        self._held += self._decoder.decode(surface)
        found = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            said, self._held = self._held[: min(found)], ""
            return said
        waiting = self._waiting()
        said, self._held = self._held[: len(self._held) - waiting], self._held[len(self._held) - waiting :]
        return said

    def finish(self) -> str:
        """What was waiting, once no more tokens come."""
        said, self._held = self._held, ""
        return said

    def _waiting(self) -> int:
        """Characters at the end with which a stop string may begin."""
        longest = 0
        for text in self._stop:
            for size in range(min(len(text) - 1, len(self._held)), longest, -1):
                if self._held.endswith(text[:size]):
                    longest = size
                    break
        return longest
