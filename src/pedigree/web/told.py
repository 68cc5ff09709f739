"""What the server says, in the shapes of OpenAI's API: answers, pieces of answers, errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pedigree.web.asked import RequestError
from pedigree.web.speaker import Generation


@dataclass(frozen=True)
class Envelope:
    """What all parts of one answer share.

    Attributes:
        number: its identifier.
        created: seconds since 1970.
        model: name of the model.
        chat: whether it answers a conversation, or continues a text.
    """

    number: str
    created: int
    model: str
    chat: bool

    def whole(self, text: str, generation: Generation) -> dict[str, Any]:
        """An answer that is not streamed."""
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": generation.finish_reason}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": usage(generation)}

    def opening(self) -> dict[str, Any] | None:
        """The first event of a streamed conversation: who speaks."""
        return self._piece({"delta": {"role": "assistant", "content": ""}}, None) if self.chat else None

    def piece(self, text: str) -> dict[str, Any]:
        """An event with a piece of text."""
        return self._piece({"delta": {"content": text}} if self.chat else {"text": text}, None)

    def closing(self, generation: Generation) -> dict[str, Any]:
        """The event that says why the answer ended."""
        return self._piece({"delta": {}} if self.chat else {"text": ""}, generation.finish_reason)

    def counts(self, generation: Generation) -> dict[str, Any]:
        """The event with the counts, for those who ask for it."""
        return {**self._head(self._chunk), "choices": [], "usage": usage(generation)}

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.number, "object": kind, "created": self.created, "model": self.model}

    def _piece(self, said: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return {**self._head(self._chunk), "choices": [choice]}


def usage(generation: Generation) -> dict[str, int]:
    """Counts of tokens."""
    read, drawn = generation.prompt_tokens, generation.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}


def event(content: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def error_body(error: RequestError) -> dict[str, Any]:
    """The one shape of an error."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
