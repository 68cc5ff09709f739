"""Chat templates: a conversation as the token numbers that a model was taught to read.

A template comes with the model, from anybody. It is rendered in another process (`pedigree.tokenizers.template_worker`)
with bounds on time, memory and size.

Law: what is said in a message is text. A message that spells a control token is encoded letter by letter; only what
the template itself writes becomes a control. For this, a mark that occurs nowhere else is put into every such spelling
before rendering, and taken out again behind it.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from pedigree.errors import InternalError, MalformedFile, MissingInput, PedigreeError, UnsafeFile, UsageError
from pedigree.tokenizers import template_worker
from pedigree.tokenizers.companions import config_beside
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reading import read_capped
from pedigree.tokenizers.tokenizer_json import parse_json, text_of

MAX_TEMPLATE_BYTES = 1_000_000
MAX_CONFIG_BYTES = 64_000_000
SECONDS = 5.0  # to render one conversation
START_SECONDS = 60.0  # to start the process
_MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # noncharacters: no text means anything by them
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Message:
    """One contribution to a conversation."""

    role: str
    content: str


class TemplateProcess:
    """The other process: started when first needed, ended and started anew when a template does not end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def render(self, source: str, variables: dict[str, Any], seconds: float) -> dict[str, str]:
        """What `template_worker.render` gives; `{"error": "endless"}` where it takes longer than so many seconds.

        Raises:
            InternalError: the process does not start.
        """
        with self._lock:
            try:
                connection = self._connected()
                connection.send_bytes(
                    json.dumps({"source": source, "variables": variables, "seconds": seconds}).encode()
                )
                if connection.poll(seconds):
                    return dict(json.loads(connection.recv_bytes(6 * template_worker.MAX_TEXT + 10_000)))
            except (EOFError, OSError):
                self.close()
                return {"error": "large", "message": "the process that rendered it has ended"}
            except BaseException:
                self.close()  # an answer that nobody waits for must not be taken for the next one
                raise
            self.close()
            return {"error": "endless", "message": f"more than {seconds:g} seconds"}

    def _connected(self) -> Connection:
        if self._connection is not None and self._process is not None and self._process.is_alive():
            return self._connection
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=template_worker.work, args=(theirs,), daemon=True)
        process.start()
        self._process = process
        theirs.close()
        try:
            if self._connection.poll(START_SECONDS):
                self._connection.recv_bytes(16)
                return self._connection
        except (EOFError, OSError):
            pass  # it has ended: said below
        raise InternalError(
            "the process that renders chat templates did not start",
            fix="a script that uses them needs `if __name__ == '__main__':` around what it does",
        )

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


class ChatTemplate:
    """The template of one model.

    Args:
        source: the template, in jinja2.
        encoder: the tokenizer of the model.
        tokens: spellings by role (`bos_token` and the like), which templates may use.
        where: the file, for errors.
        seconds: bound on the time of rendering.
    """

    def __init__(
        self, source: str, encoder: Encoder, tokens: dict[str, str], *, where: str, seconds: float = SECONDS
    ) -> None:
        self.source, self.encoder, self.tokens, self.where, self.seconds = source, encoder, tokens, where, seconds
        self._controls = {str(encoder.spellings[number]): number for number in sorted(encoder.specials)}
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._process = TemplateProcess()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token numbers of a conversation, up to where the model's answer begins.

        Raises:
            UsageError: the template refuses the conversation.
            UnsafeFile: the template reaches for what it must not, or does not end.
            MalformedFile: it is no template.
        """
        mark = next((m for m in _MARKS if not any(m in message.content for message in messages)), None)
        if mark is None:
            raise UsageError("a message holds every noncharacter there is", expected="text")
        marked = [{"role": m.role, "content": self._marked(m.content, mark)} for m in messages]
        return self._encoded(self._rendered(marked), mark)

    def close(self) -> None:
        """End the process in which it is rendered."""
        self._process.close()

    def _marked(self, content: str, mark: str) -> str:
        """A mark behind the first letter of every control that is spelled, and behind what could begin one."""
        content = self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], content)
        begun = max((n for spelled in self._controls for n in range(1, len(spelled)) if content.endswith(spelled[:n])),
                    default=0)  # fmt: skip
        return content + mark if begun else content

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        variables = {**self.tokens, "messages": messages, "add_generation_prompt": True, "tools": None,
                     "documents": None}  # fmt: skip
        done = self._process.render(self.source, variables, self.seconds)
        if "text" in done:
            return done["text"]
        said = done.get("message", "")
        raise {
            "refused": UsageError("the chat template refuses this conversation", got=said),
            "malformed": MalformedFile("the chat template does not work", where=self.where, got=said),
            "unsafe": UnsafeFile("the chat template reaches for what it must not", where=self.where, got=said),
            "large": UnsafeFile("the chat template makes too much of a conversation", where=self.where, got=said),
            "endless": UnsafeFile("the chat template does not end", where=self.where, got=said),
        }[done["error"]]  # fmt: skip

    def _encoded(self, text: str, mark: str) -> list[int]:
        numbers: list[int] = []
        place = 0
        for found in self._pattern.finditer(text):
            numbers += self._text(text[place : found.start()], mark)
            numbers.append(self._controls[found[0]])
            place = found.end()
        return numbers + self._text(text[place:], mark)

    def _text(self, text: str, mark: str) -> list[int]:
        plain = text.replace(mark, "")
        return self.encoder.encode(plain) if plain else []


def role_tokens(folder: Path) -> dict[str, str]:
    """Spellings of the control tokens to which tokenizer_config.json gives a role."""
    found = config_beside(str(folder / "tokenizer.json"))
    return {role: found[role] for role in _ROLES if isinstance(found.get(role), str)}


def read_chat_template(folder: Path, encoder: Encoder) -> ChatTemplate | None:
    """The template of a model directory: chat_template.jinja, or in tokenizer_config.json; None where there is none.

    Raises:
        MalformedFile: a file is too large, not UTF-8 or not JSON.
    """
    file = folder / "chat_template.jinja"
    source: object = None
    try:
        source = text_of(read_capped(file, MAX_TEMPLATE_BYTES), str(file))
    except MissingInput:
        file = folder / "tokenizer_config.json"
        if file.is_file():
            source = _default(parse_json(read_capped(file, MAX_CONFIG_BYTES), str(file)).get("chat_template"))
    if not isinstance(source, str) or not source.strip():
        return None
    if len(source) > MAX_TEMPLATE_BYTES:
        raise MalformedFile("the chat template is too large", where=str(file), got=f"{len(source):,} characters")
    return ChatTemplate(source, encoder, role_tokens(folder), where=str(file))


def _default(value: object) -> object:
    """Of several named templates the one called default."""
    if not isinstance(value, list):
        return value
    named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
    return named.get("default")


def is_fault_of_the_template(error: PedigreeError) -> bool:
    """Whether the model's files, or we, are to blame rather than what was said."""
    return isinstance(error, MalformedFile | UnsafeFile | InternalError)
